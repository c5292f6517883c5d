"""Tests of tolerances, traces, flags and certificates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax import solvers
from tests import references
from tests.solvers.problems import (
  PROBLEMS,
  accepted_by,
  as_function,
  dense,
  flat,
  period_of,
  working_set,
)

SOLVERS = {
  "ista": as_function(solvers.ISTA()),
  "fista": as_function(solvers.FISTA()),
  "fista_adaptive": functools.partial(cscjax.fista, step="adaptive"),
  "admm": cscjax.admm,
  "working_set": working_set,
}
each_solver = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
EVERYTHING = ("objective", "gradient_mapping", "gap", "support_size")


@pytest.mark.parametrize("stop", ["gradient_mapping", pytest.param("gap", marks=pytest.mark.slow)])
@each_solver
def test_a_tolerance_stops_where_the_measure_says(x64, solve, stop):
  problem = dense(1)
  fixed = solve(problem.dictionary, problem.x, 0.2, iterations=2000, record=EVERYTHING)
  result = solve(
    *(problem.dictionary, problem.x, 0.2),
    **{"tolerance": 1e-4, "max_iterations": 2000, "stop": stop, "record": EVERYTHING},
  )
  done, period = int(result.iterations), period_of(solve)
  assert done == period * (1 + np.argmax(getattr(fixed, stop)[period - 1 :: period] <= 1e-4))
  assert done < 2000
  for name in EVERYTHING:  # the traces agree, and end at the stop
    length = done + (name in ("objective", "support_size"))
    ours, theirs = getattr(result, name), getattr(fixed, name)
    assert len(ours) == length
    np.testing.assert_allclose(ours, theirs[:length], rtol=1e-7, atol=1e-10)
  assert bool(result.converged)
  assert fixed.converged is None


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["gradient_mapping", "gap"])
@pytest.mark.parametrize("solve", [SOLVERS["fista"], cscjax.admm])
def test_each_tenth_iteration_is_tested(x64, solve, stop):
  problem = PROBLEMS["circular"]()
  run = functools.partial(solve, problem.dictionary, problem.x, 0.2)
  trace = getattr(run(iterations=300, record=(stop,)), stop)
  result = run(tolerance=1e-3, stop=stop)
  assert bool(result.converged)
  assert int(result.iterations) == 10 + 10 * np.argmax(trace[9::10] <= 1e-3)
  needed = 1 + int(np.argmax(trace <= 1e-3))  # the last iteration is tested too
  assert bool(run(tolerance=1e-3, stop=stop, max_iterations=needed).converged)


@each_solver
def test_the_iterations_run_out(solve):
  problem = dense(1)
  result = solve(problem.dictionary, problem.x, 0.2, tolerance=0.0, max_iterations=3, record=EVERYTHING)
  assert int(result.iterations) == 3
  assert not bool(result.converged)
  assert result.objective.shape == (4,)


@pytest.mark.slow
@each_solver
def test_what_is_recorded(x64, solve):
  problem = dense(0) if solve in (SOLVERS["ista"], working_set) else PROBLEMS["augmented"]()
  x = np.stack([problem.x, -problem.x, 2 * problem.x])
  result = solve(problem.dictionary, x, 0.2, iterations=5, record=EVERYTHING)
  assert result.objective.shape == result.support_size.shape == (6, 3)
  assert result.gradient_mapping.shape == result.gap.shape == (5, 3)
  for i in range(3):
    code = flat(jax.tree.map(lambda c, i=i: c[i], result.code))
    assert int(result.support_size[-1, i]) == np.count_nonzero(code)
    expected = references.lasso_objective(problem.d, x[i].ravel(), code, 0.2)
    np.testing.assert_allclose(result.objective[-1, i], expected, rtol=1e-12)
  np.testing.assert_array_equal(result.support_size[:, 0], result.support_size[:, 1])
  bare = solve(problem.dictionary, x, 0.2, iterations=5, record=())
  assert bare.objective is bare.support_size is bare.gradient_mapping is bare.gap is None
  codes = (flat(r.code) for r in (bare, result))  # two programs, which XLA may round differently
  np.testing.assert_allclose(*codes, rtol=1e-12, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("solve", [cscjax.ista, cscjax.fista, cscjax.admm])
def test_the_gradient_mapping_against_numpy(x64, solve):
  """ISTA and two iterations of FISTA take it at the code; for ADMM it is the smallest subgradient."""
  problem, beta = dense(3), 0.1
  weight = {cscjax.ista: 0.45, cscjax.fista: 1.25, cscjax.admm: 5.0}[solve]
  results = [
    solve(problem.dictionary, problem.x, beta, iterations=k, record=["gradient_mapping"])
    for k in range(4)
  ]
  codes = [np.asarray(result.code) for result in results]
  at_zero = 0.5 * np.sum(problem.x**2)
  for k in (1, 2) if solve is cscjax.fista else (1, 2, 3):
    gradient = [problem.d.T @ (problem.d @ code - problem.x) for code in codes]
    if solve is cscjax.admm:
      excess = np.maximum(np.abs(gradient[k]) - beta, 0)
      norm = np.linalg.norm(np.where(codes[k] == 0, excess, gradient[k] + beta * np.sign(codes[k])))
    else:
      point, step = codes[k - 1], problem.step
      moved = references.soft(point - step * gradient[k - 1], beta * step)
      norm = np.linalg.norm(point - moved) / step
    objective = references.lasso_objective(problem.d, problem.x, codes[k], beta)
    scale = np.linalg.norm(problem.d.T @ problem.x) * min(1, np.sqrt(weight * objective / at_zero))
    np.testing.assert_allclose(results[k].gradient_mapping[-1], norm / scale, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.optimized
def test_what_is_not_recorded_is_not_computed():
  """A criterion of ADMM costs an analysis per iteration, and the gap of FISTA a pass over the code."""
  problem = PROBLEMS["circular"]()

  def flops(solve, record):
    run = jax.jit(lambda x: solve(problem.dictionary, x, 0.1, iterations=8, record=record))
    return run.lower(jnp.asarray(problem.x, jnp.float32)).compile().cost_analysis()["flops"]

  admm = functools.partial(cscjax.admm, rho=1.0)
  assert flops(admm, ()) < 0.85 * flops(admm, ("gradient_mapping",))
  assert flops(cscjax.fista, ()) < 0.95 * flops(cscjax.fista, ("gap",))


@pytest.mark.parametrize("solve", [cscjax.ista, cscjax.fista])
def test_divergence_is_flagged(solve):
  problem = dense(1)
  x = jnp.stack([jnp.asarray(problem.x, jnp.float32), jnp.zeros(8)])
  run = functools.partial(solve, problem.dictionary, x, 0.1)
  for iterations in (40, 2000):  # large, and not finite
    result = run(step=4 * problem.step, iterations=iterations)
    np.testing.assert_array_equal(result.diverged, [True, False])
  np.testing.assert_array_equal(run(iterations=40).diverged, [False, False])
  stopped = run(step=4 * problem.step, tolerance=1e-6, max_iterations=10**6)
  assert int(stopped.iterations) < 10**6
  np.testing.assert_array_equal(stopped.converged, [False, True])


@pytest.mark.slow
def test_a_nan_in_the_signal_is_flagged():
  problem = dense(1)
  x = np.stack([problem.x, problem.x])
  x[0, 3] = np.nan
  for solve in SOLVERS.values():
    result = solve(problem.dictionary, x, 0.1, tolerance=1e-4, max_iterations=5000)
    np.testing.assert_array_equal(result.diverged, [True, False])
    assert int(result.iterations) < 5000


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("name", ["dense", "circular", "augmented"])
def test_beta_max(x64, name, nonnegative):
  problem = PROBLEMS[name]()
  x = np.stack([problem.x, -3 * problem.x])
  largest = cscjax.beta_max(problem.dictionary, x, nonnegative=nonnegative)
  for i in range(2):
    correlation = problem.d.T @ x[i].ravel()
    np.testing.assert_allclose(
      largest[i], np.max(correlation if nonnegative else np.abs(correlation)), rtol=1e-12
    )
    for factor, is_zero in ((1.001, True), (0.999, False)):
      result = cscjax.fista(
        problem.dictionary, x[i], factor * largest[i], iterations=3, nonnegative=nonnegative
      )
      assert np.all(flat(result.code) == 0) == is_zero


@pytest.mark.slow
@pytest.mark.parametrize("nonnegative", [False, True])
def test_duality_gap_bounds_the_distance_to_the_optimum(x64, nonnegative):
  problem = PROBLEMS["circular"]()
  mask = np.random.default_rng(0).choice([0, 0.5, 1], problem.x.shape)
  options = {"mask": mask, "nonnegative": nonnegative}
  run = functools.partial(cscjax.fista, problem.dictionary, problem.x, 0.2, **options)
  best = run(tolerance=1e-12, max_iterations=50000).objective[-1]
  gaps = []
  for iterations in (0, 3, 30, 300, 3000):
    result = run(iterations=iterations)
    gap = cscjax.duality_gap(problem.dictionary, problem.x, result.code, 0.2, **options)
    assert gap >= result.objective[-1] - best - 1e-12
    gaps.append(float(gap))
  assert gaps == sorted(gaps, reverse=True)
  assert gaps[-1] < 1e-8 * best


@pytest.mark.slow
def test_a_second_call_compiles_nothing(caplog):
  chosen = (*SOLVERS.values(), functools.partial(cscjax.fista, step="backtracking"))
  problems = [accepted_by(solve, PROBLEMS["circular"]()) for solve in chosen]
  for solve, problem in zip(chosen, problems, strict=True):
    solve(problem.dictionary, problem.x, 0.1, iterations=3)
  with jax.log_compiles(), caplog.at_level("WARNING"):
    for solve, problem in zip(chosen, problems, strict=True):
      solve(problem.dictionary, 2 * problem.x, 0.1, iterations=3)
  assert not [record for record in caplog.records if "Compiling" in record.message]


@pytest.mark.parametrize(
  ("name", "arguments"),
  {
    "two counts": ("iterations", {"iterations": 5, "tolerance": 1e-3}),
    "a bound without a tolerance": ("max_iterations", {"max_iterations": 5}),
    "a bound of 0": ("max_iterations", {"tolerance": 1e-3, "max_iterations": 0}),
    "negative tolerance": ("tolerance", {"tolerance": -1e-3}),
    "tolerance NaN": ("tolerance", {"tolerance": np.nan}),
    "tolerance of each signal": ("tolerance", {"tolerance": np.ones(2)}),
    "an unknown trace": ("record", {"record": ("loss",)}),
    "a trace by itself": ("record", {"record": "objective"}),
    "an unknown measure": ("stop", {"tolerance": 1e-3, "stop": "objective"}),
    "a measure without a tolerance": ("stop", {"stop": "gap"}),
    "the gap of no penalty": ("beta", {"beta": 0.0, "tolerance": 1e-3, "stop": "gap"}),
    "the gap where a penalty is 0": ("beta", {"beta": np.arange(12.0), "record": ("gap",)}),
    "unknown mode": ("differentiate", {"differentiate": "adjoint"}),
    "unrolled to a tolerance": ("differentiate", {"tolerance": 1e-3, "differentiate": "unrolled"}),
    "remat to a tolerance": ("differentiate", {"tolerance": 1e-3, "differentiate": "remat"}),
    "negative weights": ("mask", {"mask": -np.ones(8)}),
    "weights above 1": ("mask", {"mask": 2 * np.ones(8)}),
    "weights NaN": ("mask", {"mask": np.full(8, np.nan)}),
    "shape of the mask": ("mask", {"mask": np.ones(7)}),
    "a mask that broadcasts the signal": ("mask", {"mask": np.ones((2, 8))}),
  }.values(),
)
@each_solver
def test_bad_arguments(solve, name, arguments):
  problem = dense(0)
  with pytest.raises(ValueError, match=rf"^{name}: expected .*got"):
    solve(problem.dictionary, problem.x, **{"beta": 0.1, **arguments})


@pytest.mark.parametrize(
  ("solve", "name", "arguments"),
  [
    (cscjax.fista, "step", {"step": "armijo"}),
    (cscjax.ista, "step", {"step": -1.0}),
    (cscjax.fista, "step", {"step": np.ones(8)}),
    (cscjax.admm, "rho", {"rho": 0.0}),
    (cscjax.admm, "rho", {"rho": np.ones(2)}),
    (cscjax.admm, "relaxation", {"relaxation": 2.0}),
    (cscjax.admm, "relaxation", {"relaxation": 0.5}),
  ],
)
def test_bad_arguments_of_one_solver(solve, name, arguments):
  problem = dense(0)
  with pytest.raises(ValueError, match=rf"^{name}: expected .*got"):
    solve(problem.dictionary, problem.x, 0.1, **arguments)
