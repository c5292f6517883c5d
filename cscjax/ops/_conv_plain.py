"""The three maps of a convolution as JAX derives them, each from the one before.

Arguments are those of `_conv_primitives`, with or without groups. The transposes are those of the
grouped convolution: XLA's GPU backend does not recognise what `jax.vmap` makes of a single filter
transpose.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


def conv(x, w, *, strides, dilations, pads, sizes):
  """[N, H, W, C], [kh, kw, C, m] -> [N, H', W', m]."""
  rank = len(strides)
  if x.ndim > rank + 2:
    single = partial(conv, strides=strides, dilations=dilations, pads=pads, sizes=sizes)
    return jax.vmap(single)(x, w)
  return lax.conv_general_dilated(
    x, w, strides, pads, rhs_dilation=dilations, dimension_numbers=_LAYOUTS[rank]
  )


def input_transpose(y, w, *, strides, sizes, **geometry):
  """[N, H', W', m], [kh, kw, C, m] -> [N, H, W, C]."""
  batch = y.shape[: -len(strides) - 1]
  x = jnp.zeros_like(y, shape=(*batch, *sizes[0], w.shape[-2]))
  return jax.linear_transpose(lambda x: conv(x, w, strides=strides, sizes=sizes, **geometry), x)(y)[0]


def filter_transpose(x, y, *, strides, sizes, **geometry):
  """[N, H, W, C], [N, H', W', m] -> [kh, kw, C, m]."""
  groups = x.shape[: -len(strides) - 2]
  w = jnp.zeros_like(y, shape=(*groups, *sizes[1], x.shape[-1], y.shape[-1]))
  return jax.linear_transpose(lambda w: conv(x, w, strides=strides, sizes=sizes, **geometry), w)(y)[0]
