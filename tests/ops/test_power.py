"""Compares the power method with the eigenvalues of a dense matrix."""

import jax.numpy as jnp
import numpy as np

from cscjax import ops


def test_largest_eigenvalue_and_its_vector(x64):
  root = np.random.default_rng(0).normal(size=(6, 6))
  matrix = root @ root.T
  values, vectors = np.linalg.eigh(matrix)
  value, vector = ops.power_iteration(lambda v: matrix @ v, jnp.ones(6), 500)
  np.testing.assert_allclose(value, values[-1], rtol=1e-10)
  np.testing.assert_allclose(abs(vector @ vectors[:, -1]), 1, rtol=1e-10)


def test_rises_from_below(x64):
  root = np.random.default_rng(1).normal(size=(8, 8))
  matrix = root @ root.T
  start = np.random.default_rng(2).normal(size=8)
  found = [ops.power_iteration(lambda v: matrix @ v, start, n)[0] for n in (1, 2, 4, 8, 16)]
  assert np.all(np.diff(found) > 0)
  assert found[-1] < np.linalg.eigvalsh(matrix)[-1]


def test_continues_from_its_vector(x64):
  matrix = np.diag([3.0, 2.0, 1.0])
  _, vector = ops.power_iteration(lambda v: matrix @ v, jnp.ones(3), 4)
  resumed = ops.power_iteration(lambda v: matrix @ v, vector, 3)
  at_once = ops.power_iteration(lambda v: matrix @ v, jnp.ones(3), 7)
  np.testing.assert_allclose(resumed[0], at_once[0], rtol=1e-13)
  np.testing.assert_allclose(resumed[1], at_once[1], rtol=1e-13)


def test_pytree(x64):
  """The norm is taken over all leaves together; here they are eigenvectors for 2 and 5."""
  value, (small, large) = ops.power_iteration(
    lambda v: (2 * v[0], 5 * v[1]), (jnp.ones(3), jnp.ones((2, 2))), 60
  )
  np.testing.assert_allclose(value, 5, rtol=1e-12)
  np.testing.assert_allclose(small, 0, atol=1e-12)
  np.testing.assert_allclose(large, 0.5, rtol=1e-12)


def test_zero_map():
  value, vector = ops.power_iteration(jnp.zeros_like, jnp.ones(3), 5)
  assert value == 0
  np.testing.assert_array_equal(vector, 0)
