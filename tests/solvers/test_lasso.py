"""Tests of ISTA and FISTA against scikit-learn, NumPy, optimality conditions and convergence bounds."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Lasso

import cscjax
from tests import references
from tests.solvers.problems import PROBLEMS, Problem, convolutional, dense, flat

SOLVERS = {"ista": cscjax.ista, "fista": cscjax.fista}
BETA = 0.1


def solution(problem, beta, nonnegative):
  """Returns the solution of the Lasso by coordinate descent, to high precision."""
  n = problem.x.size
  lasso = Lasso(alpha=beta / n, fit_intercept=False, positive=nonnegative, tol=1e-15, max_iter=200_000)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scikit-learn warns if it does not reach 1e-15
    return lasso.fit(problem.d, problem.x.ravel()).coef_


@functools.cache
def _dense_run(solver, nonnegative):
  """All dense problems have the same shape, so that each solver is compiled once."""
  return jax.jit(
    lambda dictionary, x, step, init: SOLVERS[solver](
      dictionary, x, BETA, iterations=2000, nonnegative=nonnegative, step=step, init=init
    )
  )


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_scikit_learn(x64, seed, nonnegative):
  problem = dense(seed)
  expected = solution(problem, BETA, nonnegative)
  best = references.lasso_objective(problem.d, problem.x, expected, BETA)
  ends = []
  for solver in SOLVERS:
    result = _dense_run(solver, nonnegative)(problem.dictionary, problem.x, problem.step, np.zeros(12))
    ends.append(references.lasso_objective(problem.d, problem.x, np.asarray(result.code), BETA))
    np.testing.assert_allclose(result.objective[-1], ends[-1], rtol=1e-12)
    np.testing.assert_allclose(ends[-1], best, rtol=1e-5)
    if solver == "fista":
      np.testing.assert_allclose(result.code, expected, atol=1e-5)
  np.testing.assert_allclose(*ends, rtol=1e-5)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_convergence_bounds(x64, seed, nonnegative):
  """The bounds 2 L ||x0 - x*||^2 / (k + 1)^2 and L ||x0 - x*||^2 / 2k of Beck & Teboulle (2009) hold."""
  problem = dense(seed, n=8)
  best_code = solution(problem, BETA, nonnegative)
  best = references.lasso_objective(problem.d, problem.x, best_code, BETA)
  init = np.abs(np.random.default_rng(seed).normal(size=12)) if seed % 2 else np.zeros(12)
  distance = np.sum((init - best_code) ** 2) / problem.step
  k = np.arange(1, 2001)
  for solver, bound in (("fista", 2 * distance / (k + 1) ** 2), ("ista", distance / (2 * k))):
    result = _dense_run(solver, nonnegative)(problem.dictionary, problem.x, problem.step, init)
    gap = result.objective[1:] - best
    assert np.all(gap <= bound + 1e-10)
    assert np.all(gap >= -1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
  ("name", "nonnegative"), [*((name, False) for name in PROBLEMS), ("dense", True), ("augmented", True)]
)
def test_every_iterate_is_that_of_numpy(x64, name, solver, nonnegative):
  """A wrong extrapolation shows at the third iteration at first, and clearly at the thirtieth."""
  problem = PROBLEMS[name]()
  code, trace = references.pursue(
    problem.d, problem.x.ravel(), BETA, 30, nonnegative=nonnegative, accelerate=solver == "fista"
  )
  result = SOLVERS[solver](
    problem.dictionary, problem.x, BETA, iterations=30, step=problem.step, nonnegative=nonnegative
  )
  np.testing.assert_allclose(result.objective, trace, rtol=1e-11)
  np.testing.assert_allclose(flat(result.code), code, atol=1e-11)
  assert np.count_nonzero(code) not in (0, code.size)


@pytest.mark.parametrize("name", ["dense", "circular"])
def test_default_step_is_one_over_l(x64, name):
  problem = PROBLEMS[name]()
  given_step = cscjax.ista(problem.dictionary, problem.x, BETA, iterations=5, step=problem.step)
  default = cscjax.ista(problem.dictionary, problem.x, BETA, iterations=5)
  np.testing.assert_allclose(default.objective, given_step.objective, rtol=1e-12)


@pytest.mark.parametrize("name", ["circular", "same_strided"])
def test_solves_convolutional_problems(x64, name):
  problem = PROBLEMS[name]()
  best = references.lasso_objective(problem.d, problem.x.ravel(), solution(problem, BETA, False), BETA)
  ends = [
    solve(problem.dictionary, problem.x, BETA, iterations=1500).objective[-1]
    for solve in SOLVERS.values()
  ]
  np.testing.assert_allclose(ends, best, rtol=1e-5)


@jax.jit
def _descend(atoms, x, beta, init, nonnegative):
  results = [
    cscjax.ista(cscjax.MatrixDictionary(atoms), x, beta, iterations=50, nonnegative=flag, init=init)
    for flag in (False, True)
  ]
  return jnp.where(nonnegative, results[1].objective, results[0].objective)


@given(
  seed=st.integers(0, 10**6),
  beta=st.floats(0, 2),
  scale=st.floats(0.01, 100),
  warm=st.booleans(),
  nonnegative=st.booleans(),
)
def test_ista_never_rises(x64, seed, beta, scale, warm, nonnegative):
  rng = np.random.default_rng(seed)
  atoms, x = scale * rng.normal(size=(6, 9)), rng.normal(size=6)
  init = np.abs(rng.normal(size=9)) if warm else np.zeros(9)
  objective = np.asarray(_descend(atoms, x, beta, init, nonnegative))
  assert np.all(np.isfinite(objective))
  assert np.all(np.diff(objective) <= 1e-13 * objective[0])


@pytest.mark.parametrize("name", ["dense", "augmented"])
def test_fista_leaves_ista_at_the_third_iteration(x64, name):
  problem = PROBLEMS[name]()
  ista, fista = (
    solve(problem.dictionary, problem.x, BETA, iterations=8, step=problem.step).objective
    for solve in SOLVERS.values()
  )
  np.testing.assert_allclose(fista[:3], ista[:3], rtol=1e-14)
  assert np.all(np.abs(fista[3:] - ista[3:]) > 1e-6 * ista[3:])


@pytest.mark.parametrize(("solver", "shape"), [("ista", "per_channel"), ("fista", "per_coefficient")])
def test_optimality_for_several_penalties(x64, solver, shape):
  """|D^T (x - D code)| <= beta, with equality and the sign of the code on its support."""
  problem = convolutional(3, padding="CIRCULAR")
  rng = np.random.default_rng(3)
  beta = rng.uniform(0.05, 0.5, (3,) if shape == "per_channel" else (5, 4, 3))
  result = SOLVERS[solver](problem.dictionary, problem.x, beta, iterations=3000, step=problem.step)
  code, penalties = np.ravel(result.code), np.ravel(np.broadcast_to(beta, (5, 4, 3)))
  correlation = problem.d.T @ (problem.x.ravel() - problem.d @ code)
  assert np.all(np.abs(correlation) <= penalties + 1e-5)
  support = code != 0
  assert 3 < np.count_nonzero(support) < code.size
  np.testing.assert_allclose(correlation[support], (penalties * np.sign(code))[support], atol=1e-5)
  expected = references.lasso_objective(problem.d, problem.x.ravel(), code, penalties)
  np.testing.assert_allclose(result.objective[-1], expected, rtol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_penalties_of_a_pair(x64, solver):
  problem = PROBLEMS["augmented"]()
  shapes = [(5, 4, 2), (5, 4, 3)]

  def compare(beta, parts):
    penalties = np.concatenate(
      [np.ravel(np.broadcast_to(b, s)) for b, s in zip(parts, shapes, strict=True)]
    )
    code, trace = references.pursue(
      problem.d, problem.x.ravel(), penalties, 8, accelerate=solver == "fista"
    )
    result = SOLVERS[solver](problem.dictionary, problem.x, beta, iterations=8, step=problem.step)
    np.testing.assert_allclose(flat(result.code), code, atol=1e-12)
    np.testing.assert_allclose(result.objective, trace, rtol=1e-12)

  per_channel = np.array([0.05, 0.2, 0.1])
  compare(0.1, (0.1, 0.1))
  compare((0.3, 0.05), (0.3, 0.05))
  compare((0.3, per_channel), (0.3, per_channel))


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_ill_conditioned_example(solver, nonnegative):
  """The example of the paper: no atom of D has a correlation above beta with x = (1, 1)."""
  dictionary = cscjax.MatrixDictionary(jnp.array([[0.1, 0.1, 0.2], [0.1, 0.2, 0.1]]))
  run = functools.partial(SOLVERS[solver], dictionary, jnp.ones(2), nonnegative=nonnegative)
  np.testing.assert_array_equal(run(1 / 3).code, 0)
  assert np.any(run(0.29).code > 0)  # the largest correlation is 0.3


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_dictionary_of_zeros_gives_a_code_of_zeros(solver):
  result = SOLVERS[solver](cscjax.MatrixDictionary(jnp.zeros((3, 4))), jnp.ones(3), BETA, iterations=4)
  np.testing.assert_array_equal(result.code, 0)
  np.testing.assert_array_equal(result.objective, 1.5)


def test_problems_are_not_trivial():
  """The references above are meaningful only if the solutions are sparse and nonzero."""
  for seed in range(6):
    support = np.count_nonzero(solution(dense(seed), BETA, False))
    assert 2 <= support < 12
    assert isinstance(dense(seed), Problem)
