"""Properties of a dictionary as functions, which also take one that implements only the protocol."""

from collections.abc import Sequence

import jax

from cscjax import ops
from cscjax.dictionaries._abstract import with_methods
from cscjax.dictionaries._embedding import CirculantEmbedding
from cscjax.dictionaries._protocol import Code, Dictionary, check_dictionary, check_signal_shape


def lipschitz(
  dictionary: Dictionary,
  signal_shape: Sequence[int],
  *,
  tolerance: float | None = None,
  key: jax.Array | None = None,
) -> jax.Array:
  """Computes the Lipschitz constant L = lambda_max(D^T D) of the gradient of 1/2 ||x - D code||^2.

  The result is L or an upper bound of it, up to rounding. The objective of ISTA decreases in every
  iteration if the step size is at most 1/L.

  L is exact for a dense dictionary, for a circular convolution whose strides divide the size of the
  signal, and for any dictionary whose signals or codes have at most 256 entries. For [I, F^T] it is one
  plus the result for F^T (Lemma 2: L = 1 + lambda_max(F F^T)).

  For zero-padded convolutions, the result is an upper bound that costs next to nothing: the largest
  eigenvalue of the symbol, the Fourier transform of the polyphase components of the filters (see
  `lipschitz_bound`). It converges to L as signals grow. With 32 random filters of 8x8 pixels, it was
  1.10 times L on images of 17x17, 1.03 times on 31x31 and 1.006 times on 64x64; on 256x256 it took 17 ms
  instead of the second of the Lanczos method (two busy cores of an AMD EPYC, 2026-11-27).

  For dictionaries of other classes, for circular convolutions of other strides, and for larger dense
  dictionaries and convolutions with a `tolerance`, the result is a certified upper bound by the Lanczos
  method,

      lambda_max <= ritz / (1 - tolerance) <= lambda_max / (1 - tolerance).

  Here ritz is the largest Ritz value after k iterations for D D^T with a Gaussian start. The right
  inequality always holds. The left inequality fails with probability below 1e-6, because k is chosen
  such that

      1.648 sqrt(n) exp(-sqrt(tolerance) (2 k - 1)) <= 1e-6

  for signals with n samples (Kuczynski & Wozniakowski 1992, Theorem 4.2). For a tolerance of 0.01, k is
  about 100.

  Args:
    dictionary: Any dictionary.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).
    tolerance: Relative tolerance of the upper bound, in (0, 1). The cost grows as 1 / sqrt(tolerance)
      where L is not computed exactly. Below 1e-5 the rounding errors of float32 are no longer
      negligible. If None, zero-padded convolutions use the bound by the symbol, dense dictionaries
      compute all eigenvalues, and the default is 0.01 for all others.
    key: Random key of the start of the Lanczos method, chosen independently of the dictionary. Default:
      `jax.random.key(0)`.

  Returns:
    A scalar of the floating-point type of the dictionary, computed in at least float32. In a type of
    lower precision it is rounded up.

  Raises:
    ValueError: If `dictionary` is not a dictionary, if `signal_shape` does not fit it, if `tolerance` is
      not in (0, 1), or if `key` is not a random key.

  References:
    Kuczynski, J., Wozniakowski, H.: Estimating the largest eigenvalue by the power and Lanczos
    algorithms with a random start. SIAM Journal on Matrix Analysis and Applications 13(4), 1992.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> mean = cscjax.ConvDictionary(jnp.ones((3, 1, 1)) / 3, padding="CIRCULAR")
    >>> round(float(cscjax.lipschitz(mean, (64, 1))), 3)
    1.0
  """
  check_dictionary(dictionary)
  return with_methods(dictionary).lipschitz(signal_shape, tolerance=tolerance, key=key)


