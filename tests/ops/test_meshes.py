"""Tests the maps of a convolution on two devices, with `jax.shard_map` and with explicit meshes."""

import pathlib

import pytest

from tests.several_devices import report_of


@pytest.mark.slow
def test_shard_map_and_explicit_meshes():
  report = report_of(pathlib.Path(__file__).with_name("mesh_check.py"), devices=2)
  assert max(report["errors"].values()) < 1e-12, report["errors"]
  # JAX refuses to treat a result that varies over the devices as replicated, as it does for a product.
  assert report["refused"] == [True, True]
