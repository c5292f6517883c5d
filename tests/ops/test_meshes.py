"""The maps of a convolution on two devices: the types that `jax.shard_map` and explicit meshes check."""

import json
import os
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_shard_map_and_explicit_meshes():
  environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
  environment["JAX_PLATFORMS"] = "cpu"
  script = pathlib.Path(__file__).with_name("mesh_check.py")
  done = subprocess.run(
    [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, done.stderr
  report = json.loads(done.stdout)
  assert report["devices"] == 2
  assert max(report["errors"].values()) < 1e-12, report["errors"]
  # A result that differs from device to device is no replicated one, as for a product of JAX's own.
  assert report["refused"] == [True, True]
