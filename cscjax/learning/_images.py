"""Images, signals or volumes of one or several shapes: checks, minibatches and patches."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.ops import common_float


class Images(struct.PyTreeNode):
  """Images, signals or volumes, stacked by shape.

  Attributes:
    stacks: For each shape an array [n, H, W, C], [n, L, C] or [n, D, H, W, C].
    places: For each image the index of its stack and its index in the stack, int32 [N, 2].
  """

  stacks: tuple[jax.Array, ...]
  places: jax.Array

  @property
  def count(self) -> int:
    """Number of images."""
    return self.places.shape[0]

  @property
  def sizes(self) -> np.ndarray:
    """Spatial sizes of the images of each stack, [stacks, axes]."""
    return np.array([stack.shape[1:-1] for stack in self.stacks])


def as_images(images: ArrayLike | Sequence[ArrayLike]) -> Images:
  """Checks the images, converts them to floating point and stacks those of equal shape.

  Args:
    images: An array with the images along its first axis, or a list of images.
  """
  if isinstance(images, list | tuple):
    arrays = [checks.real_array("images", image) for image in images]
    shapes = list(dict.fromkeys(image.shape for image in arrays))
    if len({(len(shape), shape[-1:]) for shape in shapes}) != 1:
      expected = "a list of images [H, W, C] or signals [L, C] with equal numbers of axes and channels"
      checks.fail("images", shapes, expected)
    dtype = common_float(*arrays)
    arrays = [image.astype(dtype) for image in arrays]
    stacks = tuple(jnp.stack([a for a in arrays if a.shape == shape]) for shape in shapes)
    stack_of = np.array([shapes.index(image.shape) for image in arrays])
  else:
    stack = checks.real_array("images", images)
    stacks, stack_of = (stack.astype(common_float(stack)),), np.zeros(stack.shape[:1], int)
  for stack in stacks:
    if stack.ndim not in (3, 4, 5) or stack.size == 0:
      expected = "[N, H, W, C], [N, L, C] or [N, D, H, W, C] with no empty axis"
      checks.fail("images", stack.shape, expected)
    if not checks.is_traced(stack) and not bool(jnp.all(jnp.isfinite(stack))):
      checks.fail("images", "NaN or infinity", "finite values")
  places = np.zeros((len(stack_of), 2), np.int32)
  places[:, 0] = stack_of
  for index in range(len(stacks)):
    places[stack_of == index, 1] = np.arange(np.sum(stack_of == index))
  return Images(stacks, jnp.asarray(places))


def minibatch(count: int, batch_size: int, key: jax.Array, step: jax.Array) -> jax.Array:
  """Returns the indices of the images of a step: a part of the permutation of its epoch.

  Args:
    count: Number of images.
    batch_size: Number of images of a step.
    key: Key data of the permutations.
    step: Number of steps done so far.
  """
  epoch, position = jnp.divmod(step, count // batch_size)
  key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), epoch)
  order = jax.random.permutation(key, count)
  return lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)


def random_patches(images: Images, size: tuple[int, ...], count: int, key: jax.Array) -> jax.Array:
  """Draws patches, each position in each image with the same probability: [*size, C, count]."""
  image_key, position_key = jax.random.split(key)
  positions = images.sizes - np.array(size) + 1  # number of positions along each axis
  weights = jnp.asarray(np.prod(positions, axis=1, dtype=float), float)[images.places[:, 0]]
  chosen = jax.random.choice(image_key, images.count, (count,), p=weights / jnp.sum(weights))
  stacks, rows = images.places[chosen].T
  limits = jnp.asarray(positions, jnp.int32)[stacks]
  starts = jax.random.randint(position_key, (count, len(size)), 0, limits, jnp.int32)

  def patch(place: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    index, row, start = place
    corner, shape = (row, *start, jnp.zeros_like(row)), (1, *size, images.stacks[0].shape[-1])
    cuts = [partial(lax.dynamic_slice, stack, corner, shape) for stack in images.stacks]
    return lax.switch(index, cuts)[0]

  return jnp.moveaxis(lax.map(patch, (stacks, rows, starts)), 0, -1)
