"""Several devices against one, in a process with forced host devices."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from cscjax.training import create_mesh


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_several_devices_train_like_one_unless_statistics_are_each_devices_own(devices):
  environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
  environment["JAX_PLATFORMS"] = "cpu"
  script = pathlib.Path(__file__).with_name("parallel_check.py")
  done = subprocess.run(
    [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=500
  )
  assert done.returncode == 0, done.stderr
  report = json.loads(done.stdout)
  assert report["devices"] == devices
  assert report["global"] < 2e-3  # 8 steps in float32; relative to 1e-3 + |value|
  assert report["res_csc"] < 2e-3
  assert report["ml_csc"] < 2e-3
  assert devices == 1 or report["device"] > 10 * report["global"]
  assert report["finite"]
  assert report["count"] == [70, 70, 70]  # each example is counted once


def test_unknown_mode_is_named():
  with pytest.raises(ValueError, match=r"parallel.*auto, jit, pmap"):
    create_mesh("tpu")


def test_one_device_needs_no_mesh():
  assert create_mesh("jit") is None
  assert create_mesh("auto") is None
