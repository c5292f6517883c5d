"""The three maps of a convolution in JAX's own form: a convolution and its two transposes.

The arguments are those of `_conv_primitives`, with or without groups. With groups, the whole grouped
convolution is transposed, because XLA's GPU backend does not recognize a vmapped filter transpose.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cscjax.ops._geometry import LAYOUTS, Pads, Sizes


def conv(
  x: jax.Array,
  w: jax.Array,
  *,
  strides: Sequence[int],
  dilations: Sequence[int],
  pads: Pads,
  sizes: Sizes,
) -> jax.Array:
  """Convolves x [N, H, W, C] with w [kh, kw, C, m] to y [N, H', W', m]."""
  rank = len(strides)
  if x.ndim > rank + 2:
    single = partial(conv, strides=strides, dilations=dilations, pads=pads, sizes=sizes)
    return jax.vmap(single)(x, w)
  return lax.conv_general_dilated(
    x, w, strides, pads, rhs_dilation=dilations, dimension_numbers=LAYOUTS[rank]
  )


def input_transpose(
  y: jax.Array, w: jax.Array, *, strides: Sequence[int], sizes: Sizes, **geometry: Any
) -> jax.Array:
  """Maps y [N, H', W', m] and w [kh, kw, C, m] to x [N, H, W, C], the transpose of `conv` in x."""
  batch = y.shape[: -len(strides) - 1]
  x = jnp.zeros_like(y, shape=(*batch, *sizes[0], w.shape[-2]))
  return jax.linear_transpose(lambda x: conv(x, w, strides=strides, sizes=sizes, **geometry), x)(y)[0]


def filter_transpose(
  x: jax.Array, y: jax.Array, *, strides: Sequence[int], sizes: Sizes, **geometry: Any
) -> jax.Array:
  """Maps x [N, H, W, C] and y [N, H', W', m] to w [kh, kw, C, m], the transpose of `conv` in w."""
  groups = x.shape[: -len(strides) - 2]
  w = jnp.zeros_like(y, shape=(*groups, *sizes[1], x.shape[-1], y.shape[-1]))
  return jax.linear_transpose(lambda w: conv(x, w, strides=strides, sizes=sizes, **geometry), w)(y)[0]
