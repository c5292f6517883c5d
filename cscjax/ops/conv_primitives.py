"""The three bilinear maps of a convolution, each the transpose of another, as JAX primitives.

    conv(x, w) -> y      input_transpose(y, w) -> x      filter_transpose(x, y) -> w

XLA's CPU backend has a fast convolution for one layout alone ([N, spatial..., C] with filters
[kernel..., C, m]), and inside a loop (`lax.scan`, `lax.fori_loop`) it does not bring others into it:
the gradients that JAX derives then run 10 to 200 times slower than outside. As primitives the
transposes are written in that layout on the CPU, while other platforms keep JAX's own. Being closed
under transposition they have forward- and reverse-mode derivatives of every order.

Arrays have one batch axis, geometry is explicit: `strides`, `dilations` and `pads` with one entry an
axis, `sizes` the spatial shape of x, or of w.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


def conv(x, w, *, strides, dilations, pads):
  """[N, H, W, C], [kh, kw, C, m] -> [N, H', W', m], zero-padded by `pads`."""
  sizes = (x.shape[1:-1], w.shape[:-2])
  return _conv_p.bind(x, w, strides=strides, dilations=dilations, pads=pads, sizes=sizes)


def _conv(x, w, *, strides, dilations, pads, sizes):
  del sizes
  return lax.conv_general_dilated(
    x, w, strides, pads, rhs_dilation=dilations, dimension_numbers=_LAYOUTS[x.ndim - 2]
  )


def _input(y, w, *, sizes, **geometry):
  x = jax.ShapeDtypeStruct((y.shape[0], *sizes[0], w.shape[-2]), y.dtype)
  return jax.linear_transpose(lambda x: _conv(x, w, sizes=sizes, **geometry), x)(y)[0]


def _filter(x, y, *, sizes, **geometry):
  w = jax.ShapeDtypeStruct((*sizes[1], x.shape[-1], y.shape[-1]), y.dtype)
  return jax.linear_transpose(lambda w: _conv(x, w, sizes=sizes, **geometry), w)(y)[0]


def _input_cpu(y, w, *, strides, dilations, pads, sizes):
  rank = y.ndim - 2
  new_pads = []
  for h, k, n, s, d, (low, _) in zip(*sizes, y.shape[1:-1], strides, dilations, pads, strict=True):
    before = (k - 1) * d - low
    new_pads.append((before, h + (k - 1) * d - ((n - 1) * s + 1) - before))
  return lax.conv_general_dilated(
    y,
    jnp.swapaxes(jnp.flip(w, range(rank)), -1, -2),
    (1,) * rank,
    new_pads,
    lhs_dilation=strides,
    rhs_dilation=dilations,
    dimension_numbers=_LAYOUTS[rank],
  )


def _filter_cpu(x, y, *, strides, dilations, pads, sizes):
  rank = x.ndim - 2
  new_pads = []
  for h, k, n, s, d, (low, _) in zip(*sizes, y.shape[1:-1], strides, dilations, pads, strict=True):
    new_pads.append((low, (k - 1) * d + (n - 1) * s + 1 - h - low))
  grad = lax.conv_general_dilated(
    jnp.swapaxes(x, 0, -1),  # the batch is what is summed over: it takes the channels' place
    jnp.moveaxis(y, 0, -2),
    dilations,
    new_pads,
    rhs_dilation=strides,
    dimension_numbers=_LAYOUTS[rank],
  )
  return jnp.moveaxis(grad, 0, -2)


def _primitive(name, implementation, cpu_implementation):
  primitive = Primitive(name)

  @primitive.def_abstract_eval
  def _(a, b, **params):
    out = jax.eval_shape(partial(implementation, **params), a, b)
    return ShapedArray(out.shape, out.dtype)

  static = ("strides", "dilations", "pads", "sizes")
  primitive.def_impl(
    jax.jit(lambda a, b, **params: primitive.bind(a, b, **params), static_argnames=static)
  )
  mlir.register_lowering(primitive, mlir.lower_fun(implementation, multiple_results=False))
  mlir.register_lowering(
    primitive, mlir.lower_fun(cpu_implementation, multiple_results=False), platform="cpu"
  )
  return primitive


_conv_p = _primitive("csc_conv", _conv, _conv)
_input_p = _primitive("csc_conv_input_transpose", _input, _input_cpu)
_filter_p = _primitive("csc_conv_filter_transpose", _filter, _filter_cpu)

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
    out = primitive.bind(left.reshape(-1, *left.shape[2:]), right, **params)
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
