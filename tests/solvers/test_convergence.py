"""Tests of `converged` for various starts, steps and scales, zero solutions, and photographs."""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax import solvers
from experiments.benchmarks import problems
from tests.solvers.problems import PROBLEMS, accepted_by, as_function, dense, period_of, working_set

SOLVERS = {
  "ista": as_function(solvers.ISTA()),
  "ista_adaptive": functools.partial(cscjax.ista, step="adaptive"),
  "fista": as_function(solvers.FISTA()),
  "fista_adaptive": functools.partial(cscjax.fista, step="adaptive"),
  "fista_backtracking": functools.partial(cscjax.fista, step="backtracking"),
  "admm": cscjax.admm,
  "working_set": working_set,
}
each_solver = pytest.mark.parametrize(
  "solve",
  [
    pytest.param(solve, id=name, marks=() if name in ("fista", "admm") else pytest.mark.slow)
    for name, solve in SOLVERS.items()
  ],
)
ONE = cscjax.MatrixDictionary(jnp.ones((1, 1)))


@pytest.mark.parametrize("stop", ["gradient_mapping", "gap"])
@pytest.mark.parametrize("init", [-1.0, 0.0, 0.9, 1e4])
@each_solver
def test_any_start_ends_in_the_solution(solve, init, stop):
  result = solve(ONE, [1.0], 0.1, init=jnp.array([init]), tolerance=1e-6, stop=stop)
  np.testing.assert_allclose(result.code, 0.9, atol=5e-4 if stop == "gap" else 2e-6)
  assert bool(result.converged)
  assert not bool(result.diverged)


def test_a_warm_start_that_passes_through_zero():
  result = cscjax.ista(ONE, [1.0], 0.1, step=0.5, init=[-1.0], tolerance=1e-6)
  np.testing.assert_allclose(result.code, 0.9, atol=1e-6)
  assert bool(result.converged)


@pytest.mark.parametrize("solve", [cscjax.ista, cscjax.fista])
@pytest.mark.parametrize("init", [0.0, 0.5, 1.0])
def test_a_short_step_does_not_converge(solve, init):
  """This includes steps so short that rounding leaves the code unchanged."""
  result = solve(ONE, [1.0], 0.1, step=1e-9, init=[init], tolerance=1e-3, max_iterations=50)
  assert not bool(result.converged)


def test_a_step_too_long_does_not_converge():
  """The code jumps from 1 to 0, where the mapping, code / step, is tiny."""
  result = cscjax.ista(ONE, [1.0], 0.1, step=1e6, init=[1.0], tolerance=1e-3, max_iterations=1)
  np.testing.assert_array_equal(result.code, 0)
  assert not bool(result.converged)


@pytest.mark.parametrize(
  ("name", "nonnegative", "stop"),
  [
    ("dense", False, "gradient_mapping"),
    pytest.param("dense", True, "gap", marks=pytest.mark.slow),
    pytest.param("circular", False, "gap", marks=pytest.mark.slow),
    pytest.param("circular", True, "gradient_mapping", marks=pytest.mark.slow),
  ],
)
@each_solver
def test_solutions_that_are_zero(solve, name, nonnegative, stop):
  """Zero solutions converge in the first test from any start, also in a batch with others."""
  problem = accepted_by(solve, PROBLEMS[name]())
  x = jnp.asarray(problem.x, jnp.float32)
  beta = 1.01 * float(cscjax.beta_max(problem.dictionary, x))
  shape = jax.eval_shape(problem.dictionary.analysis, x).shape
  options = {"tolerance": 1e-6, "nonnegative": nonnegative, "stop": stop}
  for init in (None, jnp.ones(shape)):
    alone = solve(problem.dictionary, x, beta, init=init, **options)
    assert int(alone.iterations) == period_of(solve)
    assert bool(alone.converged)
    np.testing.assert_array_equal(alone.code, 0)
  batch = jnp.stack([x, 0 * x, 3 * x])
  result = solve(problem.dictionary, batch, beta, init=jnp.ones((3, *shape)), **options)
  np.testing.assert_array_equal(result.code[:2], 0)
  assert np.all(result.code[2] == 0) == (
    nonnegative and float(jnp.max(problem.dictionary.analysis(3 * x))) < beta
  )
  np.testing.assert_array_equal(result.converged[:2], True)


@pytest.mark.optimized
@pytest.mark.parametrize("stop", ["gap", pytest.param("gradient_mapping", marks=pytest.mark.slow)])
def test_a_zero_solution_in_a_batch_with_others(stop):
  """ADMM keeps a zero solution, which its iterates leave temporarily, while it iterates for others."""
  problem = PROBLEMS["circular"]()
  x = jnp.asarray(problem.x, jnp.float32)
  beta = 1.01 * float(cscjax.beta_max(problem.dictionary, x))
  options = {"tolerance": 1e-6, "stop": stop, "record": ("objective", "support_size", stop)}
  result = cscjax.admm(problem.dictionary, jnp.stack([x, 3 * x]), beta, **options)
  assert int(result.iterations) > 10
  np.testing.assert_array_equal(result.code[0], 0)
  np.testing.assert_array_equal(result.support_size[:, 0], 0)
  # The gap is at least the rounding error of the objective.
  assert np.all(getattr(result, stop)[:, 0] <= np.finfo(np.float32).eps)
  np.testing.assert_allclose(result.objective[:, 0], 0.5 * jnp.sum(x**2), rtol=1e-6)
  assert np.any(result.code[1] != 0)


