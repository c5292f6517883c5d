"""Lemma 1, the uniqueness of a sparse code, and Lemma 2, the spectrum of an MSD-CSC dictionary."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks


def uniqueness_bound(coherence: ArrayLike) -> jax.Array:
  """Returns (1 + 1 / mu) / 2, the bound of Lemma 1 on the number of nonzeros of a unique code.

  A code with fewer nonzeros than this bound is the unique sparsest code of its signal x = D code.

  Args:
    coherence: The mutual coherence mu(D), as `mutual_coherence` returns it: a number in 0..1 or an array
      of any shape.

  Returns:
    The bound, of the shape of `coherence`: infinite where mu is zero and at least 1 elsewhere.
    It is NaN where mu is NaN, which is possible only inside `jax.jit`, where values cannot be checked.

  Raises:
    ValueError: If a coherence is negative, not finite or not a real number.

  References:
    Lemma 1 of Zhang & Zhang, Towards understanding residual and dilated dense neural networks via
    convolutional sparse coding, National Science Review 2020; mu(D) is the display after the lemma.
    Donoho & Elad, Optimally sparse representation in general (nonorthogonal) dictionaries via L1
    minimization, PNAS 2003.

  Example:
    >>> import cscjax
    >>> float(cscjax.uniqueness_bound(0.25))
    2.5
  """
  coherence = checks.real_array("coherence", coherence).astype(float)
  checks.all_at_least("coherence", coherence, 0)
  orthogonal = coherence == 0
  return jnp.where(orthogonal, jnp.inf, (1 + 1 / jnp.where(orthogonal, 1, coherence)) / 2)


def is_unique(sparsity: ArrayLike, coherence: ArrayLike) -> jax.Array:
  """Tests whether a code of this sparsity is the unique sparsest code of its signal.

  The test is sparsity < (1 + 1 / mu) / 2. It is sufficient, not necessary: a code that fails it can
  still be unique.

  The statement concerns codes over the atoms that are not zero, and so does the coherence. An atom that
  does not overlap the signal, for instance one inside the padding, is zero and can have any coefficient.
  A code that uses such an atom is not unique, but the two numbers cannot show it; `certify` also checks
  the atoms.

  Args:
    sparsity: Nonnegative number of nonzeros. `support_size` of a code gives the statement of Lemma 1.
      `stripe_sparsity` gives its local form: no other code of the signal is as sparse in its densest
      stripe.
    coherence: The mutual coherence mu(D) in 0..1. The shapes of the two arguments must broadcast.

  Returns:
    Booleans of the broadcast shape. A sparsity that is below the bound by less than the rounding error
    of the coherence counts as not below it.

  Raises:
    ValueError: If a value is negative or not finite, or if the shapes do not broadcast.

  References:
    Lemma 1 of Zhang & Zhang, National Science Review 2020 (Donoho & Elad, PNAS 2003).
    Local form: Theorem 5 of Papyan, Sulam & Elad, Working locally thinking globally: theoretical
    guarantees for convolutional sparse coding, IEEE Transactions on Signal Processing 2017.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> cscjax.theory.is_unique(jnp.array([1, 2, 3]), coherence=0.25).tolist()  # the bound is 2.5
    [True, True, False]
  """
  sparsity = checks.real_array("sparsity", sparsity)
  checks.all_at_least("sparsity", sparsity, 0)
  bound = uniqueness_bound(coherence)
  checks.broadcast_shape("sparsity", sparsity.shape, bound.shape)
  # The coherence of two equal atoms can be rounded to less than 1, which lifts the bound above 1.
  return sparsity.astype(bound.dtype) < bound * (1 - 100 * jnp.finfo(bound.dtype).eps)


def msd_csc_spectrum(eigenvalues: ArrayLike, columns: int) -> jax.Array:
  """Returns the eigenvalues of B = [I; A] [I, A^T] from those of A A^T, for a matrix A [r, c] (Lemma 2).

  B shares its nonzero eigenvalues with I + A^T A. Its spectrum therefore consists of r zeros and of
  1 + lambda for the c eigenvalues lambda of A^T A. The largest eigenvalue is 1 + lambda_max(A A^T), so
  the Lipschitz constants satisfy L_MSD-CSC = L_ML-CSC + 1, which `lipschitz` uses, and the penalty
  beta = b L grows by the threshold b.

  The paper states c zeros and r eigenvalues 1 + lambda instead. That is correct for square A, and the
  largest eigenvalue is always correct. For A = (1, 0) the spectrum is 0, 1, 2 and not 0, 0, 2.

  Args:
    eigenvalues: The r eigenvalues of A A^T, including zeros, in any order.
    columns: The number of columns c of A, >= 1.

  Returns:
    The eigenvalues of B in ascending order, of shape [r + c].

  Raises:
    ValueError: If `eigenvalues` is not a vector of finite numbers or if `columns` is less than 1.

  References:
    Lemma 2 of Zhang & Zhang, National Science Review 2020.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> A = jnp.array([[1.0, 0.0]])
    >>> cscjax.theory.msd_csc_spectrum(jnp.linalg.eigvalsh(A @ A.T), columns=2).round(3).tolist()
    [0.0, 1.0, 2.0]
  """
  checks.all_at_least("eigenvalues", eigenvalues, -jnp.inf)
  eigenvalues = jnp.asarray(eigenvalues, float)
  if eigenvalues.ndim != 1:
    checks.fail("eigenvalues", eigenvalues.shape, "a vector [r]")
  rows, columns = len(eigenvalues), checks.positive_int("columns", columns)
  # The spectra of A^T A and A A^T differ only in their numbers of zeros.
  shared = jnp.sort(jnp.concatenate([jnp.zeros(columns), eigenvalues]))[-columns:]
  return jnp.concatenate([jnp.zeros(rows), 1 + shared])
