"""Types of arrays on a device mesh: varying axes inside `jax.shard_map`, shardings on explicit axes."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

PyTree = Any


def vary_alike(tree: PyTree, example: PyTree = ()) -> PyTree:
  """Inside `jax.shard_map`, marks each leaf as varying over every axis that one of them varies over.

  JAX does this for the operands of its own operations, but not for what a loop starts from, whose type
  has to be that of what the loop makes of it. The gradient of a leaf that did not vary is summed over
  the axes that were added. Outside `jax.shard_map` the tree is returned unchanged.

  Args:
    tree: A pytree of arrays.
    example: Another one, over whose axes the leaves of `tree` vary afterwards, too.

  Returns:
    The tree.
  """
  leaves, structure = jax.tree.flatten(tree)
  axes = [jax.typeof(leaf).manual_axis_type.varying for leaf in (*leaves, *jax.tree.leaves(example))]
  union = frozenset().union(*axes)
  varied = [lax.pcast(a, tuple(union - own), to="varying") for a, own in zip(leaves, axes, strict=False)]
  return jax.tree.unflatten(structure, varied)


def shard_batch(
  function: Callable[..., PyTree], x: jax.Array, *others: PyTree, batch_ndim: int, layout: PyTree = 0
) -> PyTree:
  """Returns `function(x, *others)`, sharded along the batch as `x` is on a mesh with explicit axes.

  Within the function these axes are automatic, so XLA chooses how it is sharded.

  Args:
    function: The function.
    x: Array whose first axes are batch.
    others: More arguments, pytrees of arrays.
    batch_ndim: Number of batch axes of `x`.
    layout: Number of axes before the batch axes in each part of the result (a pytree prefix of it), or
      "replicated" for a part without batch axes.
  """
  types = [jax.typeof(leaf) for leaf in jax.tree.leaves((x, others))]
  mesh = next((t.sharding.mesh for t in types if t.sharding.mesh.explicit_axes), None)
  if mesh is None:
    return function(x, *others)
  batch = types[0].sharding.spec[:batch_ndim]

  def sharding(before):
    spec = () if before == "replicated" else (*[None] * before, *batch)
    return NamedSharding(mesh, PartitionSpec(*spec))

  out_sharding = jax.tree.map(sharding, layout)
  return jax.sharding.auto_axes(function, out_sharding=out_sharding)(x, *others)
