"""Solvers on two devices: loops that start from the types that their bodies give back."""

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
    [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=500
  )
  assert done.returncode == 0, done.stderr
  report = json.loads(done.stdout)
  assert report["devices"] == 2
  for name, error in report["errors"].items():
    # To a tolerance each device stops for its own signals, a few iterations before or after.
    assert error < (1e-4 if "tolerance" in name or "adaptive" in name else 1e-9), (name, error)
