"""Images, signals or volumes of one or several shapes, with masks: checks, minibatches and patches."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.ops import PyTree, common_float
from cscjax.solvers import as_mask


class Images(PyTree):
  """Images, signals or volumes, stacked by shape.

  Attributes:
    stacks: For each shape an array [n, H, W, C], [n, L, C] or [n, D, H, W, C]; zero where the mask is
      zero.
    masks: For each shape the weights in 0..1, which broadcast against the stack, or None.
    places: For each image the index of its stack and its index in the stack, int32 [N, 2].
    sharding: How minibatches are sharded over devices; None if the images are not, or if it is unknown.
  """

  stacks: tuple[jax.Array, ...]
  masks: tuple[jax.Array | None, ...]
  places: jax.Array
  sharding: NamedSharding | PartitionSpec | None = struct.field(pytree_node=False, default=None)

  @property
  def count(self) -> int:
    """Number of images."""
    return self.places.shape[0]

  @property
  def sizes(self) -> np.ndarray:
    """Spatial sizes of the images of each stack, [stacks, axes]."""
    return np.array([stack.shape[1:-1] for stack in self.stacks])

  def rows(self, index: int, rows: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Returns some images of a stack, and their masks."""
    taken, mask = self.stacks[index][rows], self.masks[index]
    if mask is not None and mask.shape[0] > 1:
      mask = mask[rows]
    if self.sharding is None:
      return taken, mask
    # Without this, XLA lets every device encode the whole minibatch.
    return lax.with_sharding_constraint(taken, self.sharding), mask


def as_images(images: ArrayLike | Sequence[ArrayLike], mask: Any = None) -> Images:
  """Checks the images, converts them to floating point and stacks those of equal shape.

  Args:
    images: An array with the images along its first axis, or a list of images.
    mask: Weights in 0..1 that broadcast against the array; for a list, a list of such weights.
  """
  sharding = None
  if isinstance(images, list | tuple):
    stacks, masks, stack_of = _stacked(images, mask)
  else:
    stack = checks.real_array("images", images)
    sharding = _sharding(stack)
    stacks, stack_of = (stack.astype(common_float(stack)),), np.zeros(stack.shape[:1], int)
    masks = (None if mask is None else as_mask(mask, stacks[0]),)
  known = []
  for stack, weights in zip(stacks, masks, strict=True):
    if stack.ndim not in (3, 4, 5) or stack.size == 0:
      expected = "[N, H, W, C], [N, L, C] or [N, D, H, W, C] with no empty axis"
      checks.fail("images", stack.shape, expected)
    known.append(stack if weights is None else jnp.where(weights > 0, stack, 0))
    if not checks.is_traced(known):
      with jax.ensure_compile_time_eval():  # under `jax.jit`, images that it closes over are not traced
        is_finite = bool(jnp.all(jnp.isfinite(known[-1])))
      if not is_finite:
        expected = "finite values" if weights is None else "finite values where the mask is positive"
        checks.fail("images", "NaN or infinity", expected)
  places = np.zeros((len(stack_of), 2), np.int32)
  places[:, 0] = stack_of
  for index in range(len(stacks)):
    places[stack_of == index, 1] = np.arange(np.sum(stack_of == index))
  return Images(tuple(known), masks, jnp.asarray(places), sharding)


def _sharding(stack: jax.Array) -> NamedSharding | PartitionSpec | None:
  """Returns the sharding of the first axis of an array as a constraint for other arrays."""
  # Of a traced array, only a sharding on explicit axes is known.
  sharding = jax.typeof(stack).sharding if checks.is_traced(stack) else stack.sharding
  if not isinstance(sharding, NamedSharding) or not any(sharding.spec[:1]):
    return None
  spec = PartitionSpec(sharding.spec[0])
  # In `shard_batch`, explicit axes are those of the mesh in the context.
  return spec if sharding.mesh.explicit_axes else NamedSharding(sharding.mesh, spec)


def _stacked(
  images: Sequence[ArrayLike], mask: Any
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array | None, ...], np.ndarray]:
  """Stacks the images of a list, and their masks, by shape; returns also the stack of each image."""
  arrays = [checks.real_array("images", image) for image in images]
  shapes = list(dict.fromkeys(image.shape for image in arrays))
  if len({(len(shape), shape[-1:]) for shape in shapes}) != 1:
    expected = "a list of images [H, W, C] or signals [L, C] with equal numbers of axes and channels"
    checks.fail("images", shapes, expected)
  dtype = common_float(*arrays)
  arrays = [image.astype(dtype) for image in arrays]
  groups = [[i for i, a in enumerate(arrays) if a.shape == shape] for shape in shapes]
  stacks = tuple(jnp.stack([arrays[i] for i in group]) for group in groups)
  stack_of = np.array([shapes.index(image.shape) for image in arrays])
  if mask is None:
    return stacks, (None,) * len(stacks), stack_of
  if not isinstance(mask, list | tuple) or len(mask) != len(arrays):
    checks.fail("mask", mask, f"a list of {len(arrays)} masks, one for each image")
  weights = [
    jnp.broadcast_to(as_mask(m, image), image.shape) for m, image in zip(mask, arrays, strict=True)
  ]
  return stacks, tuple(jnp.stack([weights[i] for i in group]) for group in groups), stack_of


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
