"""The suite `gpu`: its rows on a CPU with tiny networks, and with fake workers."""

import json

import pytest

from experiments import cli
from experiments.benchmarks import gpu, rates, training


class FakeWorker:
  """A worker with fixed answers, in which PyTorch does not finish MSDNet in time."""

  def __init__(self, make_answer, framework, backend):
    self.framework, self.requests = framework, []

  def send(self, request):
    self.requests.append(request)

  def receive(self, deadline):
    task = self.requests[-1]["task"]
    if task == "device":
      return {"backend": "gpu"}
    if task == "prepare":
      late = self.framework == "pytorch" and self.requests[-1]["fields"]["model"] == "msdnet"
      return {"error": "no answer within 80 s"} if late else {}
    seconds = {"cscjax": 0.002, "pytorch": 0.005}[self.framework]
    return {"mode": "m", "device": "d", "seconds": seconds, "compile_seconds": 1.0, "peak_bytes": 1}

  def close(self):
    self.requests = None


def test_rows_come_in_order_and_a_late_framework_is_an_error(monkeypatch):
  monkeypatch.setattr(gpu, "Worker", FakeWorker)
  monkeypatch.setattr(rates, "has_pytorch", lambda: True)
  rows = list(gpu.rows(["res_csc20_bfloat16", "msdnet6_bfloat16"], 128))
  assert [(row["case"], row["framework"], row["speedup"], row["error"]) for row in rows] == [
    ("res_csc20", "cscjax", None, None),
    ("res_csc20", "pytorch", 2.5, None),
    ("msdnet6", "cscjax", None, None),
    ("msdnet6", "pytorch", None, "no answer within 80 s"),
  ]
  assert len({tuple(row) for row in rows}) == 1  # the same columns
  assert rows[0]["images_per_second"] == 64_000
  assert gpu.line(rows[1]).endswith("2.50 x our time")
  assert gpu.line(rows[3]).endswith("no answer within 80 s")


def test_cases_beyond_the_time_limit_are_skipped(monkeypatch):
  monkeypatch.setattr(gpu, "Worker", FakeWorker)
  monkeypatch.setattr(rates, "has_pytorch", lambda: False)
  monkeypatch.setattr(gpu, "TOTAL_SECONDS", 0)
  (row,) = gpu.rows(["res_csc20_float32"], 128)
  assert row["framework"] == "cscjax"
  assert row["precision"] == "float32"
  assert row["error"] == "skipped after 0 s"


def test_the_suite_needs_a_gpu(monkeypatch):
  monkeypatch.setattr(gpu, "Worker", FakeWorker)
  monkeypatch.setattr(gpu, "BACKEND", "tpu")
  with pytest.raises(cli.UsageError, match="gpu needs a GPU, but JAX uses gpu"):
    next(gpu.rows(["res_csc20_bfloat16"], 128))


@pytest.mark.slow
def test_rows_on_the_cpu(monkeypatch):
  monkeypatch.setattr(gpu, "BACKEND", "cpu")
  monkeypatch.setattr(gpu, "CASES", {"tiny": ("tiny", "float32")})
  monkeypatch.setitem(training.CASES, "tiny", {"model": "msdnet", "depth": 1, "width": 4})
  ours, *theirs = gpu.rows(["tiny"], 4)
  assert (ours["framework"], ours["mode"], ours["error"]) == ("cscjax", "jit", None)
  assert ours["seconds"] * ours["images_per_second"] == pytest.approx(4)
  json.dumps(ours)
  if rates.has_pytorch():
    (row,) = theirs
    assert (row["framework"], row["mode"], row["error"]) == ("pytorch", "eager", None)
    assert row["speedup"] == row["seconds"] / ours["seconds"]
