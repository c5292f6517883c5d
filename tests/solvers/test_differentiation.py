"""Derivatives through the iterations, with rematerialisation, and of the solution itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from tests.solvers.problems import augmented, convolutional, dense

PROBLEMS = {
  "dense": lambda: dense(0),
  "circular": lambda: convolutional(padding="CIRCULAR"),
  "augmented": lambda: augmented(padding="SAME"),
}
CONVERGED = {
  "fista": functools.partial(cscjax.fista, tolerance=1e-12, max_iterations=20000),
  "fista_adaptive": functools.partial(
    cscjax.fista, step="adaptive", tolerance=1e-12, max_iterations=20000
  ),
  "ista_fixed": functools.partial(cscjax.ista, iterations=5000, differentiate="implicit"),
  "admm": functools.partial(cscjax.admm, tolerance=1e-12, max_iterations=20000),
}


def loss(solve, weights, dictionary, x, beta, mask):
  code = solve(dictionary, x, beta, mask=mask).code
  parts = jax.tree.map(lambda c, w: jnp.sum(w * c + c * c), code, weights)
  return sum(jax.tree.leaves(parts))


def case(name):
  problem = PROBLEMS[name]()
  rng = np.random.default_rng(7)
  shapes = jax.eval_shape(problem.dictionary.analysis, problem.x)
  weights = jax.tree.map(lambda s: rng.normal(size=s.shape), shapes)
  beta = jax.tree.map(lambda s: rng.uniform(0.3, 0.4, s.shape[-1:]), shapes)
  mask = rng.uniform(0.5, 0.9, problem.x.shape)
  return weights, (problem.dictionary, jnp.asarray(problem.x), beta, mask), rng


def directions(arguments, rng):
  """A random direction in each argument, the others at rest."""
  for i in range(len(arguments)):
    yield tuple(
      jax.tree.map(lambda a, on=i == j: rng.normal(size=np.shape(a)) * on, argument)
      for j, argument in enumerate(arguments)
    )


def moved(arguments, direction, h):
  return jax.tree.map(lambda a, d: a + h * d, arguments, direction)


@pytest.mark.parametrize(
  ("solver", "name"),
  [("fista", "dense"), ("fista_adaptive", "circular"), ("ista_fixed", "dense"), ("admm", "augmented")],
)
@pytest.mark.parametrize("nonnegative", [False, True], ids=["signed", "nonnegative"])
def test_implicit_against_finite_differences(x64, solver, name, nonnegative):
  """By dictionary, signal, penalty and mask; forward mode is reverse mode's transpose."""
  solve = functools.partial(CONVERGED[solver], nonnegative=nonnegative)
  weights, arguments, rng = case(name)
  function = jax.jit(functools.partial(loss, solve, weights))
  gradients = jax.jit(jax.grad(function, argnums=(0, 1, 2, 3)))(*arguments)
  jvp = jax.jit(lambda a, d: jax.jvp(function, a, d)[1])
  for direction in directions(arguments, rng):
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradients, direction)
    slope = sum(jax.tree.leaves(products))
    h = 1e-5
    difference = function(*moved(arguments, direction, h)) - function(*moved(arguments, direction, -h))
    np.testing.assert_allclose(slope, difference / (2 * h), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(jvp(arguments, direction), slope, rtol=1e-6)
    assert abs(slope) > 1e-3


def test_implicit_is_the_limit_of_unrolled(x64):
  weights, arguments, _ = case("circular")
  gradients = {
    mode: jax.grad(
      functools.partial(
        loss, functools.partial(cscjax.fista, iterations=2000, differentiate=mode), weights
      )
    )(*arguments).filters
    for mode in ("unrolled", "remat", "implicit")
  }
  np.testing.assert_allclose(gradients["remat"], gradients["unrolled"], rtol=1e-10)
  np.testing.assert_allclose(gradients["implicit"], gradients["unrolled"], rtol=1e-5, atol=1e-7)
  assert np.linalg.norm(gradients["implicit"]) > 1e-3


@pytest.mark.parametrize("iterations", [0, 1, 2, 7, 16, 17])
def test_remat_returns_what_unrolled_does(x64, iterations):
  problem = dense(2)
  results = [
    cscjax.fista(
      problem.dictionary,
      problem.x,
      0.1,
      iterations=iterations,
      differentiate=mode,
      record=("objective", "step_residual", "support"),
    )
    for mode in ("unrolled", "remat")
  ]
  for one, other in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-12)
  assert results[1].objective.shape == (iterations + 1,)


def test_unrolled_admm_against_finite_differences(x64):
  weights, arguments, rng = case("circular")
  solve = functools.partial(cscjax.admm, iterations=7)
  function = jax.jit(functools.partial(loss, solve, weights))
  gradients = jax.grad(function, argnums=(0, 1, 2, 3))(*arguments)
  for direction in directions(arguments, rng):
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradients, direction)
    h = 1e-6
    difference = function(*moved(arguments, direction, h)) - function(*moved(arguments, direction, -h))
    np.testing.assert_allclose(
      sum(jax.tree.leaves(products)), difference / (2 * h), rtol=1e-4, atol=1e-6
    )


def test_implicit_gradients_under_vmap(x64):
  problem = convolutional(padding="CIRCULAR")
  x = np.stack([problem.x, 2 * problem.x[::-1]])

  def norm(x):
    return jnp.sum(
      cscjax.fista(problem.dictionary, x, 0.3, tolerance=1e-10, max_iterations=5000).code ** 2
    )

  np.testing.assert_allclose(jax.vmap(jax.grad(norm))(x), jax.grad(norm)(x), rtol=1e-5, atol=1e-7)


def memory(mode, iterations):
  filters = jnp.ones((5, 5, 1, 8)) / 10
  x = jnp.ones((24, 24, 1))

  def norm(filters):
    dictionary = cscjax.ConvDictionary(filters)
    result = cscjax.fista(
      dictionary, x, 0.1, iterations=iterations, step=0.1, record=(), differentiate=mode
    )
    return jnp.sum(result.code**2)

  plan = jax.jit(jax.grad(norm)).lower(filters).compile().memory_analysis()
  return plan.temp_size_in_bytes


@pytest.mark.optimized
def test_memory_against_iterations():
  """Unrolled grows as they do, with rematerialisation as their square root, implicit not at all."""
  unrolled, remat, implicit = (
    memory(mode, 400) / memory(mode, 25) for mode in ("unrolled", "remat", "implicit")
  )
  assert unrolled > 8
  assert 1.2 < remat < 6
  assert implicit < 1.05
