"""When a sparse code is the only one so sparse (Lemma 1); the spectrum of MSD-CSC (Lemma 2)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks


def uniqueness_bound(coherence: ArrayLike) -> jax.Array:
  """(1 + 1 / mu) / 2 of Lemma 1 (Donoho & Elad 2003): a code with fewer nonzeros is the sparsest one.

  Args:
    coherence: mu(D) by `mutual_coherence`, in 0..1, any shape.

  Returns:
    The bound, infinite at mu = 0 and NaN at NaN (under jit, where nothing can be raised).

  Raises:
    ValueError: If a coherence is negative or not finite.
  """
  coherence = checks.real_array("coherence", coherence).astype(float)
  checks.all_at_least("coherence", coherence, 0)
  orthogonal = coherence == 0
  return jnp.where(orthogonal, jnp.inf, (1 + 1 / jnp.where(orthogonal, 1, coherence)) / 2)


def is_unique(sparsity: ArrayLike, coherence: ArrayLike) -> jax.Array:
  """Whether a code of this sparsity is the unique sparsest one of the signal it makes.

  Sufficient, not necessary. The statement is about codes over the atoms that are not zero, as the
  coherence is: atoms that touch the signal nowhere, such as those that lie in the padding, can have any
  coefficient. A code that uses such an atom is not unique, which these two numbers cannot tell;
  `certify` looks at the atoms too.

  Args:
    sparsity: `support_size` of a code for Lemma 1; `stripe_sparsity` for the local form (Papyan, Sulam &
      Elad 2017, Theorem 5), which says that no other code is as sparse in its densest stripe.
    coherence: mu(D). Shapes broadcast. A sparsity that is below the bound by no more than the rounding
      of the coherence counts as reaching it.

  Raises:
    ValueError: If a value is negative or not finite, or the shapes do not broadcast.
  """
  sparsity = checks.real_array("sparsity", sparsity)
  checks.all_at_least("sparsity", sparsity, 0)
  bound = uniqueness_bound(coherence)
  checks.broadcast_shape("sparsity", sparsity.shape, bound.shape)
  # Of two equal atoms the coherence can be below 1 by rounding, the bound then above 1.
  return sparsity.astype(bound.dtype) < bound * (1 - 100 * jnp.finfo(bound.dtype).eps)


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
