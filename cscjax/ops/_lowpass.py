"""Low-pass filter for signals, whose smooth part is removed before convolutional sparse coding."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.ops._precision import at_least_float32, common_float, expand_rank


def tikhonov_lowpass(
  x: ArrayLike, strength: ArrayLike, pad: int = 16, *, spatial_axes: int = 2
) -> jax.Array:
  """Computes the low-pass part of a signal by Tikhonov regularization of its gradient.

  Each channel is filtered on its own. The result l minimizes

      1/2 ||l - x||^2 + strength/2 sum_axis ||G_axis l||^2,

  where G_axis computes the circular differences along a spatial axis. The signal is padded with its
  mirror image first, so that the filter does not mix its opposite borders. Sparse coding with small
  filters usually codes the high-pass part, `x - tikhonov_lowpass(x, strength)`. (SPORCO's
  `tikhonov_filter` returns both parts.)

  Args:
    x: Images of shape [..., H, W, C], signals of shape [..., L, C] if `spatial_axes` is 1, or volumes
      [..., D, H, W, C] if it is 3. Integers are converted to floating point.
    strength: Strength of the filter, a scalar >= 0. A wave of w radians per pixel along one axis is
      divided by `1 + strength * (2 - 2 * cos(w))`. The usual value for photographs is 5.
    pad: Number of mirrored pixels added at each border and removed afterwards, at least 0.
    spatial_axes: Number of spatial axes, 1 to 3.

  Returns:
    The low-pass part, of the shape of `x`.

  Raises:
    ValueError: If `x` is not an array of real numbers, has too few axes or is empty, if `strength` is
      negative or not a scalar, if `pad` is negative, or if `spatial_axes` is not 1, 2 or 3.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> stripes = jnp.where(jnp.arange(8) % 2 == 0, 1.0, -1.0)
    >>> image = jnp.tile(10 + stripes, (8, 1))[..., None]
    >>> low = ops.tikhonov_lowpass(image, 5.0, pad=0)  # divides the stripes by 1 + 5 * 4 = 21
    >>> [round(float(value), 2) for value in low[0, :2, 0]]
    [10.05, 9.95]
  """
  checks.one_of("spatial_axes", spatial_axes, (1, 2, 3))
  checks.int_at_least("pad", pad, 0)
  checks.all_at_least("strength", strength, 0)
  if jnp.ndim(strength) != 0:
    checks.fail("strength", jnp.shape(strength), "a scalar")
  x = checks.real_array("x", x)
  if x.ndim <= spatial_axes or x.size == 0:
    checks.fail("x", x.shape, f"at least {spatial_axes + 1} axes and none of size 0")
  dtype = common_float(x)
  axes = tuple(range(x.ndim - 1 - spatial_axes, x.ndim - 1))
  widths = [(pad, pad) if axis in axes else (0, 0) for axis in range(x.ndim)]
  precise = at_least_float32(dtype)  # JAX has no Fourier transform in half precision
  padded = jnp.pad(x.astype(precise), widths, mode="symmetric")
  sizes = tuple(padded.shape[axis] for axis in axes)
  gain = 1 / (1 + jnp.asarray(strength, precise) * _laplacian_spectrum(sizes, precise))
  spectrum = jnp.fft.rfftn(padded, axes=axes)
  spectrum = spectrum * expand_rank(gain[..., None], padded.ndim).astype(spectrum.dtype)
  low = jnp.fft.irfftn(spectrum, s=sizes, axes=axes)
  crop = tuple(slice(low, -high or None) for low, high in widths)
  return low[crop].astype(dtype)


def _laplacian_spectrum(sizes: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
  """Returns the eigenvalues of sum_axis G_axis^T G_axis at the frequencies of `rfftn`."""
  total = jnp.zeros((), dtype)
  for axis, size in enumerate(sizes):
    last = axis == len(sizes) - 1
    frequencies = (jnp.fft.rfftfreq if last else jnp.fft.fftfreq)(size, dtype=dtype)
    values = 2 - 2 * jnp.cos(2 * jnp.pi * frequencies)
    total = total[..., None] + expand_rank(values, axis + 1)
  return total
