"""The three maps of a convolution as JAX derives them, each from the one before.

Arguments are those of `conv_primitives`.
"""

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


def conv(x, w, *, strides, dilations, pads, sizes):
  """[N, H, W, C], [kh, kw, C, m] -> [N, H', W', m]."""
  del sizes
  return lax.conv_general_dilated(
    x, w, strides, pads, rhs_dilation=dilations, dimension_numbers=_LAYOUTS[len(strides)]
  )


def input_transpose(y, w, *, sizes, **geometry):
  """[N, H', W', m], [kh, kw, C, m] -> [N, H, W, C]."""
  x = jnp.zeros_like(y, shape=(y.shape[0], *sizes[0], w.shape[-2]))
  return jax.linear_transpose(lambda x: conv(x, w, sizes=sizes, **geometry), x)(y)[0]


def filter_transpose(x, y, *, sizes, **geometry):
  """[N, H, W, C], [N, H', W', m] -> [kh, kw, C, m]."""
  w = jnp.zeros_like(y, shape=(*sizes[1], x.shape[-1], y.shape[-1]))
  return jax.linear_transpose(lambda w: conv(x, w, sizes=sizes, **geometry), w)(y)[0]
