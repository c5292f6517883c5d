"""Atoms of rank 1: one pattern over the taps times one weight per channel."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.ops import at_least_float32, common_float, highest_precision


class Rank1Factors(NamedTuple):
  """The factors of the rank-1 filters that are nearest to some filters.

  The rank-1 filters are `pattern[..., None, :] * weights`.

  Attributes:
    pattern: The pattern over the taps, such as a waveform in time: [k, m], [kh, kw, m] or
      [kd, kh, kw, m]. Its norm is that of the rank-1 atom.
    weights: The weight of each channel, such as the spatial pattern of sensors: [C, m], of norm 1. The
      weight with the largest magnitude is positive.
  """

  pattern: jax.Array
  weights: jax.Array


@highest_precision
def rank1_factors(filters: ArrayLike) -> Rank1Factors:
  """Computes the rank-1 approximation of each atom: one pattern times one weight per channel.

  An atom is a matrix [taps, C], and the approximation is its largest singular value with both singular
  vectors, which is the nearest matrix of rank 1. The atoms that `learn_dictionary` learns with
  `rank1=True` equal their approximation up to rounding.

  Args:
    filters: The `filters` of a `ConvDictionary`, [k, C, m], [kh, kw, C, m] or [kd, kh, kw, C, m].

  Returns:
    The `Rank1Factors`.

  Raises:
    ValueError: If `filters` is not an array of real numbers of this shape, or has an empty axis.

  References:
    Dupré la Tour, T., Moreau, T., Jas, M., Gramfort, A.: Multivariate convolutional sparse coding for
    electromagnetic brain signals. NeurIPS 2018.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> waveform, electrodes = jnp.array([1.0, 2.0, -2.0]), jnp.array([0.6, 0.8])
    >>> filters = jnp.outer(waveform, electrodes)[..., None]  # [k, C, 1]
    >>> factors = cscjax.learning.rank1_factors(filters)
    >>> factors.pattern.shape, factors.weights.shape
    ((3, 1), (2, 1))
    >>> [round(float(weight), 3) for weight in factors.weights[:, 0]]
    [0.6, 0.8]
  """
  filters = checks.real_array("filters", filters)
  if filters.ndim not in (3, 4, 5) or filters.size == 0:
    expected = "[k, C, m], [kh, kw, C, m] or [kd, kh, kw, C, m] with no empty axis"
    checks.fail("filters", filters.shape, expected)
  *kernel, channels, count = filters.shape
  dtype = common_float(filters)
  matrices = jnp.moveaxis(filters.reshape(-1, channels, count), -1, 0).astype(at_least_float32(dtype))
  left, values, right = jnp.linalg.svd(matrices, full_matrices=False)
  pattern, weights = left[:, :, 0] * values[:, :1], right[:, 0, :]
  largest = jnp.take_along_axis(weights, jnp.argmax(jnp.abs(weights), axis=1)[:, None], axis=1)
  sign = jnp.where(largest < 0, -1, 1).astype(weights.dtype)
  return Rank1Factors(
    (sign * pattern).T.reshape(*kernel, count).astype(dtype), (sign * weights).T.astype(dtype)
  )
