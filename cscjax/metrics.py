"""Measures of the quality of a reconstruction: `psnr` for images, `snr` for signals."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.ops import at_least_float32, common_float, norm

__all__ = ["psnr", "snr"]


def psnr(image: ArrayLike, reference: ArrayLike, *, data_range: float | None = None) -> jax.Array:
  """Computes the peak signal-to-noise ratio of an image with respect to a reference, in decibels.

      10 log10(data_range^2 / mean squared error)

  The mean is over all entries. For one value per image of a batch, use `jax.vmap(psnr)`. The result is
  infinite if the arrays are equal.

  Args:
    image: The image, for example a reconstruction, of any shape.
    reference: The true image, of the same shape.
    data_range: Difference between the largest and the smallest possible value, positive, such as 255 for
      images in 0..255. If None, it is 1, for images in 0..1; integer images require a value.

  Returns:
    A scalar.

  Raises:
    ValueError: If the shapes differ or are empty, an array is not real, `data_range` is not positive, or
      `data_range` is None and an image consists of integers.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> reference = jnp.full((2, 8, 8, 1), 0.5)
    >>> round(float(cscjax.metrics.psnr(reference + 0.1, reference)), 2)
    20.0
    >>> jax.vmap(cscjax.metrics.psnr)(reference + 0.1, reference).shape
    (2,)
  """
  image, reference = _of_one_shape("image", image, reference)
  if data_range is None:
    for array in (image, reference):
      if not jnp.issubdtype(array.dtype, jnp.floating):
        checks.fail("data_range", None, f"a value for integer images ({array.dtype}), such as 255")
    data_range = 1.0
  checks.in_range("data_range", data_range, 0, low_open=True)
  dtype = at_least_float32(common_float(image, reference))
  error = (image.astype(dtype) - reference.astype(dtype)) / data_range
  return 20 * jnp.log10(math.sqrt(error.size) / norm(error))


def snr(signal: ArrayLike, reference: ArrayLike) -> jax.Array:
  """Computes the signal-to-noise ratio of a signal with respect to a reference, in decibels.

      10 log10(||reference||^2 / ||signal - reference||^2)

  The norms are over all entries. For one value per signal of a batch, use `jax.vmap(snr)`. The result is
  infinite if the arrays are equal.

  Args:
    signal: The signal, for example a reconstruction, of any shape.
    reference: The true signal, of the same shape.

  Returns:
    A scalar.

  Raises:
    ValueError: If the shapes differ or are empty, or an array is not real.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> reference = jnp.sin(jnp.arange(100.0))[:, None]
    >>> round(float(cscjax.metrics.snr(0.9 * reference, reference)), 2)
    20.0
  """
  signal, reference = _of_one_shape("signal", signal, reference)
  dtype = at_least_float32(common_float(signal, reference))
  signal, reference = signal.astype(dtype), reference.astype(dtype)
  return 20 * jnp.log10(norm(reference) / norm(signal - reference))


def _of_one_shape(name: str, value: ArrayLike, reference: ArrayLike) -> tuple[jax.Array, jax.Array]:
  """Converts an argument and the reference to arrays; raises ValueError if their shapes differ."""
  array, reference = checks.real_array(name, value), checks.real_array("reference", reference)
  if array.shape != reference.shape or not array.size:
    checks.fail(name, array.shape, f"the shape of the reference, {reference.shape}, with no empty axis")
  return array, reference
