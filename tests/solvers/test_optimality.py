"""Tests that all solvers and step rules meet the optimality conditions for all dictionaries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_image

import cscjax
from cscjax import solvers
from cscjax.ops import tikhonov_lowpass
from tests.solvers.problems import (
  PROBLEMS,
  accepted_by,
  as_function,
  augmented,
  convolutional,
  flat,
  working_set,
)

EVERY = {
  **PROBLEMS,
  "same": lambda: convolutional(padding="SAME", dilation=2),
  "valid": lambda: convolutional(kernel=(2, 3), padding="VALID"),
  "explicit": lambda: convolutional(kernel=(3, 2), padding=((2, 0), (1, 3))),
  "volume": lambda: convolutional(kernel=(2, 3, 2), spatial=(3, 4, 3), padding="SAME"),
  "circular_1d": lambda: convolutional(kernel=(4,), spatial=(9,), padding="CIRCULAR"),
  "augmented_circular": lambda: augmented(padding="CIRCULAR", dilation=2),
}
SOLVERS = {
  "ista": functools.partial(cscjax.ista, step="adaptive"),
  "ista_backtracking": functools.partial(cscjax.ista, step="backtracking"),
  "fista": as_function(solvers.FISTA()),
  "fista_restart": as_function(solvers.FISTA(restart=True)),
  "fista_adaptive": functools.partial(cscjax.fista, step="adaptive"),
  "fista_adaptive_restart": functools.partial(cscjax.fista, step="adaptive", restart=True),
  "fista_backtracking": functools.partial(cscjax.fista, step="backtracking"),
  "admm": cscjax.admm,
  "admm_rho": functools.partial(cscjax.admm, rho=2.0, relaxation=1.0),
  "working_set": working_set,
}


def violation(d, x, code, beta, mask, nonnegative):
  """Returns the violation of |correlation| <= beta, and = beta sign(code) on the support."""
  correlation = d.T @ (mask * (x - d @ code))
  beta = np.broadcast_to(beta, code.shape)
  off = np.maximum(correlation if nonnegative else np.abs(correlation), 0) - beta
  on = np.abs(correlation - beta * np.sign(code))
  return np.max(np.where(code == 0, np.maximum(off, 0), on))


@pytest.mark.parametrize(
  ("solver", "name"),
  [
    *((solver, "dense") for solver in SOLVERS),
    *((solver, "augmented") for solver in ("fista_adaptive_restart", "admm")),
    ("fista_adaptive", "same_strided"),
    ("fista_backtracking", "circular"),
    ("admm", "circular"),
    *(
      pytest.param("admm", name, marks=pytest.mark.slow)
      for name in EVERY
      if name not in ("dense", "augmented", "same_strided", "circular")
    ),
  ],
)
@pytest.mark.parametrize(
  "nonnegative",
  [pytest.param(False, marks=pytest.mark.slow), True],
  ids=["signed", "nonnegative"],
)
def test_optimality_conditions(x64, solver, name, nonnegative):
  problem = EVERY[name]()
  result = SOLVERS[solver](
    problem.dictionary, problem.x, 0.2, tolerance=1e-9, max_iterations=20000, nonnegative=nonnegative
  )
  code = flat(result.code)
  assert bool(result.converged)
  assert not bool(result.diverged)
  assert int(result.iterations) < 20000
  assert 1 < np.count_nonzero(code) < code.size
  assert not nonnegative or np.all(code >= 0)
  assert violation(problem.d, problem.x.ravel(), code, 0.2, 1, nonnegative) < 1e-6


@pytest.mark.parametrize(
  ("solver", "name"),
  [
    ("fista_adaptive", "circular"),
    ("admm", "same"),
    pytest.param("admm", "circular", marks=pytest.mark.slow),
    pytest.param("working_set", "circular", marks=pytest.mark.slow),
  ],
)
def test_optimality_with_a_mask(x64, solver, name):
  """The weights are 0, 1/2 and 1; the value of a missing pixel is ignored, even if it is NaN."""
  problem = accepted_by(SOLVERS[solver], EVERY[name]())
  rng = np.random.default_rng(0)
  mask = rng.choice([0, 0.5, 1], (2, *problem.x.shape))
  x = np.stack([problem.x, -2 * problem.x])
  result = SOLVERS[solver](
    problem.dictionary,
    np.where(mask == 0, np.nan, x),
    0.2,
    mask=mask,
    tolerance=1e-9,
    max_iterations=20000,
  )
  assert np.all(result.converged)
  for i in range(2):
    code = flat(result.code[i])
    assert 1 < np.count_nonzero(code) < code.size
    assert violation(problem.d, x[i].ravel(), code, 0.2, mask[i].ravel(), False) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["fista_adaptive", "admm", "working_set"])
@pytest.mark.parametrize("name", ["circular", "same"])
def test_optimality_for_a_penalty_of_each_coefficient(x64, solver, name):
  """A coefficient with penalty 0 is free, and one with a very large penalty is zero."""
  problem = accepted_by(SOLVERS[solver], EVERY[name]())
  shape = jax.eval_shape(problem.dictionary.analysis, problem.x).shape
  beta = np.random.default_rng(1).choice([0, 0.1, 0.4, 1e3], shape)
  result = SOLVERS[solver](problem.dictionary, problem.x, beta, tolerance=1e-10, max_iterations=50000)
  code = flat(result.code)
  assert violation(problem.d, problem.x.ravel(), code, beta.ravel(), 1, False) < 1e-6
  assert np.all(np.asarray(result.code)[beta == 1e3] == 0)
  assert np.all(np.asarray(result.code)[beta == 0] != 0)


@functools.cache
def _compiled(solver, nonnegative):
  def run(atoms, x, beta, mask):
    return SOLVERS[solver](
      cscjax.MatrixDictionary(atoms),
      x,
      beta,
      mask=mask,
      tolerance=1e-9,
      max_iterations=100000,
      nonnegative=nonnegative,
    )

  return jax.jit(run)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["fista_adaptive", "fista_backtracking", "admm", "working_set"])
@given(
  seed=st.integers(0, 10**6),
  fraction=st.floats(0.02, 0.9),
  scale=st.floats(0.01, 100),
  amplitude=st.floats(0.01, 100),
  nonnegative=st.booleans(),
)
@settings(max_examples=20)
def test_optimality_of_random_problems(x64, solver, seed, fraction, scale, amplitude, nonnegative):
  """Scales of dictionary and signal vary; beta is a fraction of the one for which the code is zero."""
  rng = np.random.default_rng(seed)
  d, x = scale * rng.normal(size=(7, 10)), amplitude * rng.normal(size=7)
  mask = rng.uniform(0, 1, 7)
  largest = float(
    cscjax.beta_max(cscjax.MatrixDictionary(jnp.asarray(d)), x, nonnegative=nonnegative, mask=mask)
  )
  beta = fraction * max(largest, 1e-3)
  result = _compiled(solver, nonnegative)(d, x, beta, mask)
  assert bool(result.converged)
  assert violation(d, x, np.asarray(result.code), beta, mask, nonnegative) < 1e-4 * max(largest, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["fista_adaptive", "admm", "admm_rho", "working_set"])
def test_a_batch_is_each_signal_alone(x64, solver):
  """Each signal has its own steps, restarts and rho."""
  problem = accepted_by(SOLVERS[solver], EVERY["circular"]())
  x = np.stack([problem.x, 30 * problem.x[::-1], 0 * problem.x])
  run = functools.partial(
    SOLVERS[solver], problem.dictionary, beta=0.3, iterations=40, record=("objective",)
  )
  batch = run(x)
  for i in range(3):
    alone = run(x[i])
    np.testing.assert_allclose(batch.objective[:, i], alone.objective, rtol=1e-9)
    np.testing.assert_allclose(batch.code[i], alone.code, atol=1e-9)
  mapped = jax.vmap(lambda signal: run(signal))(x)
  np.testing.assert_allclose(mapped.code, batch.code, atol=1e-9)


@pytest.mark.parametrize(
  "solver",
  [
    "fista_adaptive",
    pytest.param("fista", marks=pytest.mark.slow),
    pytest.param("admm", marks=pytest.mark.slow),
  ],
)
def test_a_warm_start_from_the_solution_stays_there(x64, solver):
  problem = EVERY["same"]()
  run = functools.partial(SOLVERS[solver], problem.dictionary, problem.x, 0.2)
  solution = run(tolerance=1e-11, max_iterations=50000).code
  again = run(init=solution, tolerance=1e-6)
  assert int(again.iterations) == 10  # the first test
  np.testing.assert_allclose(again.code, solution, atol=1e-7)


@pytest.mark.parametrize("solver", ["ista", "fista_adaptive", "fista_backtracking"])
def test_a_searched_step_needs_no_lipschitz_constant(x64, solver, monkeypatch):
  def refuse(*_, **__):
    raise AssertionError("asked for L")

  monkeypatch.setattr("cscjax.solvers._arguments.lipschitz", refuse)
  problem = EVERY["same_strided"]()
  result = SOLVERS[solver](problem.dictionary, problem.x, 0.2, iterations=3)
  assert result.objective[-1] < result.objective[0]


@pytest.mark.parametrize("solve", [cscjax.fista, pytest.param(cscjax.ista, marks=pytest.mark.slow)])
def test_the_default_step_is_searched_if_there_is_a_tolerance(x64, solve):
  problem = EVERY["same_strided"]()
  run = functools.partial(solve, problem.dictionary, problem.x, 0.2)
  tested = {"tolerance": 1e-6, "max_iterations": 3000}
  np.testing.assert_array_equal(run(**tested).code, run(**tested, step="adaptive").code)
  for step, equal in ((None, True), ("adaptive", False)):
    given = run(iterations=4, step=1 / cscjax.lipschitz(problem.dictionary, problem.x.shape)).code
    assert np.array_equal(run(iterations=4, step=step).code, given) == equal


@pytest.mark.slow
def test_fewer_iterations_than_fista_with_a_fixed_step():
  """Encodes a high-passed photograph with cosine atoms, to a relative excess of 1e-4."""
  photograph = load_sample_image("china.jpg")[200:264, 300:364].mean(-1, keepdims=True) / 255
  x = jnp.asarray(photograph - tikhonov_lowpass(jnp.asarray(photograph), 5.0))
  t = np.arange(6)
  cosines = np.cos(np.pi * (2 * t[:, None] + 1) * t / 12)
  filters = np.einsum("iu,jv->ijuv", cosines, cosines).reshape(6, 6, 1, 36)
  filters = jnp.asarray(filters / np.linalg.norm(filters, axis=(0, 1)))
  dictionary = cscjax.ConvDictionary(filters, padding="CIRCULAR")
  run = {"dictionary": dictionary, "x": x, "beta": 0.02, "iterations": 400, "record": ("objective",)}
  runs = {
    "fista": cscjax.fista(**run),
    "adaptive": cscjax.fista(**run, step="adaptive"),
    "admm": cscjax.admm(**run),
  }
  best = min(float(result.objective[-1]) for result in runs.values())
  to = {name: int(np.argmax(result.objective < best * (1 + 1e-4))) for name, result in runs.items()}
  assert to["adaptive"] < 0.75 * to["fista"]
  assert to["admm"] < 0.75 * to["fista"]


def test_admm_takes_no_stride():
  strided = PROBLEMS["same_strided"]()
  with pytest.raises(ValueError, match=r"dictionary: .*stride 1"):
    cscjax.admm(strided.dictionary, strided.x, 0.1)
