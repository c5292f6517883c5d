"""Several devices against one, in a process with forced host devices."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from cscjax.training import create_mesh


@pytest.fixture(scope="module")
def report():
  environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
  environment["JAX_PLATFORMS"] = "cpu"
  script = pathlib.Path(__file__).with_name("parallel_check.py")
  done = subprocess.run(
    [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=500
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def test_four_devices_equal_one(report):
  assert report["devices"] == 4
  assert report["global"] < 2e-3  # 8 steps in float32; relative to 1e-3 + |value|


def test_statistics_of_each_device_are_another_network(report):
  assert report["device"] > 10 * report["global"]
  assert report["finite"]


def test_each_example_is_counted_once_however_many_devices(report):
  assert report["count"] == [70, 70, 70]


def test_unknown_mode_is_named():
  with pytest.raises(ValueError, match=r"parallel.*auto, jit, pmap"):
    create_mesh("tpu")


def test_one_device_needs_no_mesh():
  assert create_mesh("jit") is None
  assert create_mesh("auto") is None
