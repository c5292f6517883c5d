"""An upper bound of lambda_max(D^T D) of a convolution, in a fixed number of matrix products."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cscjax import checks, ops
from cscjax.dictionaries._base import check_signal_shape
from cscjax.dictionaries._conv import ConvDictionary
from cscjax.dictionaries._identity import IdentityAugmented

POINTS = 8  # of the grid along an axis, for each degree of the polynomial: at most 4 % an axis
SQUARINGS = (2, 2)  # of the Gram matrix; they are scaled after each group


@ops.highest_precision
def lipschitz_bound(
  dictionary: ConvDictionary | IdentityAugmented, signal_shape: Sequence[int]
) -> jax.Array:
  """An upper bound of L = lambda_max(D^T D), from the filters alone and always valid.

  It costs a fixed number of small matrix products, so that a network can compute it in each training
  step. `lipschitz` is closer to L (1 % by default), and costs about 100 applications of D D^T.

  The symbol S(theta) of a convolution is the Fourier transform of its filters, of their polyphase
  components where there is a stride. The largest eigenvalue of G(theta) = S(theta) S(theta)^H over all
  theta bounds L, for zero padding and wrapped signals alike. Two steps bound this maximum:

  - lambda_max(G) <= (tr G^32)^(1/32), which is at most s^(1/32) times too large for matrices [s, s],
    s <= min(C, m) (1.11 for 32, 1.14 for 64).
  - For a unit vector v, v^H G(theta) v is a nonnegative trigonometric polynomial of degree n = k - 1
    along an axis of k taps. Its maximum is at most that over a grid of N points divided by
    cos^2(pi n / (2 N)): a factor of 1.04 an axis for N = 8 n. For small signals a grid of about as many
    points as the padded signal has samples needs no such factor: its matrices G have the eigenvalues of
    a circulant matrix (one with a change of sign, for zero padding) that contains that of D.

  For random 3x3 filters of the paper's networks on images of 8x8 to 32x32 the bound was 1.02 to 1.18
  times L. It is farther above L where a signal has few samples for each residue of the dilation: up to
  1.32 times at dilation 3 on images of 8x8, 1.23 times with the identity beside the convolution.

  Args:
    dictionary: A convolution, or the identity beside one: the bound is 1 more then (Lemma 2).
    signal_shape: Shape of one signal without batch, (L, C) or (H, W, C).

  Returns:
    A scalar in float32, or float64 for filters in float64; 0 if all filters are 0. It includes a margin
    for rounding. No gradient flows through it.

  Raises:
    ValueError: If `dictionary` is none of the two or `signal_shape` does not fit it.

  Example:
    >>> mean = ConvDictionary(jnp.ones((3, 1, 1)) / 3)
    >>> bool(lipschitz(mean, (64, 1)) <= lipschitz_bound(mean, (64, 1)) < 1.1)
    True
  """
  if isinstance(dictionary, IdentityAugmented):
    bound = 1 + lipschitz_bound(dictionary.conv, signal_shape)
    return bound * (1 + jnp.finfo(bound.dtype).eps)  # the sum may have been rounded down
  if not isinstance(dictionary, ConvDictionary):
    checks.fail("dictionary", type(dictionary).__name__, "a ConvDictionary or an IdentityAugmented one")
  shape = check_signal_shape(dictionary, signal_shape)
  filters = lax.stop_gradient(jnp.asarray(dictionary.filters))
  filters, scale = ops.scaled(filters.astype(ops.at_least_float32(filters.dtype)))
  symbol, correction = symbol_on_grid(dictionary.replace(filters=filters), shape[:-1])
  bound = correction * jnp.max(_largest_eigenvalues(symbol))
  # The relative error of a sum of n terms is below n eps; these are the longest sums.
  terms = math.prod(filters.shape[:-2]) + sum(symbol.shape[1:]) + 16
  return scale * (scale * (bound * (1 + terms * jnp.finfo(bound.dtype).eps)))


@ops.highest_precision
def symbol_on_grid(conv: ConvDictionary, sizes: Sequence[int]) -> tuple[jax.Array, float]:
  """The symbol S of a convolution on a grid from which `lipschitz_bound` bounds L.

  Half of the grid does, for S(-theta) is the conjugate of S(theta).

  Args:
    conv: A convolution.
    sizes: (H, W) or (L,) of a signal.

  Returns:
    (S, correction): S [F, 2 s, q] with s <= q at F points, its real part above its imaginary one, and
    the factor >= 1 by which lambda_max(S S^H) over all theta can exceed that over the grid.
  """
  filters, grids, correction = conv.filters, [], 1.0
  for i, (axis, size) in enumerate(zip(conv.axes, sizes, strict=True)):
    circular = axis.padding == "CIRCULAR"
    # Outputs around a circle are a part of those at a stride that divides its size.
    stride = math.gcd(axis.stride, size) if circular else axis.stride
    # Taps meet only signals and outputs of one residue by the common part of stride and dilation, and of
    # one by the rest of the dilation: no dilation is left.
    common = math.gcd(stride, axis.dilation)
    filters = _polyphase(filters, i, stride // common)
    degree = filters.shape[i] - 1
    exact = size // stride if circular else _exact_points(axis, size, degree)
    points = min(exact, max(1, POINTS * degree))
    if points < exact:
      correction /= math.cos(math.pi * degree / (2 * points)) ** 2
    grids.append((np.arange(points) + (0 if circular else 0.5)) * (2 * np.pi / points))
  grids[-1] = grids[-1][grids[-1] < np.pi + 1e-6]
  places = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, len(grids))
  taps = np.indices(filters.shape[:-2]).reshape(len(grids), -1)
  angles = places @ taps
  waves = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1), filters.dtype)
  filters = filters.reshape(-1, *filters.shape[-2:])
  if filters.shape[1] > filters.shape[2]:
    filters = filters.swapaxes(1, 2)
  symbol = jnp.tensordot(waves, filters, axes=1)
  return symbol.reshape(len(places), -1, filters.shape[2]), correction


def _exact_points(axis: ops.Axis, size: int, degree: int) -> int:
  """How many points a circle needs whose circulant matrix contains the matrix of a zero-padded axis.

  With stride and dilation divided by what they have in common, output o = dilation o' + p meets the
  input j = stride dilation (o' + q) + stride p + dilation r by the tap stride q + r, q = 0 ... degree.
  On a circle of that many values of o' no output meets an input that it does not meet on the line.
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
  """Each start along an axis with every `stride`-th tap from there, as channels of its own."""
  if stride == 1:
    return filters
  taps = -(-filters.shape[axis] // stride)
  pad = [(0, taps * stride - n if i == axis else 0) for i, n in enumerate(filters.shape)]
  *kernel, channels, count = filters.shape
  kernel[axis] = taps
  parts = jnp.pad(filters, pad).reshape(*kernel[: axis + 1], stride, *filters.shape[axis + 1 :])
  return jnp.moveaxis(parts, axis + 1, -3).reshape(*kernel, stride * channels, count)


def _largest_eigenvalues(symbol: jax.Array) -> jax.Array:
  """(tr G^32)^(1/32), at least lambda_max(G), of G = S S^H at each point."""
  gram = _gram(symbol)
  norm = _frobenius_norm(gram)  # the root of tr G^2
  bound, power = norm, 1
  for count in SQUARINGS:
    gram = gram / jnp.where(norm > 0, norm, 1)[:, None, None]
    for _ in range(count):
      gram = _gram(gram)
    norm, power = _frobenius_norm(gram), power * 2**count
    bound = bound * norm ** (1 / power)
  return bound


def _gram(matrix: jax.Array) -> jax.Array:
  """A A^H of complex matrices as real ones, their real part above their imaginary one.

  One real product instead of complex ones, for which XLA's CPU backend takes several times as long.
  """
  size = matrix.shape[-2] // 2
  blocks = jnp.einsum("fac,fbc->fab", matrix, matrix)
  real = blocks[:, :size, :size] + blocks[:, size:, size:]
  imaginary = blocks[:, size:, :size] - blocks[:, :size, size:]
  return jnp.concatenate([real, imaginary], axis=1)


def _frobenius_norm(matrix):
  return jnp.sqrt(jnp.sum(jnp.square(matrix), axis=(1, 2)))
