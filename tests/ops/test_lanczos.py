"""Compares the largest Ritz value with dense eigenvalues, also if the Krylov space is exhausted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax import ops


def _psd(eigenvalues, seed=0):
  n = len(eigenvalues)
  basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
  return basis @ np.diag(eigenvalues) @ basis.T


@pytest.mark.slow
def test_is_the_largest_ritz_value_of_the_krylov_space(x64):
  """Compares with the Ritz value for an orthonormal basis of the Krylov space."""
  matrix, start = _psd(np.linspace(0.1, 3, 12)), np.random.default_rng(1).normal(size=12)
  previous = 0.0
  for k in (1, 2, 3, 5, 8):
    krylov = [start]
    for _ in range(k - 1):
      krylov.append(matrix @ krylov[-1])
    basis = np.linalg.qr(np.stack(krylov, 1))[0]
    expected = np.linalg.eigvalsh(basis.T @ matrix @ basis)[-1]
    found = float(ops.lanczos_max(lambda v: jnp.asarray(matrix) @ v, jnp.asarray(start), k))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert previous < found < 3
    previous = found


@pytest.mark.parametrize("n", [1, 2, 9])
def test_more_iterations_than_dimensions_are_exact(x64, n):
  matrix = jnp.asarray(_psd(np.linspace(1, 2, n)))
  found = ops.lanczos_max(lambda v: matrix @ v, jnp.asarray(np.random.default_rng(2).normal(size=n)), 50)
  np.testing.assert_allclose(found, np.linalg.eigvalsh(matrix)[-1], rtol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
  "eigenvalues",
  [np.full(30, 2.0), np.r_[np.zeros(27), 1, 2, 5], np.r_[np.full(29, 1e-9), 4], np.zeros(30)],
  ids=["identity", "rank_3", "rank_1", "zero"],
)
def test_exhausted_space(x64, eigenvalues, dtype):
  """With few different eigenvalues the recurrence breaks down long before k iterations."""
  matrix = jnp.asarray(_psd(eigenvalues), dtype)
  start = jnp.asarray(np.random.default_rng(3).normal(size=30), dtype)
  found = ops.lanczos_max(lambda v: matrix @ v, start, 30)
  assert found.dtype == dtype
  np.testing.assert_allclose(found, max(eigenvalues), rtol=1e-5 if dtype == jnp.float32 else 1e-12)


def test_many_steps_after_convergence_do_not_overshoot():
  """By then, rounding has destroyed the orthogonality of the basis."""
  eigenvalues = np.r_[np.linspace(0, 1, 399), 3.0]
  matrix = jnp.asarray(_psd(eigenvalues), jnp.float32)
  start = jax.random.normal(jax.random.key(0), (20, 20))
  found = ops.lanczos_max(lambda v: (matrix @ v.ravel()).reshape(v.shape), start, 300)
  np.testing.assert_allclose(found, 3, rtol=1e-5)


def test_zero_start():
  assert ops.lanczos_max(lambda v: 2 * v, jnp.zeros(4), 3) == 0


def test_under_jit_and_vmap(x64):
  matrices = jnp.asarray(np.stack([_psd(np.linspace(0, top, 6)) for top in (1.0, 2.0, 3.0)]))
  start = jnp.asarray(np.random.default_rng(4).normal(size=6))
  found = jax.jit(jax.vmap(lambda a: ops.lanczos_max(lambda v: a @ v, start, 6)))(matrices)
  np.testing.assert_allclose(found, [1, 2, 3], rtol=1e-9)


def test_zero_iterations_are_refused():
  with pytest.raises(ValueError, match="iterations"):
    ops.lanczos_max(lambda v: v, jnp.ones(3), 0)