@pytest.mark.parametrize(
  "name", ["ista_adaptive", pytest.param("fista_adaptive", marks=pytest.mark.slow)]
)
def test_the_step_of_a_signal_that_rests_stays_finite(name):
  """In float32, a step that grows by 3 % would be infinite after 3,000 iterations, and the code NaN."""
  problem = dense(0)
  x = jnp.stack([0 * problem.x, problem.x])
  result = SOLVERS[name](problem.dictionary, x, 0.1, iterations=4000, record=())
  assert result.diverged.tolist() == [False, False]
  np.testing.assert_array_equal(result.code[0], 0)
  assert np.all(np.isfinite(result.state.step))


@each_solver
def test_nothing_to_code(solve):
  """The code is zero for a zero dictionary, a zero signal or a zero mask."""
  problem = dense(0)
  init = jnp.ones(12)
  for dictionary, options in (
    (cscjax.MatrixDictionary(jnp.zeros((8, 12))), {}),
    (cscjax.MatrixDictionary(jnp.zeros((8, 12))), {"init": init}),
    (problem.dictionary, {"mask": np.zeros(8), "init": init}),
  ):
    result = solve(dictionary, problem.x, 0.1, tolerance=1e-6, record=("objective",), **options)
    assert int(result.iterations) == period_of(solve)
    assert bool(result.converged)
    assert not bool(result.diverged)
    np.testing.assert_array_equal(result.code, 0)


@pytest.mark.parametrize("shape", [(5, 4), (4, 9)], ids=["overdetermined", "underdetermined"])
@pytest.mark.parametrize(
  "solver", [pytest.param("fista", marks=pytest.mark.slow), "fista_adaptive", "admm"]
)
def test_no_penalty(x64, solver, shape):
  """Without a penalty, the code solves the normal equations of least squares."""
  rng = np.random.default_rng(0)
  d, x = rng.normal(size=shape), rng.normal(size=shape[0])
  result = SOLVERS[solver](
    cscjax.MatrixDictionary(jnp.asarray(d)), x, 0.0, tolerance=1e-6, max_iterations=2000
  )
  assert bool(result.converged)
  np.testing.assert_allclose(d.T @ (d @ np.asarray(result.code) - x), 0, atol=1e-5)


SCALES = {  # exponents of two of the dictionary and the signal
  "magnetometers": (-27, -43),
  "large atoms": (33, 0),
  "small atoms": (-33, 0),
  "smaller atoms": (-55, 0),
  "larger atoms": (55, 0),
  "large signal": (0, 99),
  "small signal": (0, -99),
  "both large": (33, 33),
  "both small": (-33, -60),
}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@each_solver
def test_scale_does_not_matter(solve, scale):
  """The squares of most of these numbers are out of range in float32."""
  problem = accepted_by(solve, PROBLEMS["circular"]())
  dictionary, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (problem.dictionary, problem.x))
  expected = solve(dictionary, x, 0.2, tolerance=1e-4, record=("gap",))
  atoms, signal = (2.0**power for power in scale)
  scaled = jax.tree.map(lambda leaf: leaf * np.float32(atoms), dictionary)
  result = solve(
    *(scaled, x * np.float32(signal), np.float32(0.2 * atoms * signal)), tolerance=1e-4, record=("gap",)
  )
  assert bool(result.converged)
  assert not bool(result.diverged)
  assert abs(int(result.iterations) - int(expected.iterations)) <= 2
  np.testing.assert_allclose(result.code * (atoms / signal), expected.code, atol=1e-3)
  np.testing.assert_allclose(result.gap[-1], expected.gap[-1], rtol=0.2, atol=1e-6)


@pytest.mark.parametrize(
  "solver",
  [
    pytest.param("fista", marks=pytest.mark.slow),
    "fista_adaptive",
    pytest.param("admm", marks=pytest.mark.slow),
  ],
)
def test_signals_of_a_batch_have_their_own_scale(solver):
  problem = PROBLEMS["circular"]()
  dictionary, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (problem.dictionary, problem.x))
  scales = jnp.asarray([2.0**-80, 1, 2.0**80], jnp.float32)[:, None, None, None]
  result = SOLVERS[solver](dictionary, scales * x[None], 0.2 * scales, tolerance=1e-4)
  assert np.all(result.converged)
  # The scales are powers of two: in float64 the codes are equal, and in float32 up to rounding.
  rounding = 4 * np.finfo(np.float32).eps * np.max(np.abs(result.code[1]))
  np.testing.assert_allclose(result.code[0] / scales[0], result.code[1], rtol=0, atol=rounding)
  np.testing.assert_allclose(result.code[2] / scales[2], result.code[1], rtol=0, atol=rounding)


