"""Tests of solvers on two devices, where the types of all loop carries must match."""

import pathlib

import pytest

from tests.several_devices import report_of


@pytest.mark.slow
def test_shard_map_and_explicit_meshes():
  report = report_of(pathlib.Path(__file__).with_name("mesh_check.py"), devices=2)
  for name, error in report["errors"].items():
    # With a tolerance, each device stops for its own signals, a few iterations earlier or later.
    assert error < (1e-4 if "tolerance" in name or "adaptive" in name else 1e-9), (name, error)
