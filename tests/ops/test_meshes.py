"""The maps of a convolution on two devices: the types that `jax.shard_map` and explicit meshes check."""

import pathlib

import pytest

from tests.several_devices import report_of


@pytest.mark.slow
def test_shard_map_and_explicit_meshes():
  report = report_of(pathlib.Path(__file__).with_name("mesh_check.py"), devices=2)
  assert max(report["errors"].values()) < 1e-12, report["errors"]
  # A result that differs from device to device is no replicated one, as for a product of JAX's own.
  assert report["refused"] == [True, True]
