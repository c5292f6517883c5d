"""Several devices against one, in a process with forced host devices."""

import pathlib

import pytest

from cscjax.training import create_mesh
from tests.several_devices import report_of


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_several_devices_train_like_one_unless_statistics_are_each_devices_own(devices):
  report = report_of(pathlib.Path(__file__).with_name("parallel_check.py"), devices)
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
