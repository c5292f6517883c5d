"""The three bilinear maps of a convolution, each the transpose of another, as JAX primitives.

    conv(x, w) -> y      input_transpose(y, w) -> x      filter_transpose(x, y) -> w

The gradients that JAX derives for a convolution run 10 to 200 times slower inside a loop (`lax.scan`,
`lax.fori_loop`) on the CPU than outside. As primitives the three have lowerings of their own there
(`conv_cpu`), while other platforms keep JAX's. Being closed under transposition they have forward- and
reverse-mode derivatives of every order.

Arrays have one batch axis, geometry is explicit: `strides`, `dilations` and `pads` with one entry an
axis, `sizes` the spatial shape of x, or of w.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cscjax.ops import conv_cpu, meshes

_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


def conv(x, w, *, strides, dilations, pads):
  """[N, H, W, C], [kh, kw, C, m] -> [N, H', W', m], zero-padded by `pads`."""
  sizes = (x.shape[1:-1], w.shape[:-2])
  x, w = meshes.vary_alike(x, w)
  return _conv_p.bind(x, w, strides=strides, dilations=dilations, pads=pads, sizes=sizes)


def _conv(x, w, *, strides, dilations, pads, sizes):
  del sizes
  return lax.conv_general_dilated(
    x, w, strides, pads, rhs_dilation=dilations, dimension_numbers=_LAYOUTS[x.ndim - 2]
  )


def _input(y, w, *, sizes, **geometry):
  x = jnp.zeros_like(y, shape=(y.shape[0], *sizes[0], w.shape[-2]))
  return jax.linear_transpose(lambda x: _conv(x, w, sizes=sizes, **geometry), x)(y)[0]


def _filter(x, y, *, sizes, **geometry):
  w = jnp.zeros_like(y, shape=(*sizes[1], x.shape[-1], y.shape[-1]))
  return jax.linear_transpose(lambda w: _conv(x, w, sizes=sizes, **geometry), w)(y)[0]


def _primitive(name, implementation, cpu_implementation):
  primitive = Primitive(name)

  @primitive.def_abstract_eval
  def _(a, b, **params):
    # The type of the plain form, with the axes of a mesh over which it varies.
    return jax.make_jaxpr(partial(implementation, **params))(a, b).out_avals[0]

  static = ("strides", "dilations", "pads", "sizes")
  compiled = jax.jit(lambda a, b, **params: primitive.bind(a, b, **params), static_argnames=static)

  @primitive.def_impl
  def _(a, b, **params):
    with jax.disable_jit(False):  # else it would call itself
      return compiled(a, b, **params)

  mlir.register_lowering(primitive, mlir.lower_fun(implementation, multiple_results=False))
  mlir.register_lowering(
    primitive, mlir.lower_fun(cpu_implementation, multiple_results=False), platform="cpu"
  )
  return primitive


_conv_p = _primitive("csc_conv", _conv, conv_cpu.conv)
_input_p = _primitive("csc_conv_input_transpose", _input, conv_cpu.input_transpose)
_filter_p = _primitive("csc_conv_filter_transpose", _filter, conv_cpu.filter_transpose)

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


def _fold_batch(primitive, args, dims, **params):
  """vmap: over signals it joins the batch axis; over filters too it is a loop."""
  left, right = args
  if dims[1] is None:
    left = jnp.moveaxis(left, dims[0], 0)
    joined = left.reshape(left.shape[0] * left.shape[1], *left.shape[2:])
    out = primitive.bind(joined, right, **params)
    return out.reshape(*left.shape[:2], *out.shape[1:]), 0
  return _loop(primitive, args, dims, **params)


def _loop(primitive, args, dims, **params):
  """vmap as a loop over the mapped axis."""
  size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
  args = [
    jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
    for a, d in zip(args, dims, strict=True)
  ]
  return lax.map(lambda pair: primitive.bind(*pair, **params), tuple(args)), 0


batching.primitive_batchers[_conv_p] = partial(_fold_batch, _conv_p)
batching.primitive_batchers[_input_p] = partial(_fold_batch, _input_p)
batching.primitive_batchers[_filter_p] = partial(_loop, _filter_p)
