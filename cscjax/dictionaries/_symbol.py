"""An upper bound of lambda_max(D^T D) for convolutions, at the cost of a few matrix products."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cscjax import ops
from cscjax.dictionaries._block_circulant import (
  Circle,
  largest_eigenvalue,
  largest_over_frequencies,
  stacked_gram,
)

if TYPE_CHECKING:
  from cscjax.dictionaries._conv import ConvDictionary

POINTS = 8  # grid points per axis and degree; the bound is at most 4 % too large per axis
SQUARINGS = (2, 2)  # numbers of squarings of the Gram matrix, which is rescaled before each group
FINE_POINTS, FINE_SQUARINGS = 32, (4, 4)  # the same for `lipschitz`: at most 0.25 % too large per axis


def symbol_bound(conv: "ConvDictionary", shape: tuple[int, ...]) -> jax.Array:
  """Computes `lipschitz_bound` of a convolution."""
  filters = lax.stop_gradient(jnp.asarray(conv.filters))
  filters, scale = ops.scaled(filters.astype(ops.at_least_float32(filters.dtype)))
  symbol, correction = symbol_on_grid(conv.replace(filters=filters), shape[:-1])
  bound = correction * jnp.max(_power_bound(stacked_gram(symbol), SQUARINGS))
  return scale * (scale * _with_margin(bound, math.prod(filters.shape[:-2]), *symbol.shape[1:]))


@ops.highest_precision
def symbol_on_grid(conv: "ConvDictionary", sizes: Sequence[int]) -> tuple[jax.Array, float]:
  """Evaluates the symbol of a convolution on the grid that `lipschitz_bound` uses.

  The symbol S(theta) is the Fourier transform of the filters, or of their polyphase components if the
  stride is above 1. The grid covers half of the circle along the last axis, because S(-theta) is the
  conjugate of S(theta).

  Args:
    conv: The convolution.
    sizes: Spatial sizes (H, W) or (L,) of a signal.

  Returns:
    The pair (symbol, correction). The symbol has the shape [F, 2 s, q] for F grid points and matrices
    [s, q], s <= q; the real part is stacked on the imaginary part. The correction is the factor >= 1 by
    which the maximum of lambda_max(S S^H) over all theta can exceed its maximum over the grid.

  Raises:
    ValueError: If the geometry of the convolution does not fit its filters.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import symbol_on_grid
    >>> conv = cscjax.ConvDictionary(jnp.ones((3, 1, 1)), padding="CIRCULAR")
    >>> symbol, correction = symbol_on_grid(conv, (4,))  # frequencies 0, pi/2 and pi
    >>> [[round(abs(float(part)), 2) for part in matrix] for matrix in symbol[..., 0]], correction
    ([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0]], 1.0)
  """
  filters, circles, correction = polyphase_circles(conv, sizes, POINTS)
  grids = [(np.arange(n) + twisted / 2) * (2 * np.pi / n * rest) for n, rest, twisted in circles]
  grids[-1] = grids[-1][: circles[-1].frequencies]
  places = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, len(grids))
  taps = np.indices(filters.shape[:-2]).reshape(len(grids), -1)
  angles = places @ taps
  waves = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1), filters.dtype)
  filters = filters.reshape(-1, *filters.shape[-2:])
  if filters.shape[1] > filters.shape[2]:
    filters = filters.swapaxes(1, 2)
  symbol = jnp.tensordot(waves, filters, axes=1)
  return symbol.reshape(len(places), -1, filters.shape[2]), correction


def has_whole_strides(conv: "ConvDictionary", sizes: Sequence[int]) -> bool:
  """Whether the strides divide the sizes, so that the outputs are evenly spaced around a circle."""
  return all(size % axis.stride == 0 for axis, size in zip(conv.axes, sizes, strict=True))


def symbol_constant(conv: "ConvDictionary", shape: tuple[int, ...]) -> jax.Array:
  """Computes L of a circular convolution with whole strides, or else an upper bound.

  The bound is that of `lipschitz_bound` with a finer grid and a higher power: at most 1.0025 per axis
  times s^(1/512) times the largest eigenvalue of the symbol.
  """
  sizes = shape[:-1]
  filters, scale = ops.scaled(conv.filters)
  exact = conv.padding == "CIRCULAR" and has_whole_strides(conv, sizes)
  points = None if exact else FINE_POINTS
  filters, circles, correction = polyphase_circles(conv.replace(filters=filters), sizes, points)
  if exact:
    return scale * (scale * largest_over_frequencies(filters, circles, largest_eigenvalue))

  def bound(block: jax.Array) -> jax.Array:
    return _power_bound(jnp.concatenate([block.real, block.imag])[None], FINE_SQUARINGS)[0]

  *kernel, channels, count = filters.shape
  largest = correction * largest_over_frequencies(filters, circles, bound)
  largest = _with_margin(largest, math.prod(kernel), 2 * min(channels, count), max(channels, count))
  return scale * (scale * largest)


def bound_of_blocks(blocks: jax.Array) -> jax.Array:
  """Bounds the largest eigenvalue of a matrix [n, n], or of complex Hermitian blocks [..., C, C]."""
  if blocks.ndim == 2:
    return largest_eigenvalue(blocks)
  size = blocks.shape[-1]
  blocks = jnp.concatenate([blocks.real, blocks.imag], axis=-2).reshape(-1, 2 * size, size)
  return _with_margin(jnp.max(_power_bound(blocks, FINE_SQUARINGS)), 4 * size)


def polyphase_circles(
  conv: "ConvDictionary", sizes: Sequence[int], points: int | None
) -> tuple[jax.Array, list[Circle], float]:
  """Reduces a convolution to a circular one of stride 1.

  Args:
    conv: The convolution.
    sizes: Spatial sizes (H, W) or (L,) of a signal.
    points: Largest number of samples around the circle per degree of the filters, or None for as many as
      the exact embedding needs.

  Returns:
    The triple (filters, circles, correction): the polyphase components of the filters, the axes of the
    circular convolution, and the factor >= 1 of `symbol_on_grid`.
  """
  filters, circles, correction = conv.filters, [], 1.0
  for i, (axis, size) in enumerate(zip(conv.axes, sizes, strict=True)):
    circular = axis.padding == "CIRCULAR"
    # On a circle, the outputs are a subset of those at a stride that divides its size.
    stride = math.gcd(axis.stride, size) if circular else axis.stride
    # The taps connect only inputs and outputs of one residue modulo the common divisor of stride and
    # dilation. On a line, also of one residue modulo the rest of the dilation. So D consists of separate
    # convolutions without dilation.
    common = math.gcd(stride, axis.dilation)
    filters = _polyphase(filters, i, stride // common)
    degree = filters.shape[i] - 1
    exact = size // stride if circular else _exact_points(axis, size, degree)
    used = exact if points is None else min(exact, max(1, points * degree))
    if used < exact:
      correction /= math.cos(math.pi * degree / (2 * used)) ** 2
    rest = axis.dilation // common if circular and used == exact else 1
    circles.append(Circle(used, rest, twisted=not circular))
  return filters, circles, correction


def _exact_points(axis: ops.Axis, size: int, degree: int) -> int:
  """Returns the size of a circle whose circulant matrix contains the matrix of a zero-padded axis.

  Let stride and dilation be divided by their greatest common divisor. Output o = dilation o' + p is
  connected to input j = stride dilation (o' + q) + stride p + dilation r by the tap stride q + r, for
  q = 0, ..., degree. On a circle with this number of values of o', no output is connected to an input to
  which it is not connected on the line.
  """
  common = math.gcd(axis.stride, axis.dilation)
  stride, dilation = axis.stride // common, axis.dilation // common
  low, _ = axis.pads(size)
  step, last = stride * dilation, (axis.code_size(size) - 1) // dilation
  first_input = -(-low // common) - stride * (dilation - 1) - dilation * (stride - 1)
  last_input = (low + size - 1) // common
  within = max(last_input // step, last + degree + (-first_input) // step)
  return 1 + min(within, last + degree)


def _polyphase(filters: jax.Array, axis: int, stride: int) -> jax.Array:
  """Splits the taps along an axis by their residue modulo `stride`, which become additional channels."""
  if stride == 1:
    return filters
  taps = -(-filters.shape[axis] // stride)
  pad = [(0, taps * stride - n if i == axis else 0) for i, n in enumerate(filters.shape)]
  *kernel, channels, count = filters.shape
  kernel[axis] = taps
  parts = jnp.pad(filters, pad).reshape(*kernel[: axis + 1], stride, *filters.shape[axis + 1 :])
  return jnp.moveaxis(parts, axis + 1, -3).reshape(*kernel, stride * channels, count)


def _power_bound(gram: jax.Array, squarings: Sequence[int]) -> jax.Array:
  """Computes (tr G^p)^(1/p) >= lambda_max(G) for each matrix G = S S^H, where p = 2^(1 + squarings)."""
  norm = _frobenius_norm(gram)  # equals (tr G^2)^(1/2)
  bound, power = norm, 1
  for count in squarings:
    gram = gram / jnp.where(norm > 0, norm, 1)[:, None, None]
    for _ in range(count):
      gram = stacked_gram(gram)
    norm, power = _frobenius_norm(gram), power * 2**count
    bound = bound * jnp.where(norm > 0, norm, 1) ** (1 / power)
  return bound


def _frobenius_norm(matrix: jax.Array) -> jax.Array:
  """Computes the Frobenius norm of each matrix, with a derivative of zero at zero."""
  squares = jnp.sum(jnp.square(matrix), axis=(1, 2))
  return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), squares)


def _with_margin(bound: jax.Array, *sums: int) -> jax.Array:
  """Increases a bound by the largest relative rounding error of sums of so many terms, n eps each."""
  return bound * (1 + (sum(sums) + 16) * jnp.finfo(bound.dtype).eps)
