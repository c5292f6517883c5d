"""Learning from images that are sharded over several devices, or over two processes."""

import pathlib

import pytest

from tests.several_devices import report_of


@pytest.mark.slow
def test_four_devices_learn_what_one_device_learns():
  report = report_of(pathlib.Path(__file__).with_name("devices_check.py"), devices=4, seconds=1500)
  for name, error in report["errors"].items():
    assert error < 1e-5, (name, error)
  # Each of four devices encodes two of the eight images of a minibatch.
  assert report["codes"] == {"Auto": [2], "Explicit": [2]}
