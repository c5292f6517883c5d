"""The spectrum of the MSD-CSC dictionary (Lemma 2)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks


def msd_csc_spectrum(eigenvalues: ArrayLike, columns: int) -> jax.Array:
  """Eigenvalues of B = [I; A] [I, A^T] from those of A A^T, for a matrix A [r, c] (Lemma 2).

  B shares its nonzero eigenvalues with I + A^T A: it has r zeros and 1 + the c eigenvalues of A^T A. The
  largest is 1 + lambda_max(A A^T), so L_MSD-CSC = L_ML-CSC + 1, which `lipschitz` uses, and beta = b L
  grows by the threshold b. (The paper gives c zeros and the r values 1 + lambda_i; that is right for
  square A, and for the largest eigenvalue always. A = (1, 0) has the spectrum 0, 1, 2, not 0, 0, 2.)

  Args:
    eigenvalues: [r], those of A A^T, zeros among them included.
    columns: c.

  Returns:
    [r + c], ascending.

  Raises:
    ValueError: If `eigenvalues` is no vector of finite numbers or `columns` is below 1.
  """
  checks.all_at_least("eigenvalues", eigenvalues, -jnp.inf)
  eigenvalues = jnp.asarray(eigenvalues, float)
  if eigenvalues.ndim != 1:
    checks.fail("eigenvalues", eigenvalues.shape, "a vector [r]")
  rows, columns = len(eigenvalues), checks.positive_int("columns", columns)
  # A^T A has those of A A^T, but for as many zeros as it is smaller or larger.
  shared = jnp.sort(jnp.concatenate([jnp.zeros(columns), eigenvalues]))[-columns:]
  return jnp.concatenate([jnp.zeros(rows), 1 + shared])
