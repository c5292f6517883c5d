"""Solvers on two devices: loops that start from the types that their bodies give back."""

import pathlib

import pytest

from tests.several_devices import report_of


@pytest.mark.slow
def test_shard_map_and_explicit_meshes():
  report = report_of(pathlib.Path(__file__).with_name("mesh_check.py"), devices=2)
  for name, error in report["errors"].items():
    # To a tolerance each device stops for its own signals, a few iterations before or after.
    assert error < (1e-4 if "tolerance" in name or "adaptive" in name else 1e-9), (name, error)