@ops.highest_precision
def lipschitz_bound(dictionary: Dictionary, signal_shape: Sequence[int]) -> jax.Array:
  """Computes an upper bound of L = lambda_max(D^T D) for a convolution, fast and without randomness.

  The bound costs a fixed number of small matrix products, so a network can compute it in every training
  step. `lipschitz` is closer to L, but costs more: a finer grid, or about 100 applications of D D^T.

  The symbol S(theta) of a convolution is the Fourier transform of its filters, or of their polyphase
  components if the stride is above 1. L is bounded by the maximum over all theta of the largest
  eigenvalue of G(theta) = S(theta) S(theta)^H, for zero padding as well as for circular signals. Two
  inequalities bound this maximum:

  - lambda_max(G) <= (tr G^32)^(1/32). For an s x s matrix G this is too large by a factor of at most
    s^(1/32) (1.11 for s = 32, 1.14 for s = 64), with s <= min(C, m) at stride 1.
  - For a unit vector v, v^H G(theta) v is a nonnegative trigonometric polynomial, of degree n = k - 1
    along an axis with k taps at stride 1. Its maximum is at most the maximum over a grid of N points
    divided by cos^2(pi n / (2 N)), a factor of 1.04 per axis for N = 8 n. For small signals this factor
    is not needed on a grid with about as many points as the padded signal has samples: there the
    matrices G have the eigenvalues of C C^T for a circulant matrix C (with a change of sign, for zero
    padding) of which D is a submatrix.

  For random 3x3 filters as in the networks of the paper and images of 8x8 to 32x32 pixels, the bound was
  1.02 to 1.18 times L. It is less tight if a signal has few samples per residue of the dilation: up to
  1.32 times L for dilation 3 on images of 8x8, or 1.23 times with the identity augmented.

  Args:
    dictionary: A `ConvDictionary`, or an `IdentityAugmented`, for which the bound is that of its
      convolution plus 1 (Lemma 2).
    signal_shape: Shape of one signal without batch axes: (L, C) or (H, W, C).

  Returns:
    A scalar in float32, or in float64 for filters in float64. It includes a margin for rounding errors
    and is zero if all filters are zero. No gradient flows through it.

  Raises:
    ValueError: If `dictionary` is neither of the two, or if `signal_shape` does not fit it.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import lipschitz_bound
    >>> mean = cscjax.ConvDictionary(jnp.ones((3, 1, 1)) / 3)
    >>> bool(cscjax.lipschitz(mean, (64, 1)) <= lipschitz_bound(mean, (64, 1)) < 1.1)
    True
  """
  shape = check_signal_shape(dictionary, signal_shape)
  return with_methods(dictionary).compute_lipschitz_bound(shape)


def mutual_coherence(dictionary: Dictionary, signal_shape: Sequence[int] | None = None) -> jax.Array:
  """Computes the mutual coherence of a dictionary: the largest absolute cosine between two of its atoms.

  It is `mu(D) = max_{i != j} |<d_i, d_j>| / (||d_i|| ||d_j||)` (Lemma 1). Atoms that are zero are
  ignored. Neither the matrix of the dictionary nor its whole Gram matrix is stored.

  Without `signal_shape`, the atoms are all shifts of the filters on an unbounded grid, where no border
  cuts them. With dilation, two shifts have taps in common only if `stride * p = dilation * u`, where p
  is a shift of the code and u a shift of the taps. Hence mu depends on a stride s and a dilation t only
  through s / gcd(s, t): dilation does not change it at stride 1, and can only increase it at other
  strides.

  With `signal_shape`, the atoms are the columns of `to_matrix`. Atoms that are cut by a border and
  shifts around a circle are included; atoms that do not fit into the signal are not. In the example of
  Fig. S1 (mu is 0.47, and 0 with dilation 2) the dilated atoms that would overlap no longer fit into the
  image. Dilation can also increase mu, if it makes a border cut atoms or shifts around a circle overlap
  twice. For convolutions, the cost does not grow with signals beyond about twice the extent of a filter,
  because larger signals have the same pairs of overlapping atoms.

  Args:
    dictionary: Any dictionary.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C). It is not needed for
      a `MatrixDictionary`, and required for dictionaries that are not of this package.

  Returns:
    A scalar in [0, 1] of the floating-point type of the dictionary, computed in at least float32. It is
    zero for a single atom.

  Raises:
    ValueError: If `dictionary` is not a dictionary, or if `signal_shape` does not fit it or is missing
      although it is required.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> filters = jnp.array([1.0, 2.0]).reshape(2, 1, 1)
    >>> round(float(cscjax.mutual_coherence(cscjax.ConvDictionary(filters))), 3)  # 2 / (1 + 4)
    0.4
  """
  check_dictionary(dictionary)
  return with_methods(dictionary).mutual_coherence(signal_shape)


