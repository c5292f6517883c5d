"""The suite `convolutions`: both frameworks compute the same maps, and the rows are complete."""

import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import convolutions, rates
from experiments.benchmarks import training as training_suite

KEYS = {
  "suite",
  "case",
  "framework",
  "device",
  "precision",
  "batch",
  "seconds",
  "flops",
  "flops_per_second",
  "error",
  "times_pytorch",
}
CASE = "small_synthesis"
GEOMETRY = convolutions.Geometry(4, 3, 4, stride=2)


@pytest.fixture
def quick(monkeypatch):
  """A small case, timed in blocks of one step."""
  monkeypatch.setitem(convolutions.CASES, CASE, (GEOMETRY, "synthesis"))
  monkeypatch.setattr(training_suite, "BLOCK_SECONDS", 0.0)


@pytest.fixture
def pytorch():
  pytest.importorskip("torch")
  from experiments.benchmarks import pytorch_convolutions

  return pytorch_convolutions


def test_a_loop_repeats_the_map():
  arrays = convolutions.make_arrays(GEOMETRY, batch=2)
  program = convolutions.TimedMap(GEOMETRY, "analysis", arrays, "float32")
  functions, entry = program.loop.as_text().split("ENTRY")
  assert "convolution(" in functions  # the body of the loop is one of the functions
  assert "convolution(" not in entry
  np.testing.assert_array_equal(program.loop(program.arrays, np.int32(3)), program.result())
  np.testing.assert_array_equal(program.loop(program.arrays, np.int32(0)), 0)


@pytest.mark.parametrize("case", convolutions.CASES)
def test_both_frameworks_agree(pytorch, case):
  geometry, operation = convolutions.CASES[case]
  arrays = convolutions.make_arrays(geometry, batch=2)
  programs = (
    timed(geometry, operation, arrays, "float32") for timed in (convolutions.TimedMap, pytorch.TorchMap)
  )
  ours, theirs = (program.result() for program in programs)
  assert ours.shape == theirs.shape
  assert convolutions.distance(ours, theirs) < 1e-5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rows_of_both_frameworks(pytorch, quick, precision):
  found = list(convolutions.rows([CASE], 2, precision))
  assert [row["framework"] for row in found] == ["cscjax", "pytorch"]
  for row in found:
    assert row.keys() == KEYS
    assert (row["suite"], row["case"], row["precision"]) == ("convolutions", CASE, precision)
    assert row["flops"] == 2 * 2 * 4 * 9 * 3 * 4
    np.testing.assert_allclose(row["flops_per_second"] * row["seconds"], row["flops"])
    json.dumps(row)
  ours, theirs = found
  assert ours["error"] < (1e-5 if precision == "float32" else 2e-2)
  np.testing.assert_allclose(ours["times_pytorch"], ours["seconds"] / theirs["seconds"])
  assert (theirs["error"], theirs["times_pytorch"]) == (0, 1)
  assert convolutions.line(ours).endswith("x PyTorch's time")
  assert convolutions.line(theirs).endswith("GFLOP/s")


def test_rows_without_pytorch(quick, monkeypatch):
  monkeypatch.setattr(rates, "has_pytorch", lambda: False)
  (row,) = convolutions.rows([CASE], 2, "float32")
  assert row.keys() == KEYS
  assert row["device"] == jax.devices()[0].device_kind
  assert row["error"] is row["times_pytorch"] is None
  assert convolutions.line(row).startswith(CASE)


def test_pytorch_on_another_device_is_left_out(pytorch, quick, monkeypatch, capsys):
  from experiments.benchmarks import pytorch_training

  monkeypatch.setattr(pytorch_training, "ON_GPU", jax.default_backend() != "gpu")
  (row,) = convolutions.rows([CASE], 2, "float32")
  assert row["times_pytorch"] is None
  assert capsys.readouterr().err.startswith("PyTorch is skipped: PyTorch uses ")
