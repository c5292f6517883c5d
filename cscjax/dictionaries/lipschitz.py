"""The Lipschitz constant of the data term's gradient, L = lambda_max(D^T D)."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from cscjax import checks
from cscjax.dictionaries.base import Dictionary, check_signal_shape
from cscjax.dictionaries.conv import ConvDictionary
from cscjax.dictionaries.frame import frame_spectrum
from cscjax.dictionaries.identity import IdentityAugmented
from cscjax.dictionaries.matrix import MatrixDictionary
from cscjax.ops import lanczos_max

FAILURE_PROBABILITY = 1e-6  # over the random start, that a certified L is too small


def lipschitz(
  dictionary: Dictionary,
  signal_shape: Sequence[int],
  *,
  tolerance: float = 0.01,
  key: jax.Array | None = None,
) -> jax.Array:
  """L = lambda_max(D^T D), the largest eigenvalue of the Gram matrix; at steps up to 1/L ISTA descends.

  Exact to rounding for dense dictionaries (singular values), for circular convolutions of stride 1
  (their Fourier transform diagonalises them in blocks, one a frequency) and for the identity beside
  either (Lemma 2: L = 1 + lambda_max(F F^T)). For everything else a certified upper bound,

      ritz / (1 - tolerance),   lambda_max <= it <= lambda_max / (1 - tolerance),

  with the largest Ritz value of k Lanczos steps on D D^T from a Gaussian start. The right side always
  holds; the left one fails with probability below 1e-6, for k is taken so that

      1.648 sqrt(n) exp(-sqrt(tolerance) (2 k - 1)) <= 1e-6

  (Kuczynski & Wozniakowski 1992, Theorem 4.2, for a start independent of the n x n matrix): about 100
  steps at the default, as many as the power method needs to stay 1 % below without a guarantee.

  Args:
    dictionary: Any dictionary.
    signal_shape: Shape of one signal without batch: (n,), (L, C) or (H, W, C).
    tolerance: In (0, 1). The steps grow as 1 / sqrt(tolerance). Below 1e-5 rounding of float32 counts.
    key: Of the start; jax.random.key(0) if None.

  Returns:
    A scalar of the dictionary's floating type, computed in float32 at least and, where that type is
    shorter, rounded up.

  Raises:
    ValueError: If `signal_shape` does not fit the dictionary or `tolerance` is out of range.
  """
  shape = check_signal_shape(dictionary, signal_shape)
  tolerance = checks.in_range("tolerance", tolerance, 0, 1, low_open=True)
  dtype = jnp.result_type(float, *jax.tree.leaves(dictionary))
  precise = jnp.promote_types(dtype, jnp.float32)
  dictionary = jax.tree.map(lambda leaf: jnp.asarray(leaf, precise), dictionary)
  bound = _lipschitz(dictionary, shape, tolerance, key)
  rounded = bound.astype(dtype)
  upward = rounded * (1 + jnp.finfo(dtype).eps)
  return jnp.where(rounded.astype(precise) < bound, upward, rounded)


@partial(jax.jit, static_argnames=("shape", "tolerance"))
def _lipschitz(dictionary, shape, tolerance, key):
  if isinstance(dictionary, IdentityAugmented):
    return 1 + _lipschitz(dictionary.conv, shape, tolerance, key)
  if isinstance(dictionary, MatrixDictionary):
    return jnp.linalg.norm(dictionary.atoms, ord=2) ** 2
  if isinstance(dictionary, ConvDictionary) and _is_circulant(dictionary):
    return jnp.max(jnp.linalg.eigvalsh(frame_spectrum(dictionary, shape)))
  dtype = jnp.result_type(*jax.tree.leaves(dictionary))
  start = jax.random.normal(jax.random.key(0) if key is None else key, shape, dtype)

  def frame(x):
    return dictionary.synthesis(dictionary.analysis(x), x.shape)

  return lanczos_max(frame, start, lanczos_steps(start.size, tolerance)) / (1 - tolerance)


def lanczos_steps(size: int, tolerance: float) -> int:
  """The k of `lipschitz` for an n x n matrix; n where that is less: the Krylov space is whole then."""
  bound = math.log(1.648 * math.sqrt(size) / FAILURE_PROBABILITY)
  return min(size, math.ceil((bound / math.sqrt(tolerance) + 1) / 2))


def _is_circulant(dictionary: ConvDictionary) -> bool:
  strides = jax.tree.leaves(dictionary.stride)
  return dictionary.padding == "CIRCULAR" and all(s == 1 for s in strides)
