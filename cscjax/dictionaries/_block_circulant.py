"""Block-circulant matrices, which the Fourier transform block-diagonalizes."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cscjax.ops import highest_precision, vary_alike

if TYPE_CHECKING:
  from cscjax.dictionaries._conv import ConvDictionary

BLOCK = 2**18  # largest number of complex numbers in memory for the frequencies of one step


class Circle(NamedTuple):
  """One axis of a circular convolution of stride 1.

  Attributes:
    size: Number of samples around the circle.
    dilation: Step between the taps.
    twisted: Whether samples change their sign when they wrap around.
  """

  size: int
  dilation: int = 1
  twisted: bool = False

  @property
  def frequencies(self) -> int:
    """Number of frequencies in [0, pi], those that a real Fourier transform keeps."""
    return (self.size + 1) // 2 if self.twisted else self.size // 2 + 1

  def angles(self, index: jax.Array, taps: int, dtype: Any) -> jax.Array:
    """Returns the phase of each tap at one frequency, computed modulo 2 pi without rounding errors."""
    period = 2 * self.size
    steps = np.arange(taps) * self.dilation % period
    return (-np.pi / self.size) * _product_modulo(2 * index + int(self.twisted), steps, period).astype(
      dtype
    )


def codes_are_smaller(filters: jax.Array) -> bool:
  """Whether the blocks [m, m] of D^T D are smaller than the blocks [C, C] of D D^T.

  Both have the same positive eigenvalues, so functions use the smaller ones.
  """
  channels, count = filters.shape[-2:]
  return count < channels


def inverse_blocks(conv: "ConvDictionary", sizes: Sequence[int], ridge: jax.Array) -> jax.Array:
  """Computes the inverse of ridge I + D D^T, or of ridge I + D^T D if codes are smaller.

  Args:
    conv: A circular convolution of stride 1.
    sizes: Spatial sizes (H, W) or (L,) of a signal.
    ridge: A positive scalar.

  Returns:
    The blocks at all frequencies of `rfftn`, of shape [H, W // 2 + 1, s, s] or [L // 2 + 1, s, s], with
    s = min(C, m). They multiply the channels of a spectrum as a row vector from the right.
  """

  def inverse(block: jax.Array) -> jax.Array:
    matrix = block + ridge.astype(block.dtype) * jnp.eye(len(block), dtype=block.dtype)
    return 1 / matrix if len(block) == 1 else jnp.linalg.inv(matrix)

  blocks = _map_frequencies(conv.filters, _circles(conv, sizes), inverse)
  return blocks.reshape(*sizes[:-1], -1, *blocks.shape[1:])


def frame_blocks(conv: "ConvDictionary", sizes: Sequence[int]) -> jax.Array:
  """Computes the blocks [C, C] of D D^T at all frequencies of `rfftn`, for a circular convolution."""
  channels, count = conv.filters.shape[-2:]
  filters = conv.filters
  if codes_are_smaller(filters):  # atoms of zeros make the blocks of D D^T those that are computed
    filters = jnp.pad(filters, [(0, 0)] * (filters.ndim - 1) + [(0, channels - count)])
  blocks = _map_frequencies(filters, _circles(conv, sizes), lambda block: block)
  return blocks.reshape(*sizes[:-1], -1, *blocks.shape[1:])


def _circles(conv: "ConvDictionary", sizes: Sequence[int]) -> list[Circle]:
  """Returns the axes of a circular convolution of stride 1."""
  return [Circle(n, axis.dilation) for n, axis in zip(sizes, conv.axes, strict=True)]


def largest_over_frequencies(
  filters: jax.Array, circles: Sequence[Circle], function: Callable[[jax.Array], jax.Array]
) -> jax.Array:
  """Returns the largest value of function(block), for the blocks of the circular convolution.

  The derivative is that at the frequency of the largest value.
  """
  values = _map_frequencies(lax.stop_gradient(filters), circles, function)
  return function(_gram_block(filters, circles, jnp.argmax(values)))


@jax.custom_jvp
def largest_eigenvalue(matrix: jax.Array) -> jax.Array:
  """Returns lambda_max of a Hermitian matrix [n, n], with derivative v^* dA v for an eigenvector v.

  If the eigenvalue is repeated, this is a subgradient, whereas the derivative of `eigvalsh` is NaN.
  """
  return jnp.linalg.eigvalsh(matrix)[-1]


@largest_eigenvalue.defjvp
@highest_precision
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
  (matrix,), (change,) = primals, tangents
  values, vectors = jnp.linalg.eigh(matrix)
  vector = vectors[:, -1]
  return values[-1], jnp.real(jnp.vdot(vector, change @ vector))


def _map_frequencies(
  filters: jax.Array, circles: Sequence[Circle], function: Callable[[jax.Array], jax.Array]
) -> jax.Array:
  """Computes function(block) at all frequencies of a real Fourier transform, stacked on a first axis."""
  rows, *others = _frequency_counts(circles)
  channels, atoms = filters.shape[-2:]
  # The transform along all axes but the first has as many rows as the filters, and so it is small.
  partial = filters
  for axis, count in enumerate(others, start=1):
    partial = _transform(partial, axis, circles[axis], jnp.arange(count))
  per_row = math.prod(others)
  batch = min(rows, max(1, BLOCK // (per_row * (channels * atoms + min(channels, atoms) ** 2))))

  def at(places: jax.Array) -> jax.Array:
    spectra = _transform(partial, 0, circles[0], places).reshape(-1, channels, atoms)
    return jax.vmap(lambda spectrum: function(_gram(spectrum)))(spectra)

  def body(values: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
    # Each step writes its results in place, so no second copy of all values exists. The last step may
    # overlap the one before it.
    block = at(start + jnp.arange(batch))
    return lax.dynamic_update_slice_in_dim(values, block, per_row * start, axis=0), None

  one = jax.eval_shape(at, jnp.arange(1))
  values = vary_alike(jnp.zeros((rows * per_row, *one.shape[1:]), one.dtype), filters)
  return lax.scan(body, values, jnp.minimum(jnp.arange(0, rows, batch), rows - batch))[0]


def _frequency_counts(circles: Sequence[Circle]) -> list[int]:
  """Returns the number of frequencies per axis, where the last axis is halved as by `rfftn`."""
  return [*(circle.size for circle in circles[:-1]), circles[-1].frequencies]


def _gram_block(filters: jax.Array, circles: Sequence[Circle], index: jax.Array) -> jax.Array:
  """Returns the block at one frequency, [C, C] of D D^T or [m, m] of D^T D, whichever is smaller.

  `index` is the position of the frequency in the flattened array of all frequencies.
  """
  spectra = filters
  places = jnp.unravel_index(index, _frequency_counts(circles))
  for axis, (circle, place) in enumerate(zip(circles, places, strict=True)):
    spectra = _transform(spectra, axis, circle, place[None])
  return _gram(spectra.reshape(filters.shape[-2:]))


def _transform(array: jax.Array, axis: int, circle: Circle, places: jax.Array) -> jax.Array:
  """Returns the Fourier transform of an array along one axis of taps, at frequencies [n]."""
  angles = jax.vmap(lambda place: circle.angles(place, array.shape[axis], array.real.dtype))(places)
  array = jnp.moveaxis(array, axis, 0)
  cosines, sines = jnp.cos(angles), jnp.sin(angles)
  real, imag = jnp.tensordot(cosines, array.real, 1), jnp.tensordot(sines, array.real, 1)
  if jnp.iscomplexobj(array):
    real = real - jnp.tensordot(sines, array.imag, 1)
    imag = imag + jnp.tensordot(cosines, array.imag, 1)
  return jnp.moveaxis(lax.complex(real, imag), 0, axis)


def _gram(spectrum: jax.Array) -> jax.Array:
  """Returns the block of D D^T, or of D^T D if it is smaller, for a spectrum [C, m] of the filters."""
  matrix = spectrum.T if codes_are_smaller(spectrum) else spectrum.conj()
  gram = stacked_gram(jnp.concatenate([matrix.real, matrix.imag]))
  return lax.complex(*jnp.split(gram, 2))


def stacked_gram(matrix: jax.Array) -> jax.Array:
  """Computes A A^H for complex matrices A whose real part is stacked on their imaginary part.

  One product of real matrices is several times faster than complex products on XLA's CPU backend.

  Args:
    matrix: The matrices, of shape [..., 2 s, q].

  Returns:
    The products in the same form, of shape [..., 2 s, s].
  """
  size = matrix.shape[-2] // 2
  blocks = jnp.einsum("...ac,...bc->...ab", matrix, matrix)
  upper, lower = blocks[..., :size, :], blocks[..., size:, :]
  real = upper[..., :size] + lower[..., size:]
  return jnp.concatenate([real, lower[..., :size] - upper[..., size:]], axis=-2)


def _product_modulo(a: jax.Array, b: np.ndarray, n: int) -> jax.Array:
  """Computes (a b) mod n in 32-bit integers, for a scalar a and a constant vector b in 0..n-1."""
  digit = 31 - (n - 1).bit_length()
  total = jnp.zeros(b.shape, jnp.uint32)
  a = a.astype(jnp.uint32)
  for shift in reversed(range(0, max(1, int(b.max()).bit_length()), digit)):
    part = (b >> shift & (2**digit - 1)).astype(np.uint32)
    total = ((total << digit) % n + a * part % n) % n
  return total
