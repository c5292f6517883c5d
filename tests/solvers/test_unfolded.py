"""Tests of the unfolded pursuit of the networks against dense NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from tests import references
from tests.solvers.problems import PROBLEMS, augmented, dense, flat

THRESHOLDS = (0.1, 0.03, 0.2, 0.05)  # all different, so that a wrong order is noticed


def _reference(d, x, shrinks, step, solver):
  """Returns the code of the dense recursion, where shrinks[k] acts on the flat code."""
  code = shrinks[0](d.T @ x)
  old, t = code, 1.0
  for shrink in shrinks[1:]:
    t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
    y = code + (t - 1) / t_next * (code - old) if solver == "fista" else code
    t = t_next
    old, code = code, shrink(y - step * d.T @ (d @ y - x))
  return code


@pytest.mark.parametrize("solver", ["ista", "fista"])
@pytest.mark.parametrize("unfolding", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["dense", "augmented"])
def test_against_numpy(x64, name, unfolding, solver):
  problem = PROBLEMS[name]()
  thresholds = THRESHOLDS[: unfolding + 1]
  code = cscjax.unfolded_pursuit(
    problem.dictionary,
    jnp.asarray(problem.x),
    [lambda c, b=b: jax.tree.map(lambda p: cscjax.soft_threshold(p, b), c) for b in thresholds],
    step=problem.step,
    solver=solver,
  )
  shrinks = [lambda v, b=b: references.soft(v, b) for b in thresholds]
  expected = _reference(problem.d, problem.x.ravel(), shrinks, problem.step, solver)
  np.testing.assert_allclose(flat(code), expected, atol=1e-12)


@pytest.mark.parametrize("solver", ["ista", "fista"])
@pytest.mark.parametrize("unfolding", [0, 1, 2, 3])
def test_layer_of_the_networks(x64, unfolding, solver):
  """The kept part starts as the signal; its first channel may be negative, the other is clipped."""
  problem = augmented(padding="SAME", dilation=2)
  size = problem.x.size

  def first(code):
    return code[0], jax.nn.relu(code[1] - 0.1)

  def later(code):
    kept = jnp.where(jnp.arange(2) >= 1, jax.nn.relu(code[0]), code[0])
    return kept, jax.nn.relu(code[1] - 0.1)

  def later_dense(v):
    kept = v[:size].reshape(-1, 2).copy()
    kept[:, 1] = np.maximum(kept[:, 1], 0)
    return np.concatenate([kept.ravel(), np.maximum(v[size:] - 0.1, 0)])

  code = cscjax.unfolded_pursuit(
    problem.dictionary,
    jnp.asarray(problem.x),
    [first] + [later] * unfolding,
    step=problem.step,
    solver=solver,
  )
  shrinks = [lambda v: np.concatenate([v[:size], np.maximum(v[size:] - 0.1, 0)])]
  shrinks += [later_dense] * unfolding
  expected = _reference(problem.d, problem.x.ravel(), shrinks, problem.step, solver)
  np.testing.assert_allclose(flat(code), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["dense", "augmented"])
def test_ista_and_fista_part_at_two_unfoldings(x64, name):
  problem = PROBLEMS[name]()

  def run(unfolding, solver):
    proxes = [lambda c: jax.tree.map(lambda p: cscjax.soft_threshold(p, 0.05), c)] * (unfolding + 1)
    return flat(
      cscjax.unfolded_pursuit(
        problem.dictionary, jnp.asarray(problem.x), proxes, step=problem.step, solver=solver
      )
    )

  for unfolding in (0, 1):
    np.testing.assert_array_equal(run(unfolding, "fista"), run(unfolding, "ista"))
  for unfolding in (2, 3):
    assert np.max(np.abs(run(unfolding, "fista") - run(unfolding, "ista"))) > 1e-3


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["dense", "augmented"])
def test_each_unfolding_lowers_the_objective(x64, kind, seed):
  problem = dense(seed) if kind == "dense" else augmented(seed, padding="SAME")
  beta = 0.2
  objectives = []
  for unfolding in range(6):
    proxes = [
      lambda c: jax.tree.map(lambda p: cscjax.nonnegative_soft_threshold(p, beta * problem.step), c)
    ] * (unfolding + 1)
    code = cscjax.unfolded_pursuit(problem.dictionary, jnp.asarray(problem.x), proxes, step=problem.step)
    objectives.append(references.lasso_objective(problem.d, problem.x.ravel(), flat(code), beta))
  assert np.all(np.diff(objectives) < 0)


@pytest.mark.parametrize("solver", ["ista", "fista"])
def test_jit_and_grad(x64, solver):
  problem = augmented(padding="CIRCULAR")
  weights = np.random.default_rng(0).normal(size=problem.d.shape[1])

  def loss(dictionary, x, step):
    proxes = [lambda c: (c[0], cscjax.nonnegative_soft_threshold(c[1], 0.1))] * 3
    kept, new = cscjax.unfolded_pursuit(dictionary, x, proxes, step=step, solver=solver)
    return weights @ jnp.concatenate([kept.ravel(), new.ravel()])

  arguments = (problem.dictionary, jnp.asarray(problem.x), 0.8 * problem.step)
  eager, loss = loss(*arguments), jax.jit(loss)
  np.testing.assert_allclose(loss(*arguments), eager, rtol=1e-12)
  by_x = jax.grad(loss, argnums=1)(*arguments)
  h, direction = 1e-6, np.random.default_rng(1).normal(size=problem.x.shape)
  upper = loss(arguments[0], arguments[1] + h * direction, arguments[2])
  lower = loss(arguments[0], arguments[1] - h * direction, arguments[2])
  np.testing.assert_allclose(np.sum(by_x * direction), (upper - lower) / (2 * h), rtol=1e-6)
