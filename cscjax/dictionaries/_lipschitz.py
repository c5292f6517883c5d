"""The Lipschitz constant L = lambda_max(D^T D) of the gradient of the data term."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cscjax import checks, ops
from cscjax.dictionaries._base import Dictionary, check_signal_shape, floating_type, in_single_precision
from cscjax.dictionaries._circulant import largest_eigenvalue, largest_gram_eigenvalue
from cscjax.dictionaries._conv import ConvDictionary
from cscjax.dictionaries._identity import IdentityAugmented
from cscjax.dictionaries._matrix import MatrixDictionary

FAILURE_PROBABILITY = 1e-6  # probability, over the random start, that a certified L is too small


@ops.highest_precision
def lipschitz(
  dictionary: Dictionary,
  signal_shape: Sequence[int],
  *,
  tolerance: float = 0.01,
  key: jax.Array | None = None,
) -> jax.Array:
  """Computes the Lipschitz constant L = lambda_max(D^T D) of the gradient of 1/2 ||x - D code||^2.

  The objective of ISTA decreases in every iteration if the step size is at most 1/L.

  L is exact up to rounding for dense dictionaries, for circular convolutions of stride 1 (which the
  Fourier transform block-diagonalizes, with one block per frequency), and for [I, F^T] with such an F^T
  (Lemma 2: L = 1 + lambda_max(F F^T)). For all other dictionaries the result is a certified upper
  bound,

      lambda_max <= ritz / (1 - tolerance) <= lambda_max / (1 - tolerance).

  Here ritz is the largest Ritz value after k iterations of the Lanczos method for D D^T with a Gaussian
  start. The right inequality always holds. The left inequality fails with probability below 1e-6,
  because k is chosen such that

      1.648 sqrt(n) exp(-sqrt(tolerance) (2 k - 1)) <= 1e-6

  for signals with n samples (Kuczynski & Wozniakowski 1992, Theorem 4.2). By default k is about 100.

  Args:
    dictionary: Any dictionary.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).
    tolerance: Relative tolerance of the upper bound, in (0, 1). The number of iterations grows as
      1 / sqrt(tolerance). Below 1e-5 the rounding errors of float32 are no longer negligible.
    key: Random key of the start, chosen independently of the dictionary. Default: `jax.random.key(0)`.

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
  tolerance = checks.in_range("tolerance", tolerance, 0, 1, low_open=True)
  dtype = floating_type(dictionary, shape)
  bound = _lipschitz(in_single_precision(dictionary), shape, tolerance, key)
  precise, rounded = bound.dtype, bound.astype(dtype)
  upward = rounded * (1 + jnp.finfo(dtype).eps)
  return jnp.where(rounded.astype(precise) < bound, upward, rounded)


@partial(jax.jit, static_argnames=("shape", "tolerance"))
def _lipschitz(
  dictionary: Dictionary, shape: tuple[int, ...], tolerance: float, key: jax.Array | None
) -> jax.Array:
  """Computes `lipschitz` for checked arguments, in the precision of the dictionary."""
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


def _is_circulant(dictionary: ConvDictionary) -> bool:
  """Whether the Fourier transform block-diagonalizes the dictionary."""
  strides = jax.tree.leaves(dictionary.stride)
  return dictionary.padding == "CIRCULAR" and all(s == 1 for s in strides)
