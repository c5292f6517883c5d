"""Arrays on a device mesh: varying axes inside `jax.shard_map`, and shardings on explicit axes."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec


def vary_alike(tree: Any, example: Any = ()) -> Any:
  """Marks all leaves of a pytree as varying over the same mesh axes inside `jax.shard_map`.

  JAX does this for the operands of its own operations, but not for the initial value of a loop, whose
  type must equal that of the loop's result. The gradient of a leaf is summed over the axes that were
  added to it. Outside `jax.shard_map` the tree is returned unchanged.

  Args:
    tree: A pytree of arrays.
    example: Another pytree of arrays. The leaves of `tree` vary over its mesh axes afterwards, too.

  Returns:
    The tree, each leaf varying over every mesh axis over which a leaf of `tree` or `example` varies.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> def triple_sum(x):
    ...   start = ops.vary_alike(jnp.zeros(1), x)
    ...   return jax.lax.fori_loop(0, 3, lambda _, total: total + jnp.sum(x), start)
    >>> mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> mapped = jax.shard_map(triple_sum, mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P("i"))
    >>> mapped(jnp.ones(4)).tolist()
    [12.0]
  """
  leaves, structure = jax.tree.flatten(tree)
  axes = [jax.typeof(leaf).manual_axis_type.varying for leaf in (*leaves, *jax.tree.leaves(example))]
  union = frozenset().union(*axes)
  varied = [lax.pcast(a, tuple(union - own), to="varying") for a, own in zip(leaves, axes, strict=False)]
  return jax.tree.unflatten(structure, varied)


def shard_batch(
  function: Callable[..., Any], x: jax.Array, *others: Any, batch_ndim: int, layout: Any = 0
) -> Any:
  """Calls a function and shards its result along the batch as `x` is, on a mesh with explicit axes.

  Within the function these mesh axes are automatic: XLA chooses the sharding of intermediate results.
  Without such a mesh the function is just called.

  Args:
    function: The function to call.
    x: Array whose first `batch_ndim` axes are batch axes.
    *others: Further arguments of the function, pytrees of arrays.
    batch_ndim: Number of batch axes of `x`.
    layout: Position of the batch axes in the result: the number of axes before them, or -1 for a result
      without batch axes. For a result of several parts, a pytree prefix of such values; or a function
      that returns it, which is called only on such a mesh.

  Returns:
    The result of `function(x, *others)`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    >>> with jax.sharding.set_mesh(mesh):
    ...   x = jax.device_put(jnp.ones((4, 3)), jax.sharding.NamedSharding(mesh, jax.P("data")))
    ...   sums = ops.shard_batch(lambda x: jnp.sum(x, axis=1), x, batch_ndim=1)
    >>> sums.shape, sums.sharding.spec[0]
    ((4,), 'data')
  """
  types = [jax.typeof(leaf) for leaf in jax.tree.leaves((x, others))]
  mesh = next((t.sharding.mesh for t in types if t.sharding.mesh.explicit_axes), None)
  if mesh is None:
    return function(x, *others)
  batch = types[0].sharding.spec[:batch_ndim]

  def sharding(before: Any) -> NamedSharding:
    spec = () if before == -1 else (*[None] * before, *batch)
    return NamedSharding(mesh, PartitionSpec(*spec))

  out_sharding = jax.tree.map(sharding, layout() if callable(layout) else layout)
  return jax.sharding.auto_axes(function, out_sharding=out_sharding)(x, *others)