def atom_norms(dictionary: Dictionary, signal_shape: Sequence[int]) -> Code:
  """Computes the norm of every atom, including those that are cut by a border.

  Args:
    dictionary: Any dictionary.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).

  Returns:
    The norms, as a code without batch axes.

  Raises:
    ValueError: If `dictionary` is not a dictionary, or if `signal_shape` does not fit it.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import atom_norms
    >>> norms = atom_norms(cscjax.MatrixDictionary(jnp.array([[3.0, 0.0], [4.0, 1.0]])), (2,))
    >>> [round(float(norm), 3) for norm in norms]
    [5.0, 1.0]
  """
  check_dictionary(dictionary)
  return with_methods(dictionary).atom_norms(signal_shape)


def circulant_embedding(dictionary: Dictionary, signal_shape: Sequence[int]) -> CirculantEmbedding:
  """Embeds a dictionary in a circular one, which the Fourier transform block-diagonalizes.

  `admm` uses the embedding. To use `admm` with a dictionary of your own, derive it from
  `AbstractDictionary` and override its method `circulant_embedding`.

  Args:
    dictionary: A `MatrixDictionary`, a `ConvDictionary` of stride 1, an `IdentityAugmented`, a
      composition of these that has an embedding, or an `AbstractDictionary` of your own with the method
      `circulant_embedding`.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).

  Returns:
    The embedding, which is trivial for dense and circular dictionaries.

  Raises:
    ValueError: If `dictionary` has no embedding, or if `signal_shape` does not fit it.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import AbstractDictionary, CirculantEmbedding, circulant_embedding
    >>> dictionary = cscjax.ConvDictionary(jnp.arange(1.0, 4.0).reshape(3, 1, 1))
    >>> embedding = circulant_embedding(dictionary, (8, 1))
    >>> code = jnp.arange(8.0)[:, None]
    >>> circular_signal = embedding.dictionary.synthesis(embedding.embed_code(code))
    >>> circular_signal.shape
    (10, 1)
    >>> bool(jnp.allclose(embedding.crop_signal(circular_signal), dictionary.synthesis(code)))
    True
    >>> def inverse(dictionary, ridge, x):
    ...   return x / (1 + ridge), dictionary.analysis(x) / (1 + ridge)
    >>> class Reversal(AbstractDictionary):  # D D^T = I
    ...   signal_ndim = 1
    ...   def analysis(self, x):
    ...     return x[..., ::-1]
    ...   def synthesis(self, code, signal_shape=None):
    ...     return code[..., ::-1]
    ...   def circulant_embedding(self, signal_shape, margins=None):
    ...     ridge_inverse = lambda ridge: jax.tree_util.Partial(inverse, self, ridge)
    ...     return CirculantEmbedding(self, signal_shape, ridge_inverse, squared_norm=1.0)
    >>> result = cscjax.admm(Reversal(), jnp.array([3.0, 0.2, 1.0]), beta=0.5, tolerance=1e-5)
    >>> [round(float(coefficient), 2) for coefficient in result.code]
    [0.5, 0.0, 2.5]
  """
  shape = check_signal_shape(dictionary, signal_shape)
  return with_methods(dictionary).circulant_embedding(shape)
