"""The low-pass part of a signal, which convolutional sparse coding leaves out."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.ops._precision import at_least_float32, common_float, expand_rank


def tikhonov_lowpass(
  x: ArrayLike, strength: ArrayLike, pad: int = 16, *, spatial_axes: int = 2
) -> jax.Array:
  """Low-pass part of a signal by Tikhonov regularisation, each channel on its own.

      argmin_l 1/2 ||l - x||^2 + strength/2 sum over axes of ||difference of l along the axis||^2

  Differences wrap around; the signal is first continued by its mirror image, so that its opposite
  borders do not meet. A dictionary of small filters codes the rest, x - tikhonov_lowpass(x, strength)
  (SPORCO's `tikhonov_filter`, which returns both).

  Args:
    x: Images [..., H, W, C], or with `spatial_axes=1` signals [..., L, C]; integers are converted.
    strength: A scalar >= 0. A wave of w radians a pixel is divided by 1 + strength (2 - 2 cos w);
      5 is customary for photographs, whatever the range of their values.
    pad: Pixels of mirror image added at each border, >= 0; cut off again.
    spatial_axes: How many axes before the last are filtered, 1 or 2.

  Returns:
    The low-pass part, the shape of `x`.

  Raises:
    ValueError: If `x` has too few axes or an empty one, `strength` is negative or no scalar, `pad` is
      negative or `spatial_axes` is not 1 or 2.
  """
  checks.one_of("spatial_axes", spatial_axes, (1, 2))
  checks.int_at_least("pad", pad, 0)
  checks.all_at_least("strength", strength, 0)
  if jnp.ndim(strength) != 0:
    checks.fail("strength", jnp.shape(strength), "a scalar")
  x = checks.real_array("x", x)
  if x.ndim <= spatial_axes or x.size == 0:
    checks.fail("x", x.shape, f"at least {spatial_axes + 1} axes, none of them empty")
  dtype = common_float(x)
  axes = tuple(range(x.ndim - 1 - spatial_axes, x.ndim - 1))
  widths = [(pad, pad) if axis in axes else (0, 0) for axis in range(x.ndim)]
  precise = at_least_float32(dtype)  # there is no Fourier transform in half precision
  padded = jnp.pad(x.astype(precise), widths, mode="symmetric")
  sizes = tuple(padded.shape[axis] for axis in axes)
  gain = 1 / (1 + jnp.asarray(strength, precise) * _laplacian_spectrum(sizes, precise))
  spectrum = jnp.fft.rfftn(padded, axes=axes)
  spectrum = spectrum * expand_rank(gain[..., None], padded.ndim).astype(spectrum.dtype)
  low = jnp.fft.irfftn(spectrum, s=sizes, axes=axes)
  crop = tuple(slice(low, -high or None) for low, high in widths)
  return low[crop].astype(dtype)


def _laplacian_spectrum(sizes, dtype):
  """Eigenvalues of the sum of G^T G over the axes, G the circular difference, on rfftn's grid."""
  total = jnp.zeros((), dtype)
  for axis, size in enumerate(sizes):
    last = axis == len(sizes) - 1
    frequencies = (jnp.fft.rfftfreq if last else jnp.fft.fftfreq)(size, dtype=dtype)
    values = 2 - 2 * jnp.cos(2 * jnp.pi * frequencies)
    total = total[..., None] + expand_rank(values, axis + 1)
  return total
