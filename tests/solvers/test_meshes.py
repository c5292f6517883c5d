"""Tests of solvers on two devices, where the types of all loop carries must match."""

import pathlib

import pytest

from tests.several_devices import report_of


@pytest.mark.slow
def test_shard_map_and_explicit_meshes():
  report = report_of(pathlib.Path(__file__).with_name("mesh_check.py"), devices=2, seconds=900)
  for name, error in report["errors"].items():
    # With a tolerance, each device stops for its own signals, a few iterations earlier or later.
    stops = any(word in name for word in ("tolerance", "adaptive", "implicit"))
    assert error < (1e-4 if stops else 1e-9), (name, error)
