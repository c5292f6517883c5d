"""The Lipschitz constant L = lambda_max(D^T D) of the gradient of the data term."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cscjax import checks, ops
from cscjax.dictionaries._base import (
  Dictionary,
  check_signal_shape,
  floating_type,
  in_single_precision,
  to_matrix,
)
from cscjax.dictionaries._circulant import largest_eigenvalue
from cscjax.dictionaries._conv import ConvDictionary
from cscjax.dictionaries._identity import IdentityAugmented
from cscjax.dictionaries._matrix import MatrixDictionary
from cscjax.dictionaries._symbol import has_whole_strides, largest_symbol_eigenvalue

DENSE_SIZE = 256  # largest size of a signal or a code for which the matrix is used
FAILURE_PROBABILITY = 1e-6  # probability, over the random start, that a certified L is too small


@ops.highest_precision
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
  instead of the second of the Lanczos method (two CPU cores).

  For dictionaries of other classes, for circular convolutions of other strides, and for convolutions
  with a `tolerance`, the result is a certified upper bound by the Lanczos method,

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
      negligible. If None, zero-padded convolutions use the bound by the symbol, and the default is 0.01
      for all others.
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
  shape = check_signal_shape(dictionary, signal_shape)
  if key is not None:
    checks.prng_key("key", key)
  if tolerance is not None:
    tolerance = checks.in_range("tolerance", tolerance, 0, 1, low_open=True)
  dtype = floating_type(dictionary, shape)
  bound = _lipschitz(in_single_precision(dictionary), shape, tolerance, key)
  precise, rounded = bound.dtype, bound.astype(dtype)
  upward = rounded * (1 + jnp.finfo(dtype).eps)
  return jnp.where(rounded.astype(precise) < bound, upward, rounded)


@partial(jax.jit, static_argnames=("shape", "tolerance"))
def _lipschitz(
  dictionary: Dictionary, shape: tuple[int, ...], tolerance: float | None, key: jax.Array | None
) -> jax.Array:
  """Computes `lipschitz` for checked arguments, in the precision of the dictionary."""
  if isinstance(dictionary, IdentityAugmented):
    return 1 + _lipschitz(dictionary.conv, shape, tolerance, key)
  if isinstance(dictionary, MatrixDictionary):
    return _largest_gram_eigenvalue(dictionary.atoms)
  code = jax.eval_shape(
    dictionary.analysis, jax.ShapeDtypeStruct(shape, floating_type(dictionary, shape))
  )
  if min(math.prod(shape), sum(math.prod(part.shape) for part in jax.tree.leaves(code))) <= DENSE_SIZE:
    return _largest_gram_eigenvalue(to_matrix(dictionary, shape))
  if isinstance(dictionary, ConvDictionary) and _has_symbol(dictionary, shape, tolerance):
    filters, scale = ops.scaled(dictionary.filters)
    return scale * (scale * largest_symbol_eigenvalue(dictionary.replace(filters=filters), shape[:-1]))
  return certified_bound(dictionary, shape, 0.01 if tolerance is None else tolerance, key)


def _has_symbol(conv: ConvDictionary, shape: tuple[int, ...], tolerance: float | None) -> bool:
  """Whether the symbol gives L, or a bound of it that is close on large signals and asked for."""
  if conv.padding == "CIRCULAR":
    return has_whole_strides(conv, shape[:-1])
  return tolerance is None


def _largest_gram_eigenvalue(matrix: jax.Array) -> jax.Array:
  """Computes lambda_max(D^T D) for a matrix D."""
  matrix, scale = ops.scaled(matrix)
  wide = matrix if matrix.shape[0] < matrix.shape[1] else matrix.T
  return scale * (scale * largest_eigenvalue(wide @ wide.T))


def certified_bound(
  dictionary: Dictionary, shape: tuple[int, ...], tolerance: float, key: jax.Array | None
) -> jax.Array:
  """Computes the upper bound of `lipschitz` by the Lanczos method."""
  dtype = floating_type(dictionary, shape)
  key = jax.random.key(0, impl="threefry2x32") if key is None else key
  start = jax.random.normal(key, shape, dtype)
  return _largest_ritz_value(dictionary, start, lanczos_steps(start.size, tolerance)) / (1 - tolerance)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _largest_ritz_value(dictionary: Dictionary, start: jax.Array, iterations: int) -> jax.Array:
  """Computes the largest Ritz value of D D^T, with derivative v^T d(D D^T) v for the Ritz vector v.

  Unlike the derivative of `eigvalsh`, this one is finite for repeated eigenvalues.
  """
  frame, scale = _frame_operator(dictionary, start)
  return scale * (scale * ops.lanczos_max(frame, start, iterations))


@_largest_ritz_value.defjvp
@ops.highest_precision
def _(iterations: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
  dictionary, start = primals
  frame, scale = _frame_operator(dictionary, start)
  vector = ops.lanczos_vector(frame, start, iterations)

  def quotient(dictionary: Dictionary) -> Any:
    parts = jax.tree.leaves(dictionary.analysis(vector))
    return sum(jnp.sum(jnp.square(part / scale)) for part in parts)

  _, tangent = jax.jvp(quotient, (dictionary,), (tangents[0],))
  value = _largest_ritz_value(dictionary, start, iterations)
  return value, (scale * (scale * tangent)).astype(value.dtype)


def _frame_operator(
  dictionary: Dictionary, start: jax.Array
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
  """Returns the map v -> D D^T v / scale^2, and the scale.

  The scale divides the code and the result separately, so that neither overflows nor underflows.
  """
  scale = ops.power_of_two(dictionary.analysis(start))

  def frame(x: jax.Array) -> jax.Array:
    code = jax.tree.map(lambda part: part / scale.astype(part.dtype), dictionary.analysis(x))
    return dictionary.synthesis(code, x.shape) / scale.astype(x.dtype)

  return frame, scale.astype(start.dtype)


def lanczos_steps(size: int, tolerance: float) -> int:
  """Returns the number k of Lanczos iterations for `lipschitz`, where n = `size`.

  k is not limited to n. In exact arithmetic n iterations would suffice, but in floating point the
  vectors lose their orthogonality, and n iterations can miss the largest eigenvalue by more than the
  tolerance.
  """
  bound = math.log(1.648 * math.sqrt(size) / FAILURE_PROBABILITY)
  return math.ceil((bound / math.sqrt(tolerance) + 1) / 2)
