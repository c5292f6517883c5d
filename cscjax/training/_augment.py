"""Random shifts and flips of a batch, and its normalization, inside the compiled step."""

import jax
import jax.numpy as jnp
import numpy as np

from cscjax import checks
from cscjax.ops import expand_rank


def augment(images: jax.Array, keys: jax.Array, *, shift: int, flip: bool) -> jax.Array:
  """Shifts each image of a batch by a random offset and flips it left to right at random.

  A shift pads the image with zeros on all sides and crops it to its size.

  Args:
    images: Images [N, H, W, C] or signals [N, L, C] before normalization, so that the padding is black.
    keys: Random keys [N], one per image, so that the result for an image does not depend on the batch.
    shift: Largest shift along each axis in pixels, >= 0.
    flip: Whether to flip each image with probability 1/2.

  Returns:
    An array of the shape and type of `images`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from cscjax import training
    >>> images = jnp.ones((2, 8, 8, 3))
    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> augment = jax.jit(training.augment, static_argnames=("shift", "flip"))
    >>> augment(images, keys, shift=2, flip=True).shape
    (2, 8, 8, 3)
  """
  size, rank = images.shape[1:], images.ndim - 2

  def one(image: jax.Array, key: jax.Array) -> jax.Array:
    shift_key, flip_key = jax.random.split(key)
    if shift:
      padded = jnp.pad(image, [(shift, shift)] * rank + [(0, 0)])
      offsets = jax.random.randint(shift_key, (rank,), 0, 2 * shift + 1)
      image = jax.lax.dynamic_slice(padded, (*offsets, 0), size)
    if flip:
      image = jnp.where(jax.random.bernoulli(flip_key), jnp.flip(image, axis=rank - 1), image)
    return image

  return jax.vmap(one)(images, keys) if shift or flip else images


def normalize(images: jax.Array, mean: jax.Array | np.ndarray, std: jax.Array | np.ndarray) -> jax.Array:
  """Returns (images - mean) / std per channel, after scaling uint8 images to the range 0 to 1.

  Args:
    images: Images [N, H, W, C] or signals [N, L, C], uint8 or floating point.
    mean: Mean of each channel [C], for uint8 images in the range 0 to 1.
    std: Standard deviation of each channel [C], on the same scale, positive.

  Returns:
    A float32 array of the shape of `images`.

  Raises:
    ValueError: If `images` is neither uint8 nor floating point, or if there is not one mean and standard
      deviation per channel.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import training
    >>> images = jnp.full((1, 2, 2, 1), 255, jnp.uint8)
    >>> float(training.normalize(images, jnp.array([0.5]), jnp.array([0.25]))[0, 0, 0, 0])
    2.0
  """
  if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
    checks.fail("images", images.dtype.name, "an array of uint8 or floating-point type")
  for name, value in (("mean", mean), ("std", std)):
    if value.shape != images.shape[-1:]:
      checks.fail(name, value.shape, f"one value per channel, shape {images.shape[-1:]}")
  scale = 255.0 if images.dtype == jnp.uint8 else 1.0
  mean, std = (expand_rank(value, images.ndim) for value in (mean, std))
  return (images.astype(jnp.float32) / scale - mean) / std
