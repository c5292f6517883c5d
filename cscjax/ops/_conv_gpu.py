"""The filter transpose of a dilated convolution in a form that XLA's GPU backend leaves to cuDNN.

XLA recognises a gradient by the filters as such only where they are not dilated. Elsewhere it runs a
forward convolution with the whole signal as its window, which is several times slower.

Arguments are those of `_conv_primitives`, with or without groups.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cscjax.ops import _conv_plain


def filter_transpose(x, y, *, strides, dilations, pads, sizes):
  """[N, H, W, C], [N, H', W', m] -> [kh, kw, C, m], dilated filters in polyphase form.

  Output p reads tap t at position s p + d t of the padded signal, with stride s and dilation d. At
  stride 1 this position has the residue of p modulo d whatever the tap, so the samples of one residue
  form a convolution that is not dilated. The residues become images of one batch.

  At other strides only every g-th position is read, with g = gcd(s, d), so that d / g residues are left.
  If there are several, s / g - 1 zeros between the outputs take the place of the stride.
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
    # XLA sees a forward convolution with y as its filter if y is no larger than the true filter, or if
    # it is larger than x. Zeros at the end of both avoid this.
    length = max(-(-n * spread // parts), k + 1)
    # The convolution pads by whole steps of d, and the split by the rest.
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
    sizes=(None, sizes[1]),
  )


def _by_residue(a, *, edges, moduli, commons):
  """Splits the padded [N, H, W, C] by the residue of a position: [N * residues, H / dh, W / dw, C].

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
