"""The three bilinear maps of a convolution, each the transpose of another, as JAX primitives.

    conv(x, w) -> y      input_transpose(y, w) -> x      filter_transpose(x, y) -> w

The gradients that JAX derives for a convolution run 10 to 200 times slower inside a loop (`lax.scan`,
`lax.fori_loop`) on the CPU than outside, and on a GPU one of them is slow for dilated filters. As
primitives, the three have lowerings of their own there (`_conv_cpu`, `_conv_gpu`), and JAX's elsewhere
(`_conv_plain`). Because they are closed under transposition, they have forward- and reverse-mode
derivatives of every order.

JAX lowers a primitive when the `jax.default_matmul_precision` around the call may have ended, so the
precision that it asks for is a parameter, which derivatives inherit.

Arrays have one batch axis. The geometry is explicit: `strides`, `dilations` and `pads` have one entry
for each spatial axis, `sizes` holds the spatial shapes of x and of w. Both operands may have a group
axis, as in [G, N, H, W, C] and [G, kh, kw, C, m], and then the result has one too. This means G
convolutions side by side. The CPU computes them one after another, other platforms as one grouped
convolution.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cscjax.ops import _conv_cpu, _conv_gpu, _conv_plain
from cscjax.ops._meshes import vary_alike


def conv(x, w, *, strides, dilations, pads):
  """[N, H, W, C], [kh, kw, C, m] -> [N, H', W', m], zero-padded by `pads`."""
  sizes = (x.shape[1:-1], w.shape[:-2])
  setting = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
  x, w = vary_alike((x, w))
  return _conv_p.bind(
    x, w, strides=strides, dilations=dilations, pads=pads, sizes=sizes, precision=setting or "default"
  )


def _primitive(name, plain, **platforms):
  """The primitive of a map with the lowering of `plain`, or of the form that `platforms` has for one."""
  primitive = Primitive(name)

  @primitive.def_abstract_eval
  def _(a, b, **params):
    # The type of the plain form, with the axes of a mesh over which it varies.
    return jax.make_jaxpr(partial(_at_precision(plain), **params))(a, b).out_avals[0]

  static = ("strides", "dilations", "pads", "sizes", "precision")
  compiled = jax.jit(lambda a, b, **params: primitive.bind(a, b, **params), static_argnames=static)

  @primitive.def_impl
  def _(a, b, **params):
    with jax.disable_jit(False):  # else it would call itself
      return compiled(a, b, **params)

  mlir.register_lowering(primitive, _lowering(plain))
  for platform, implementation in platforms.items():
    mlir.register_lowering(primitive, _lowering(implementation), platform=platform)
  return primitive


def _lowering(function):
  return mlir.lower_fun(_at_precision(function), multiple_results=False)


def _at_precision(function):
  """`function` with products and convolutions of the precision that is its parameter."""

  def run(a, b, *, precision, **params):
    with jax.default_matmul_precision(precision):
      return function(a, b, **params)

  return run


def _one_by_one(function):
  """`function` for one group after another."""

  def mapped(a, b, **params):
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


def _filter_transpose_on_cpu(ctx, x, y, **params):
  """Lowers the CPU's filter transpose, which loops over blocks of the batch, for one device or several.

  XLA gathers all of the batch on every device if it loops over the axis that is split over them. So for
  several devices the sum over the batch is one of as many sums, each over a part of the batch.
  """
  # 0 in an exported program for any number of devices. Inside `jax.shard_map` there is no such number.
  devices = getattr(ctx.module_context.axis_context, "num_devices", 0)

  def by_device(x, y, **params):
    function = partial(_conv_cpu.filter_transpose, **params)
    if devices <= 1 or x.shape[0] % devices:
      return function(x, y)
    parts = (a.reshape(devices, len(a) // devices, *a.shape[1:]) for a in (x, y))
    return jnp.sum(jax.vmap(function)(*parts), axis=0)

  return _lowering(_one_by_one(by_device))(ctx, x, y, **params)


mlir.register_lowering(_filter_p, _filter_transpose_on_cpu, platform="cpu")

# Rules take (cotangent, left, right) and give the cotangent of the one that is not known.
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


def _batch(primitive, axes, args, dims, **params):
  """vmap: what maps one operand becomes part of one of its axes, what maps both of the group axis.

  `axes` names this axis of each operand in an array without groups, and that of the result.
  """
  ndim = len(params["strides"]) + 2
  args = list(args)
  mapped = [side for side, dim in enumerate(dims) if dim is not None]
  groups = args[mapped[0]].ndim - 1 - ndim  # number of group axes, 0 or 1
  if len(mapped) == 2 and not groups:
    args = (jnp.moveaxis(a, dim, 0) for a, dim in zip(args, dims, strict=True))
    return primitive.bind(*args, **params), 0
  axis, out_axis = (0, 0) if len(mapped) == 2 else (n % ndim + groups for n in axes[mapped[0]])
  for side in mapped:
    a = jnp.moveaxis(args[side], dims[side], axis)
    split = a.shape[axis : axis + 2]
    args[side] = a.reshape(*a.shape[:axis], math.prod(split), *a.shape[axis + 2 :])
  out = primitive.bind(*args, **params)
  return out.reshape(*out.shape[:out_axis], *split, *out.shape[out_axis + 1 :]), out_axis


# Images are joined along the batch axis, filters along their atoms (or their channels).
batching.primitive_batchers[_conv_p] = partial(_batch, _conv_p, ((0, 0), (-1, -1)))
batching.primitive_batchers[_input_p] = partial(_batch, _input_p, ((0, 0), (-2, -1)))
batching.primitive_batchers[_filter_p] = partial(_batch, _filter_p, ((-1, -2), (-1, -1)))
