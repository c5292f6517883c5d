"""The problems, objective and rows of the benchmarks `solvers` and `gradients`, on small problems."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from experiments import cli
from experiments.benchmarks import gradients, problems, process, references, solvers
from experiments.benchmarks.objective import Objective


def small(batch=1, channels=1, size=8):
  rng = np.random.default_rng(0)
  filters = rng.normal(size=(3, 2, channels, 4))
  filters /= np.sqrt(np.sum(np.square(filters), axis=(0, 1, 2)))
  x = rng.normal(size=(batch, size, size, channels))
  return problems.Problem(x.astype(np.float32), filters.astype(np.float32), 0.3)


def explicit(problem):
  """Returns D as a matrix, whose columns are shifted filters; the origin of an atom is its first tap."""
  _, h, w, c = problem.x.shape
  columns = []
  for i in range(h):
    for j in range(w):
      for m in range(problem.filters.shape[-1]):
        image = np.zeros((h, w, c))
        image[:3, :2] = problem.filters[..., m]
        columns.append(np.roll(image, (i, j), (0, 1)).ravel())
  return np.stack(columns, axis=1)


def optimum(problem):
  """Returns the minimum, summed over the batch, from scikit-learn in float64."""
  d, total = explicit(problem), 0.0
  for x in problem.x.astype(np.float64).reshape(len(problem.x), -1):
    model = Lasso(problem.beta / x.size, fit_intercept=False, tol=1e-14, max_iter=100_000)
    code = model.fit(d, x).coef_
    total += 0.5 * np.sum((x - d @ code) ** 2) + problem.beta * np.sum(np.abs(code))
  return total


@pytest.fixture
def tiny(tmp_path):
  """The file of a problem, in the form that the processes read, and its minimum."""
  problem = small(batch=2)
  path = tmp_path / "problem.npz"
  np.savez(path, **problem._asdict(), lipschitz=Objective(*problem).lipschitz())
  return str(path), optimum(problem)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_objective_is_that_of_the_explicit_matrix(channels):
  problem = small(2, channels)
  d, objective = explicit(problem), Objective(*problem)
  codes = np.random.default_rng(1).normal(size=(2, 8, 8, 4))
  expected = sum(
    0.5 * np.sum((x.ravel() - d @ code.ravel()) ** 2) + 0.3 * np.sum(np.abs(code))
    for x, code in zip(problem.x, codes, strict=True)
  )
  np.testing.assert_allclose(objective(codes), expected, rtol=1e-12)
  np.testing.assert_allclose(objective.lipschitz(), np.linalg.norm(d, 2) ** 2, rtol=1e-10)


@pytest.mark.parametrize(("batch", "channels"), [(1, 1), (2, 3)])
def test_references_are_the_minimum(batch, channels):
  problem = small(batch, channels)
  reference = references.make(problem, 400)
  np.testing.assert_allclose(reference.optimum, optimum(problem), rtol=1e-8)
  assert 0 <= reference.accuracy < 1e-5
  references.check("small", reference, problem)
  with pytest.raises(cli.UsageError, match="not the reference's problem"):
    references.check("small", reference, problem._replace(x=problem.x * 1.001))


def test_the_stored_references_cover_the_cases():
  stored = {case: references.load(case) for case in problems.CASES}
  assert all(r.accuracy <= 1e-4 and 0 < r.optimum < r.energy for r in stored.values())
  references.check("china128x16", stored["china128x16"], problems.make("china128x16"))


def test_the_counter_keeps_the_first_iteration_at_each_gap():
  counter = process.Counter(2.0, (0.5, 0.1, 0.01))
  assert not any(counter(value) for value in (4.0, 2.5, 3.5, 2.19, 2.3))
  assert counter.counts == [2, 4, None]
  assert counter(2.0)
  assert counter.counts == [2, 4, 6]


@pytest.mark.slow
@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_each_solver_reaches_the_gap_it_was_counted_for(name, tiny):
  library, solver = name.split("/")
  pytest.importorskip(library)
  path, minimum = tiny
  common = {"problem": path, "library": library, "solver": solver, "optimum": minimum}
  counted = process.answer({**common, "task": "count", "gaps": [1e-1, 1e-3], "limit": 200})
  first, second = counted["counts"]
  assert 1 < first < second <= 200
  row = process.answer({**common, "task": "time", "iterations": second})
  assert -1e-6 <= row["reached"] <= 1.0005e-3
  assert row["seconds"] > 0
  assert row["peak_bytes"] >= row["base_bytes"] > 2**20
  if solver != "admm_map":
    before = process.answer({**common, "task": "time", "iterations": second - 1})
    assert before["reached"] > 0.9995e-3


@pytest.mark.slow
def test_rows_of_the_suite(monkeypatch):
  problem = small()
  reference = references.Reference(optimum(problem), 2e-3, 0.0)
  monkeypatch.setattr(problems, "CASES", {"small": lambda: problem})
  monkeypatch.setattr(problems, "available", lambda: ("small",))
  monkeypatch.setattr(references, "load", lambda _: reference)
  monkeypatch.setattr(references, "check", lambda *_: None)
  monkeypatch.setattr(solvers, "GAPS", (1e-1, 1e-2))  # the reference is too inaccurate for the second
  (row,) = solvers.rows(["small"], ["cscjax/fista", "cscjax/admm_map"], sys.executable)
  assert {key: row[key] for key in ("suite", "case", "solver", "library", "gap", "precision")} == {
    "suite": "solvers",
    "case": "small",
    "solver": "fista",
    "library": "cscjax",
    "gap": 1e-1,
    "precision": "float32",
  }
  assert row["reached"] <= 1e-1
  assert min(row["seconds"], row["compile_seconds"], row["iterations"], row["plan_bytes"]) > 0
  assert solvers.line(row).startswith("small")
  json.dumps(row)


def test_a_process_that_fails_is_a_row_with_an_error(monkeypatch):
  problem = small()
  monkeypatch.setattr(problems, "CASES", {"small": lambda: problem})
  monkeypatch.setattr(problems, "available", lambda: ("small",))
  monkeypatch.setattr(references, "load", lambda _: references.Reference(1.0, 5e-4, 0.0))
  monkeypatch.setattr(references, "check", lambda *_: None)
  monkeypatch.setattr(solvers, "_has", lambda *_: True)
  (row,) = solvers.rows(["small"], ["scico/admm"], "/bin/false")
  assert row["error"] == "exit 1"
  assert row["seconds"] is None
  assert solvers.line(row).endswith("exit 1")


def test_a_missing_library_is_skipped(capsys, monkeypatch):
  monkeypatch.setattr(solvers, "_has", lambda python, library: library == "cscjax")
  assert list(solvers.rows([], ["cscjax/admm", "scico/admm"], sys.executable)) == []
  assert "scico is not installed" in capsys.readouterr().err


def test_problems_need_their_packages(monkeypatch):
  monkeypatch.setattr(problems, "available", lambda: problems.BASE_CASES)
  with pytest.raises(cli.UsageError, match=r"g256x32 needs SPORCO.*cscjax\[bench\]"):
    problems.make("g256x32")
  with pytest.raises(cli.UsageError, match="unknown nothing; there are china128x16"):
    problems.make("nothing")
  with pytest.raises(cli.UsageError, match="--solvers: unknown sporco/none"):
    next(solvers.rows([], ["sporco/none"], sys.executable))


@pytest.mark.slow
def test_implicit_gradients_have_flat_memory():
  rows = {row["case"]: row for row in gradients.rows(["implicit_10", "implicit_100", "unrolled_100"])}
  flat, longer, unrolled = (row["peak_bytes"] for row in rows.values())
  assert longer <= 1.05 * flat
  assert unrolled > 5 * flat
  assert gradients.line(rows["implicit_10"]).startswith("implicit      10 iterations")


def test_an_unknown_case_is_one_line():
  done = subprocess.run(
    [sys.executable, "-m", "experiments.benchmark", "--suite=gradients", "--cases=implicit_11"],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 2
  assert done.stderr.startswith("error: --cases: unknown implicit_11; choose from unrolled_10")
  assert done.stderr.count("\n") == 1
