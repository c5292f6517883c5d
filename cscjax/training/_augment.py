"""Shift, flip and normalisation of a batch, inside the compiled step."""

import jax
import jax.numpy as jnp

from cscjax.ops import expand_rank


def augment(images: jax.Array, keys: jax.Array, *, shift: int, flip: bool) -> jax.Array:
  """Randomly shifts (zero padding, then crop) and mirrors each image.

  Args:
    images: [N, H, W, C] or [N, L, C], before normalisation, so that what is shifted in is black.
    keys: [N], one an image, so that the result does not depend on how a batch is split.
    shift: Largest shift along each axis in pixels, >= 0.
    flip: Whether to mirror left and right with probability 1/2.

  Returns:
    Same shape and type as `images`.
  """
  size, rank = images.shape[1:], images.ndim - 2

  def one(image, key):
    shift_key, flip_key = jax.random.split(key)
    if shift:
      padded = jnp.pad(image, [(shift, shift)] * rank + [(0, 0)])
      offsets = jax.random.randint(shift_key, (rank,), 0, 2 * shift + 1)
      image = jax.lax.dynamic_slice(padded, (*offsets, 0), size)
    if flip:
      image = jnp.where(jax.random.bernoulli(flip_key), jnp.flip(image, axis=rank - 1), image)
    return image

  return jax.vmap(one)(images, keys) if shift or flip else images


def normalize(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
  """(images - mean) / std a channel, float32; uint8 images are scaled to 0..1 first."""
  scale = 255.0 if images.dtype == jnp.uint8 else 1.0
  mean, std = (expand_rank(value, images.ndim) for value in (mean, std))
  return (images.astype(jnp.float32) / scale - mean) / std
