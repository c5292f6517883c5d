"""The three bilinear maps of a convolution, each the transpose of another, as JAX primitives.

    conv(x, w) -> y      input_transpose(y, w) -> x      filter_transpose(x, y) -> w

The gradients that JAX derives for a convolution run 10 to 200 times slower inside a loop (`lax.scan`,
`lax.fori_loop`) on the CPU than outside, and on a GPU one of them is slow for dilated filters. As
primitives, the three have lowerings of their own there (`conv_cpu`, `conv_gpu`), and JAX's elsewhere
(`conv_plain`). Because they are closed under transposition, they have forward- and reverse-mode
derivatives of every order.

Arrays have one batch axis, geometry is explicit: `strides`, `dilations` and `pads` with one entry an
axis, `sizes` the spatial shape of x, or of w.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cscjax.ops import conv_cpu, conv_gpu, conv_plain, meshes


def conv(x, w, *, strides, dilations, pads):
  """[N, H, W, C], [kh, kw, C, m] -> [N, H', W', m], zero-padded by `pads`."""
  sizes = (x.shape[1:-1], w.shape[:-2])
  x, w = meshes.vary_alike(x, w)
  return _conv_p.bind(x, w, strides=strides, dilations=dilations, pads=pads, sizes=sizes)


def _primitive(name, plain, **platforms):
  """The primitive of a map with the lowering `plain`, or the one of `platforms` where it has one."""
  primitive = Primitive(name)

  @primitive.def_abstract_eval
  def _(a, b, **params):
    # The type of the plain form, with the axes of a mesh over which it varies.
    return jax.make_jaxpr(partial(plain, **params))(a, b).out_avals[0]

  static = ("strides", "dilations", "pads", "sizes")
  compiled = jax.jit(lambda a, b, **params: primitive.bind(a, b, **params), static_argnames=static)

  @primitive.def_impl
  def _(a, b, **params):
    with jax.disable_jit(False):  # else it would call itself
      return compiled(a, b, **params)

  mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
  for platform, implementation in platforms.items():
    lowering = mlir.lower_fun(implementation, multiple_results=False)
    mlir.register_lowering(primitive, lowering, platform=platform)
  return primitive


_conv_p = _primitive("csc_conv", conv_plain.conv, cpu=conv_cpu.conv)
_input_p = _primitive(
  "csc_conv_input_transpose", conv_plain.input_transpose, cpu=conv_cpu.input_transpose
)
_filter_p = _primitive(
  "csc_conv_filter_transpose",
  conv_plain.filter_transpose,
  cpu=conv_cpu.filter_transpose,
  cuda=conv_gpu.filter_transpose,
)

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