def test_certificates_at_every_scale():
  problem = dense(0)
  dictionary, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (problem.dictionary, problem.x))
  code = cscjax.fista(dictionary, x, 0.2, iterations=5).code
  expected = cscjax.duality_gap(dictionary, x, code, 0.2)
  for scale in (2.0**-40, 2.0**40):
    found = cscjax.duality_gap(dictionary, scale * x, scale * code, 0.2 * scale)
    np.testing.assert_allclose(found / scale**2, expected, rtol=1e-5)
  assert bool(jnp.isfinite(cscjax.duality_gap(dictionary, 1e-30 * x, 1e-30 * code, 0.2e-30)))


@pytest.mark.slow
@each_solver
def test_the_gap_bounds_the_distance_to_the_optimum(x64, solve):
  problem = accepted_by(solve, PROBLEMS["circular"]())
  run = functools.partial(solve, problem.dictionary, problem.x, 0.2)
  best = cscjax.fista(
    problem.dictionary, problem.x, 0.2, tolerance=1e-12, max_iterations=50000
  ).objective[-1]
  result = run(iterations=400, record=("objective", "gap"))
  distance = 1 - best / result.objective[1:]
  assert np.all(result.gap >= distance - 1e-12)
  assert result.gap[-1] < 1e-3
  stopped = run(tolerance=1e-4, stop="gap", max_iterations=5000, record=("objective",))
  assert bool(stopped.converged)
  assert 1 - best / stopped.objective[-1] <= 1e-4


@pytest.mark.slow
@each_solver
def test_what_rounding_does_not_allow_is_not_converged(solve):
  problem = accepted_by(solve, PROBLEMS["circular"]())
  x = jnp.asarray(problem.x, jnp.float32)
  for stop in ("gradient_mapping", "gap"):
    result = solve(problem.dictionary, x, 0.2, tolerance=1e-9, max_iterations=3000, stop=stop)
    assert not bool(result.converged)
    assert not bool(result.diverged)


PHOTOGRAPHS = ("china128x16", "g256x32", "c256x64", "g512x96", "b16x128x32")


@functools.cache
def _photograph(case, size=48):
  """Returns a crop of a problem of the benchmark, and its minimum in float64."""
  whole = problems.make(case)
  h, w = (n // 2 for n in whole.x.shape[1:3])
  problem = whole._replace(x=whole.x[:1, h : h + size, w : w + size])
  with jax.enable_x64(True):
    filters, x = (jnp.asarray(a, jnp.float64) for a in (problem.filters, problem.x))
    dictionary = cscjax.ConvDictionary(filters, padding="CIRCULAR")
    run = cscjax.admm(dictionary, x, problem.beta, rho=1.0, iterations=1000, record=("objective",))
  return problem, np.asarray(run.objective).min()


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("case", [case for case in PHOTOGRAPHS if case in problems.available()])
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "working_set"])  # not dense
def test_a_tolerance_means_the_same_for_all_solvers(solver, case):
  """With 1e-3, an independent objective in float64 exceeds the minimum by a fraction of 1e-4 to 1e-2."""
  problem, minimum = _photograph(case)
  dictionary = cscjax.ConvDictionary(jnp.asarray(problem.filters), padding="CIRCULAR")
  result = SOLVERS[solver](
    dictionary, problem.x, problem.beta, tolerance=1e-3, max_iterations=40000, record=()
  )
  assert np.all(result.converged)
  # The independent objective places atoms by their first tap, a ConvDictionary by their middle.
  before = (problem.filters.shape[0] - 1) // 2
  code = np.roll(np.asarray(result.code), (-before, -before), axis=(1, 2))
  above = problem.objective()(code) / minimum - 1
  assert 1e-4 < above < 1e-2


@pytest.mark.slow
@pytest.mark.optimized
def test_the_default_call_takes_as_long_as_with_a_given_step():
  """It needs no Lipschitz constant, and no more time for its iterations; usually it takes half."""
  rng = np.random.default_rng(0)
  filters = rng.normal(size=(8, 8, 1, 32))
  filters = jnp.asarray(filters / np.sqrt(np.sum(filters**2, axis=(0, 1, 2))), jnp.float32)
  dictionary = cscjax.ConvDictionary(filters, padding="SAME")
  x = jnp.asarray(rng.normal(size=(256, 256, 1)), jnp.float32)
  step = 1 / cscjax.lipschitz(dictionary, x.shape)
  times = {"default": [], "given": []}
  for _ in range(4):
    for name, options in (("default", {}), ("given", {"step": step})):
      start = time.perf_counter()
      result = cscjax.fista(dictionary, x, cscjax.relative(0.2), tolerance=1e-3, record=(), **options)
      jax.block_until_ready(result)
      times[name].append(time.perf_counter() - start)
      assert bool(result.converged)
  default, given = (statistics.median(times[name][1:]) for name in ("default", "given"))
  assert default < 1.3 * given, times
