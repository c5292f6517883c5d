"""The three bilinear maps of a convolution as JAX primitives.

    conv(x, w) -> y      input_transpose(y, w) -> x      filter_transpose(x, y) -> w

The gradients that JAX derives for a convolution run 10 to 200 times slower inside a loop (`lax.scan`,
`lax.fori_loop`) than outside on a CPU, and one of them is slow for dilated filters on a GPU. As
primitives, the three maps have lowerings of their own on these platforms (`_conv_cpu`, `_conv_gpu`) and
JAX's own lowering elsewhere (`_conv_plain`). Each transpose of one of the maps is another of them, so
all of them have forward- and reverse-mode derivatives of every order.

When JAX lowers a primitive, the `jax.default_matmul_precision` around the call may have ended. The
precision is therefore a parameter of the primitives, which their derivatives inherit.

Arrays have one batch axis. The geometry is explicit: `strides`, `dilations` and `pads` have one entry
per spatial axis, and `sizes` contains the spatial shapes of x and w. Both operands may have a leading
group axis, as in [G, N, H, W, C] and [G, kh, kw, C, m]; the result then has one, too, and contains G
independent convolutions. The CPU computes them one after another, other platforms as one grouped
convolution.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cscjax.ops import _conv_cpu, _conv_gpu, _conv_plain
from cscjax.ops._geometry import Pads
from cscjax.ops._meshes import vary_alike

Map = Callable[..., jax.Array]  # (operand, operand, **parameters) -> result


def conv(
  x: jax.Array, w: jax.Array, *, strides: Sequence[int], dilations: Sequence[int], pads: Pads
) -> jax.Array:
  """Convolves x [N, H, W, C], zero-padded by `pads`, with w [kh, kw, C, m] to y [N, H', W', m]."""
  sizes = (x.shape[1:-1], w.shape[:-2])
  setting = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
  x, w = vary_alike((x, w))
  return _conv_p.bind(
    x, w, strides=strides, dilations=dilations, pads=pads, sizes=sizes, precision=setting or "default"
  )


def _primitive(name: str, plain: Map, **platforms: Map) -> Primitive:
  """Returns the primitive of a map: `plain` lowers it, except on the platforms that are named."""
  primitive = Primitive(name)

  @primitive.def_abstract_eval
  def _(a: Any, b: Any, **params: Any) -> Any:
    # The type includes the mesh axes over which the plain form varies.
    return jax.make_jaxpr(partial(_at_precision(plain), **params))(a, b).out_avals[0]

  static = ("strides", "dilations", "pads", "sizes", "precision")
  compiled = jax.jit(lambda a, b, **params: primitive.bind(a, b, **params), static_argnames=static)

  @primitive.def_impl
  def _(a: jax.Array, b: jax.Array, **params: Any) -> jax.Array:
    with jax.disable_jit(False):  # without jit, this rule would call itself
      return compiled(a, b, **params)

  mlir.register_lowering(primitive, _lowering(plain))
  for platform, implementation in platforms.items():
    mlir.register_lowering(primitive, _lowering(implementation), platform=platform)
  return primitive


def _lowering(function: Map) -> Callable[..., Any]:
  """Returns the lowering rule of a map."""
  return mlir.lower_fun(_at_precision(function), multiple_results=False)


def _at_precision(function: Map) -> Map:
  """Adds a parameter `precision` to a function, the precision of its products and convolutions."""

  def run(a: Any, b: Any, *, precision: str, **params: Any) -> jax.Array:
    with jax.default_matmul_precision(precision):
      return function(a, b, **params)

  return run


def _one_by_one(function: Map) -> Map:
  """Extends a function without groups to arrays with groups, which are computed one after another."""

  def mapped(a: jax.Array, b: jax.Array, **params: Any) -> jax.Array:
    if a.ndim == len(params["strides"]) + 2:
      return function(a, b, **params)
    return lax.map(lambda pair: function(*pair, **params), (a, b))

  return mapped


_conv_p = _primitive("csc_conv", _conv_plain.conv, cpu=_one_by_one(_conv_cpu.conv))
_input_p = _primitive(
  "csc_conv_input_transpose",
  _conv_plain.input_transpose,
  cpu=_one_by_one(_conv_cpu.input_transpose),
)
_filter_p = _primitive(
  "csc_conv_filter_transpose",
  _conv_plain.filter_transpose,
  cuda=_conv_gpu.filter_transpose,
)


def _filter_transpose_on_cpu(ctx: mlir.LoweringRuleContext, x: Any, y: Any, **params: Any) -> Any:
  """Lowers the filter transpose of `_conv_cpu`, which loops over blocks of the batch.

  If XLA loops over an axis that is sharded over devices, it gathers the whole batch on every device. For
  several devices the batch is therefore divided into one part per device, and the results are summed.
  """
  # The number is 0 in a program exported for any number of devices, and missing inside `jax.shard_map`.
  devices = getattr(ctx.module_context.axis_context, "num_devices", 0)

  def by_device(x: jax.Array, y: jax.Array, **params: Any) -> jax.Array:
    function = partial(_conv_cpu.filter_transpose, **params)
    if devices <= 1 or x.shape[0] % devices:
      return function(x, y)
    parts = (a.reshape(devices, len(a) // devices, *a.shape[1:]) for a in (x, y))
    return jnp.sum(jax.vmap(function)(*parts), axis=0)

  return _lowering(_one_by_one(by_device))(ctx, x, y, **params)


mlir.register_lowering(_filter_p, _filter_transpose_on_cpu, platform="cpu")

# Each transpose rule maps (cotangent, left, right) to the cotangent of the linear operand.
ad.defbilinear(
  _conv_p,
  lambda ct, x, w, **params: _input_p.bind(ct, w, **params),
  lambda ct, x, w, **params: _filter_p.bind(x, ct, **params),
)
ad.defbilinear(
  _input_p,
  lambda ct, y, w, **params: _conv_p.bind(ct, w, **params),
  lambda ct, y, w, **params: _filter_p.bind(ct, y, **params),
)
ad.defbilinear(
  _filter_p,
  lambda ct, x, y, **params: _input_p.bind(y, ct, **params),
  lambda ct, x, y, **params: _conv_p.bind(x, ct, **params),
)


def _batch(
  primitive: Primitive,
  axes: Sequence[tuple[int, int]],
  args: Sequence[jax.Array],
  dims: Sequence[Any],
  **params: Any,
) -> tuple[jax.Array, int]:
  """Batches a primitive for `jax.vmap`.

  If one operand is mapped, the mapped axis is merged into another of its axes. If both are mapped, it
  becomes the group axis or is merged into it.

  Args:
    primitive: The primitive.
    axes: For each operand, the axis of it (in an array without groups) that absorbs a mapped axis, and
      the axis of the result from which it is split off again.
    args: The operands.
    dims: Mapped axis of each operand, None if it is not mapped.
    **params: Parameters of the primitive.

  Returns:
    The result and its mapped axis.
  """
  ndim = len(params["strides"]) + 2
  args = list(args)
  mapped = [side for side, dim in enumerate(dims) if dim is not None]
  groups = args[mapped[0]].ndim - 1 - ndim  # number of group axes, 0 or 1
  if len(mapped) == 2 and not groups:
    args = [jnp.moveaxis(a, dim, 0) for a, dim in zip(args, dims, strict=True)]
    return primitive.bind(*args, **params), 0
  axis, out_axis = (0, 0) if len(mapped) == 2 else (n % ndim + groups for n in axes[mapped[0]])
  for side in mapped:
    a = jnp.moveaxis(args[side], dims[side], axis)
    split = a.shape[axis : axis + 2]
    args[side] = a.reshape(*a.shape[:axis], math.prod(split), *a.shape[axis + 2 :])
  out = primitive.bind(*args, **params)
  return out.reshape(*out.shape[:out_axis], *split, *out.shape[out_axis + 1 :]), out_axis


# Mapped images are merged into the batch axis, mapped filters into the atoms (or into the channels).
batching.primitive_batchers[_conv_p] = partial(_batch, _conv_p, ((0, 0), (-1, -1)))
batching.primitive_batchers[_input_p] = partial(_batch, _input_p, ((0, 0), (-2, -1)))
batching.primitive_batchers[_filter_p] = partial(_batch, _filter_p, ((-1, -2), (-1, -1)))
