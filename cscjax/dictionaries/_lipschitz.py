"""The Lipschitz constant of the data term's gradient, L = lambda_max(D^T D)."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from cscjax import checks, ops
from cscjax.dictionaries._base import Dictionary, check_signal_shape, floating_type, in_single_precision
from cscjax.dictionaries._circulant import largest_eigenvalue, largest_gram_eigenvalue
from cscjax.dictionaries._conv import ConvDictionary
from cscjax.dictionaries._identity import IdentityAugmented
from cscjax.dictionaries._matrix import MatrixDictionary

FAILURE_PROBABILITY = 1e-6  # over the random start, that a certified L is too small


@ops.highest_precision
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
    ValueError: If `signal_shape` does not fit the dictionary, `tolerance` is out of range or `key` is no
      random key.
  """
  shape = check_signal_shape(dictionary, signal_shape)
  if key is not None:
    checks.prng_key("key", key)
  tolerance = checks.in_range("tolerance", tolerance, 0, 1, low_open=True)
  dtype = floating_type(dictionary, shape)
  bound = _lipschitz(in_single_precision(dictionary), shape, tolerance, key)
  precise, rounded = bound.dtype, bound.astype(dtype)
  upward = rounded * (1 + jnp.finfo(dtype).eps)
  return jnp.where(rounded.astype(precise) < bound, upward, rounded)


@partial(jax.jit, static_argnames=("shape", "tolerance"))
def _lipschitz(dictionary, shape, tolerance, key):
  if isinstance(dictionary, IdentityAugmented):
    return 1 + _lipschitz(dictionary.conv, shape, tolerance, key)
  if isinstance(dictionary, MatrixDictionary):
    atoms, scale = ops.scaled(dictionary.atoms)
    wide = atoms if atoms.shape[0] < atoms.shape[1] else atoms.T
    gram = wide @ wide.T
    return scale * (scale * largest_eigenvalue(gram))
  if isinstance(dictionary, ConvDictionary) and _is_circulant(dictionary):
    filters, scale = ops.scaled(dictionary.filters)
    return scale * (scale * largest_gram_eigenvalue(dictionary.replace(filters=filters), shape[:-1]))
  dtype = floating_type(dictionary, shape)
  key = jax.random.key(0, impl="threefry2x32") if key is None else key
  start = jax.random.normal(key, shape, dtype)
  return _largest_ritz_value(dictionary, start, lanczos_steps(start.size, tolerance)) / (1 - tolerance)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _largest_ritz_value(dictionary, start, iterations):
  """Of D D^T; the derivative v^T d(D D^T) v, v the Ritz vector, is finite for repeated eigenvalues."""
  frame, scale = _frame(dictionary, start)
  return scale * (scale * ops.lanczos_max(frame, start, iterations))


@_largest_ritz_value.defjvp
@ops.highest_precision
def _(iterations, primals, tangents):
  dictionary, start = primals
  frame, scale = _frame(dictionary, start)
  vector = ops.lanczos_vector(frame, start, iterations)

  def quotient(dictionary):
    parts = jax.tree.leaves(dictionary.analysis(vector))
    return sum(jnp.sum(jnp.square(part / scale)) for part in parts)

  _, tangent = jax.jvp(quotient, (dictionary,), (tangents[0],))
  value = _largest_ritz_value(dictionary, start, iterations)
  return value, (scale * (scale * tangent)).astype(value.dtype)


def _frame(dictionary, start):
  """(v -> D D^T v / scale^2, scale): a scale between the two keeps their product within range."""
  scale = ops.power_of_two(dictionary.analysis(start))

  def frame(x):
    code = jax.tree.map(lambda part: part / scale.astype(part.dtype), dictionary.analysis(x))
    return dictionary.synthesis(code, x.shape) / scale.astype(x.dtype)

  return frame, scale.astype(start.dtype)


def lanczos_steps(size: int, tolerance: float) -> int:
  """The k of `lipschitz` for an n x n matrix, however small n is.

  In exact arithmetic n steps would do. In floating point the recurrence loses the orthogonality of its
  vectors, and n steps can miss the largest eigenvalue by more than the tolerance.
  """
  bound = math.log(1.648 * math.sqrt(size) / FAILURE_PROBABILITY)
  return math.ceil((bound / math.sqrt(tolerance) + 1) / 2)


def _is_circulant(dictionary: ConvDictionary) -> bool:
  strides = jax.tree.leaves(dictionary.stride)
  return dictionary.padding == "CIRCULAR" and all(s == 1 for s in strides)
