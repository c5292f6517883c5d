"""The filter transpose of a dilated convolution in a form that XLA's GPU backend passes to cuDNN.

XLA recognizes a gradient with respect to the filters only if they are not dilated. Otherwise it runs a
forward convolution with the whole signal as its window, which is several times slower.

The arguments are those of `_conv_primitives`, with or without groups.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cscjax.ops import _conv_plain
from cscjax.ops._geometry import Pads, Sizes


def filter_transpose(
  x: jax.Array,
  y: jax.Array,
  *,
  strides: Sequence[int],
  dilations: Sequence[int],
  pads: Pads,
  sizes: Sizes,
) -> jax.Array:
  """Maps x [N, H, W, C] and y [N, H', W', m] to w [kh, kw, C, m] in polyphase form.

  With stride s and dilation d, output p multiplies tap t with position s p + d t of the padded signal.
  At stride 1 this position is congruent to p modulo d for every tap, so the positions of one residue
  form a convolution without dilation. The residues become images of one batch.

  At other strides only every g-th position is read, with g = gcd(s, d), so d / g residues remain. If
  there are several, the stride is replaced by s / g - 1 zeros between the outputs.
  """
  dilations = tuple(d if k > 1 else 1 for k, d in zip(sizes[1], dilations, strict=True))
  if max(dilations) == 1:
    return _conv_plain.filter_transpose(
      x, y, strides=strides, dilations=dilations, pads=pads, sizes=sizes
    )
  rank = len(strides)
  commons = [math.gcd(s, d) for s, d in zip(strides, dilations, strict=True)]
  residues = [d // common for d, common in zip(dilations, commons, strict=True)]
  x_edges, y_edges, steps, new_pads = [], [], [], []
  for k, h, n, s, d, common, parts, (low, _) in zip(
    sizes[1],
    x.shape[-rank - 1 : -1],
    y.shape[-rank - 1 : -1],
    strides,
    dilations,
    commons,
    residues,
    pads,
    strict=True,
  ):
    step, spread = (s // common, 1) if parts == 1 else (1, s // common)
    # XLA takes this for a forward convolution with y as the filter if y is no larger than the true
    # filter, or larger than x. Zeros at the end of x and y avoid this.
    length = max(-(-n * spread // parts), k + 1)
    # The convolution below pads by whole multiples of d, and the split into residues by the remainder.
    before = low // d
    used = (length - 1) * step + k - before
    cells = max(-(-(h + low % d) // d), min(length, used))
    x_edges.append((low % d, cells * d - h - low % d, 0))
    y_edges.append((0, length * parts - (n - 1) * spread - 1, spread - 1))
    steps.append(step)
    new_pads.append((before, max(used - cells, 0)))
  ones = (1,) * rank
  return _conv_plain.filter_transpose(
    _by_residue(x, edges=x_edges, moduli=dilations, commons=commons),
    _by_residue(y, edges=y_edges, moduli=residues, commons=ones),
    strides=steps,
    dilations=ones,
    pads=new_pads,
    sizes=((), sizes[1]),  # the size of the signal is not used
  )


def _by_residue(
  a: jax.Array,
  *,
  edges: Sequence[tuple[int, int, int]],
  moduli: Sequence[int],
  commons: Sequence[int],
) -> jax.Array:
  """Pads [N, H, W, C] and splits it by the residue of a position: [N * residues, H / dh, W / dw, C].

  Of the residues modulo `moduli`, those that are multiples of `commons` are kept.
  """
  rank = len(moduli)
  if a.ndim > rank + 2:
    return jax.vmap(partial(_by_residue, edges=edges, moduli=moduli, commons=commons))(a)
  a = lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
  cells = [size // d for size, d in zip(a.shape[1:-1], moduli, strict=True)]
  a = a.reshape(a.shape[0], *(n for pair in zip(cells, moduli, strict=True) for n in pair), a.shape[-1])
  a = a[:, *(part for common in commons for part in (slice(None), slice(None, None, common)))]
  a = a.transpose(0, *range(2, 2 * rank + 1, 2), *range(1, 2 * rank + 1, 2), 2 * rank + 1)
  return a.reshape(math.prod(a.shape[: rank + 1]), *cells, a.shape[-1])
