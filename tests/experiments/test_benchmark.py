"""The benchmarks `solvers`, `gradients` and `batches`, on small problems."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn import linear_model

from experiments import cli
from experiments.benchmarks import (
  batches,
  comparison,
  gradients,
  objective,
  peers,
  problems,
  process,
  references,
  solvers,
)
from experiments.benchmarks.libraries import Prepared
from experiments.benchmarks.libraries.alphacsc_adapters import _atoms, _signals
from experiments.benchmarks.objective import Coding, DenseLasso, Learning


def small(batch=1, channels=1, size=8):
  """A problem for images with circular boundaries."""
  rng = np.random.default_rng(0)
  filters = rng.normal(size=(3, 2, channels, 4))
  filters /= np.sqrt(np.sum(np.square(filters), axis=(0, 1, 2)))
  x = rng.normal(size=(batch, size, size, channels))
  return Coding(x.astype(np.float32), filters.astype(np.float32), 0.3)


def small_signals():
  """A problem for signals with nonnegative codes, whose atoms do not cross the border."""
  rng = np.random.default_rng(0)
  filters = rng.normal(size=(5, 2, 3))
  filters /= np.sqrt(np.sum(np.square(filters), axis=(0, 1)))
  x = rng.normal(size=(2, 30, 2))
  return Coding(x.astype(np.float32), filters.astype(np.float32), 0.3, "VALID", nonnegative=True)


def small_lasso():
  rng = np.random.default_rng(0)
  matrix = rng.normal(size=(20, 40))
  matrix /= np.linalg.norm(matrix, axis=0)
  return DenseLasso(rng.normal(size=(1, 20)).astype(np.float32), matrix.astype(np.float32), 0.3)


def small_learning(problem):
  """The problem of learning the atoms of a coding problem; its first signal is held out."""
  return Learning(
    np.tile(problem.x, (4, *(1 for _ in problem.x.shape[1:]))),
    problem.x[:1],
    problem.filters,
    *problem[2:],
  )


PROBLEMS = {
  "image": lambda: small(),
  "color": lambda: small(2, 3),
  "signals": small_signals,
  "lasso": small_lasso,
  "learn_image": lambda: small_learning(small()),
  "learn_signals": lambda: small_learning(small_signals()),
}


def explicit(problem):
  """Returns D as a matrix, whose columns are shifted filters; the origin of an atom is its first tap."""
  if isinstance(problem, DenseLasso):
    return problem.matrix.astype(np.float64)
  space, taps = problem.x.shape[1:-1], problem.filters.shape[:-2]
  places = space
  if problem.padding == "VALID":
    places = [n - k + 1 for n, k in zip(space, taps, strict=True)]
  columns = []
  for place in np.ndindex(*places):
    for atom in np.moveaxis(problem.filters.astype(np.float64), -1, 0):
      image = np.zeros(problem.x.shape[1:])
      image[tuple(slice(k) for k in taps)] = atom
      columns.append(np.roll(image, place, range(len(place))).ravel())
  return np.stack(columns, axis=1)


def optimum(problem):
  """Returns the minimum, summed over the batch, from scikit-learn in float64."""
  d, total = explicit(problem), 0.0
  positive = isinstance(problem, Coding) and problem.nonnegative
  for x in problem.x.astype(np.float64).reshape(len(problem.x), -1):
    model = linear_model.Lasso(
      problem.beta / x.size, fit_intercept=False, tol=1e-14, max_iter=100_000, positive=positive
    )
    code = model.fit(d, x).coef_
    total += 0.5 * np.sum((x - d @ code) ** 2) + problem.beta * np.sum(np.abs(code))
  return total


@pytest.mark.parametrize("case", ["image", "color", "signals", "lasso"])
def test_the_objective_is_that_of_the_explicit_matrix(case):
  problem = PROBLEMS[case]()
  d = explicit(problem)
  atoms = problem[1].shape[-1]
  shape = {"image": (8, 8, atoms), "color": (8, 8, atoms), "signals": (26, atoms), "lasso": (atoms,)}
  codes = np.random.default_rng(1).exponential(size=(len(problem.x), *shape[case]))
  expected = sum(
    0.5 * np.sum((x.ravel() - d @ code.ravel()) ** 2) + 0.3 * np.sum(np.abs(code))
    for x, code in zip(problem.x, codes, strict=True)
  )
  np.testing.assert_allclose(problem.objective()(codes), expected, rtol=1e-12)
  if case != "lasso":
    codes[-1, 0, 0] = -1
    assert np.isinf(problem.objective()(codes)) == (case == "signals")


def test_the_lipschitz_constant_is_that_of_the_explicit_matrix():
  problem = small(1, 3)
  np.testing.assert_allclose(
    objective.lipschitz(problem), np.linalg.norm(explicit(problem), 2) ** 2, rtol=1e-10
  )


@pytest.mark.parametrize("case", ["image", "color", "signals", "lasso"])
def test_references_are_the_minimum(case):
  problem = PROBLEMS[case]()
  make = references.make_lasso if case == "lasso" else lambda p: references.make_coding(p, 400)
  reference = make(problem)
  np.testing.assert_allclose(reference.optimum, optimum(problem), rtol=1e-8)
  assert 0 <= reference.accuracy < 1e-5
  references.check("small", reference, problem)
  with pytest.raises(cli.UsageError, match="not the reference's problem"):
    references.check("small", reference, problem._replace(x=problem.x * 1.001))


@pytest.mark.parametrize("case", ["image", "signals"])
def test_learned_filters_are_judged_by_the_minimum_for_atoms_of_norm_1(case):
  problem = PROBLEMS[case]()
  learning = small_learning(problem)
  found = learning.objective()(3 * problem.filters)
  expected = optimum(problem._replace(x=learning.held))
  assert expected * (1 - 1e-9) <= found <= expected * (1 + objective.HELD_TOLERANCE)


def test_the_stored_references_cover_the_cases():
  stored = {case: references.load(case) for case in problems.CASES}
  assert all(r.accuracy <= 1e-3 and 0 < r.optimum < r.energy for r in stored.values())
  for case in problems.BASE_CASES:
    references.check(case, stored[case], problems.make(case))


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_saved_problem_is_the_same(case, tmp_path):
  problem = PROBLEMS[case]()
  objective.save(tmp_path / "problem.npz", problem)
  loaded = objective.load(str(tmp_path / "problem.npz"))
  assert type(loaded) is type(problem)
  for got, expected in zip(loaded, problem, strict=True):
    np.testing.assert_array_equal(got, expected)


def test_alphacsc_sums_full_convolutions():
  """Its model is the sum over atoms of the full convolutions of codes and atoms, in each channel."""
  problem = small_signals()
  codes = np.random.default_rng(1).exponential(size=(2, 26, 3))
  signals, atoms = _signals(problem.x), _atoms(problem.filters)
  expected = 0.3 * np.sum(codes)
  for signal, code in zip(signals, codes, strict=True):
    for c, channel in enumerate(signal):
      model = sum(np.convolve(code[:, m], atoms[m, c]) for m in range(3))
      expected += 0.5 * np.sum((channel - model) ** 2)
  np.testing.assert_allclose(problem.objective()(codes), expected, rtol=1e-12)


def test_alphacsc_has_the_same_objective():
  alphacsc = pytest.importorskip("alphacsc.loss_and_gradient")
  problem = small_signals()
  codes = np.random.default_rng(1).exponential(size=(2, 26, 3))
  value = alphacsc.compute_X_and_objective_multi(
    *(_signals(problem.x), codes.swapaxes(1, 2), _atoms(problem.filters)),
    reg=problem.beta,
    feasible_evaluation=False,
  )
  np.testing.assert_allclose(problem.objective()(codes), value, rtol=1e-12)


def test_which_solvers_fit_which_problems():
  fitting = {
    case: {name for name in peers.SOLVERS if peers.fits(name, make())} for case, make in PROBLEMS.items()
  }
  ours = {"cscjax/admm", "cscjax/fista_adaptive", "cscjax/fista"}
  sporco = {"sporco/admm", "sporco/pgm"}
  assert fitting == {
    "image": ours | sporco | {"scico/admm"},
    "color": ours | sporco | {"cscjax/admm_map"},
    "signals": ours | sporco | {"cscjax/admm_map", "alphacsc/lgcd", "alphacsc/fista"},
    "lasso": ours | {"cscjax/working_set", "sklearn/cd", "celer/celer"},
    "learn_image": {"cscjax/learn", "sporco/online"},
    "learn_signals": {"cscjax/learn", "alphacsc/online"},
  }


def test_the_counter_keeps_the_first_iteration_at_each_gap():
  counter = process.Counter(2.0, (0.5, 0.1, 0.01))
  assert not any(counter(value) for value in (4.0, 2.5, 3.5, 2.19, 2.3))
  assert counter.counts == [2, 4, None]
  assert counter(2.0)
  assert counter.counts == [2, 4, 6]


class Gpu:
  """A device that counts its memory."""

  device_kind = "some GPU"

  def __init__(self):
    self.peaks = [1000, 3000]

  def memory_stats(self):
    return {"peak_bytes_in_use": self.peaks.pop(0), "bytes_in_use": 1}


def test_memory_of_a_gpu_is_its_own(monkeypatch):
  class Solver:
    device, precision = Gpu(), "float32"

    def prepare(self, iterations):
      return Prepared(lambda: np.ones(iterations), 0.5, None, np.negative)

  row, result = process.measure(Solver(), 2)
  assert (row["base_bytes"], row["peak_bytes"], row["device"]) == (1000, 3000, "some GPU")
  np.testing.assert_array_equal(result, [-1, -1])


ENCODERS = [name for name in peers.SOLVERS if name not in peers.LEARNERS]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["image", "color", "signals", "lasso"])
@pytest.mark.parametrize("name", ENCODERS)
def test_each_solver_reaches_the_gap_it_was_counted_for(name, case, tmp_path):
  problem = PROBLEMS[case]()
  if not peers.fits(name, problem):
    pytest.skip("the solver is not made for this problem")
  library, solver = name.split("/")
  pytest.importorskip(library)
  path = tmp_path / "problem.npz"
  objective.save(path, problem)
  common = {"problem": str(path), "library": library, "solver": solver, "optimum": optimum(problem)}
  counted = process.answer({**common, "task": "count", "gaps": [1e-1, 1e-3], "limit": 200})
  first, second = counted["counts"]
  assert 1 <= first <= second <= 200
  row = process.answer({**common, "task": "time", "iterations": second})
  assert -1e-6 <= row["reached"] <= 1.0005e-3
  assert row["seconds"] > 0
  assert row["peak_bytes"] >= row["base_bytes"] > 2**20
  assert (row["iterations"] is None) == (row["tolerance"] is not None)
  if second > 1 and not name.endswith("_map"):
    before = process.answer({**common, "task": "time", "iterations": second - 1})
    assert before["reached"] > 0.9995e-3


@pytest.mark.slow
@pytest.mark.parametrize("case", ["learn_image", "learn_signals"])
@pytest.mark.parametrize("name", peers.LEARNERS)
def test_each_learner_improves_the_held_objective_until_the_pass_it_was_counted_for(
  name, case, tmp_path
):
  problem = PROBLEMS[case]()
  if not peers.fits(name, problem):
    pytest.skip("the learner is not made for this problem")
  library, solver = name.split("/")
  pytest.importorskip(library)
  path = tmp_path / "problem.npz"
  objective.save(path, problem)
  start = problem.objective()(problem.filters)
  target = {"optimum": 0.97 * start, "gaps": [0.0], "limit": 30}
  request = {"problem": str(path), "library": library, "solver": solver, **target}
  ((count,)) = process.answer({**request, "task": "count"})["counts"]
  row = process.answer({**request, "task": "time", "iterations": count})
  assert row["reached"] <= 1e-3


def use(monkeypatch, problem, reference):
  """Makes a problem the only case, with this reference."""
  monkeypatch.setattr(problems, "CASES", {"small": lambda: problem})
  monkeypatch.setattr(problems, "available", lambda: ("small",))
  monkeypatch.setattr(references, "load", lambda _: reference)
  monkeypatch.setattr(references, "check", lambda *_: None)


@pytest.mark.parametrize(("times", "expected"), [([3.0, 1.0, 2.0], 2.0), ([9.0], 9.0)])
def test_the_process_with_the_median_time_counts(monkeypatch, times, expected):
  use(monkeypatch, small(), references.Reference(1.0, 0.0, 0.0))
  monkeypatch.setattr(solvers, "GAPS", (1e-1,))
  answers = iter([{"counts": [5]}, *({"seconds": time, "reached": 0.1} for time in times)])
  monkeypatch.setattr(peers, "ask", lambda *_, **__: next(answers))
  (row,) = solvers.rows(["small"], ["cscjax/fista"], None)
  assert row["seconds"] == expected
  assert next(answers, None) is None  # a long run is not repeated


@pytest.mark.slow
def test_rows_of_the_suite(monkeypatch):
  problem = small()
  use(monkeypatch, problem, references.Reference(optimum(problem), 2e-3, 0.0))
  monkeypatch.setattr(solvers, "GAPS", (1e-1, 1e-2))  # the reference is too inaccurate for the second
  (row,) = solvers.rows(["small"], ["cscjax/fista", "cscjax/admm_map"], None)
  assert {key: row[key] for key in ("suite", "case", "solver", "library", "gap", "precision")} == {
    "suite": "solvers",
    "case": "small",
    "solver": "fista",
    "library": "cscjax",
    "gap": 1e-1,
    "precision": "float32",
  }
  assert row["reached"] <= 1e-1
  assert row["device"] == "cpu"
  assert min(row["seconds"], row["compile_seconds"], row["iterations"], row["plan_bytes"]) > 0
  assert solvers.line(row).startswith("small")
  json.dumps(row)


def test_a_process_that_fails_is_a_row_with_an_error(monkeypatch):
  use(monkeypatch, small(), references.Reference(1.0, 5e-4, 0.0))
  monkeypatch.setattr(peers, "has", lambda python, _: python == "/bin/false")
  (row,) = solvers.rows(["small"], ["scico/admm"], "/bin/false")
  assert row["error"] == "exit 1"
  assert row["seconds"] is None
  assert solvers.line(row).endswith("exit 1")


def test_libraries_are_looked_for_in_both_interpreters(capsys, monkeypatch):
  installed = {(sys.executable, "cscjax"), ("other", "cscjax"), ("other", "scico")}
  monkeypatch.setattr(peers, "has", lambda *where: where in installed)
  names = ["cscjax/admm", "scico/admm", "alphacsc/lgcd", "alphacsc/fista"]
  assert peers.interpreters(names, "other") == {"cscjax": sys.executable, "scico": "other"}
  error = capsys.readouterr().err
  assert error == f"alphacsc is not installed in {sys.executable} or other: its rows are skipped\n"
  assert peers.interpreters(["scico/admm"], None) == {}
  assert f"scico is not installed in {sys.executable}: its" in capsys.readouterr().err


def test_solvers_and_interpreters_that_do_not_exist():
  with pytest.raises(cli.UsageError, match="--solvers: unknown sporco/none; there are cscjax/admm"):
    next(solvers.rows([], ["sporco/none"], None))
  with pytest.raises(cli.UsageError, match=r"--peer_python: .*No such file"):
    peers.has("/nowhere/python", "scico")


def test_problems_need_their_packages(monkeypatch):
  monkeypatch.setattr(problems, "available", lambda: problems.BASE_CASES)
  with pytest.raises(cli.UsageError, match=r"g256x32 needs SPORCO.*cscjax\[bench\]"):
    problems.make("g256x32")
  with pytest.raises(cli.UsageError, match="unknown nothing; there are china128x16"):
    problems.make("nothing")


def test_the_table_compares_our_fastest_solver_with_the_best_others():
  def row(library, solver, seconds, mebibytes, **other):
    measured = {"seconds": seconds, "peak_bytes": mebibytes * 2**20}
    return {"case": "a", "gap": 1e-3, "library": library, "solver": solver, **measured, **other}

  rows = [
    row("cscjax", "admm", 9.0, 100),  # replaced by the next row
    row("cscjax", "admm", 1.0, 100),
    row("cscjax", "fista", 2.0, 50),
    row("sporco", "admm", 6.0, 80),
    row("celer", "celer", 3.0, 150),
    row("scico", "admm", 0.1, 1, error="failed"),
    row("cscjax", "admm", 1.0, 100, case="b"),
    row("sporco", "admm", 1.0, 100, case="c"),
  ]
  header, _, *lines = comparison.table(rows).splitlines()
  assert lines == [
    "| a | 0.001 | admm | 1 | 100 | celer celer | 3.00 | 6.00 | sporco admm | 0.80 |",
    "| b | 0.001 | admm | 1 | 100 | – | – | – | – | – |",
  ]
  assert {line.count("|") for line in [header, *lines]} == {11}


@pytest.mark.slow
def test_implicit_gradients_have_flat_memory():
  rows = {row["case"]: row for row in gradients.rows(["implicit_10", "implicit_100", "unrolled_100"])}
  flat, longer, unrolled = (row["peak_bytes"] for row in rows.values())
  assert longer <= 1.05 * flat
  assert unrolled > 5 * flat
  assert gradients.line(rows["implicit_10"]).startswith("implicit      10 iterations")


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["admm", "fista"])
def test_a_batch_and_its_signals_one_after_the_other_have_the_same_codes(monkeypatch, solver):
  case = batches.BatchCase((12, 10, 1), 16, solver)
  monkeypatch.setattr(batches, "CASES", {"small": case})
  at_once, in_turn = (program(*batches.arrays(case)) for program in batches.programs(case).values())
  assert np.count_nonzero(at_once)
  np.testing.assert_allclose(in_turn, at_once, atol=1e-5)
  (row,) = batches.rows(["small"])
  assert row["code_bytes"] == at_once.nbytes / 16
  assert row["map_plan_bytes"] < row["plan_bytes"] / 2
  assert batches.line(row).startswith("small ")


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
