"""Embedding of a convolution of stride 1 in a circular one."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from cscjax import checks
from cscjax.dictionaries._block_circulant import codes_are_smaller, frame_blocks, inverse_blocks
from cscjax.dictionaries._embedding import (
  CirculantEmbedding,
  in_precision,
  mean_squared_norm,
  pair_of,
)

if TYPE_CHECKING:
  from cscjax.dictionaries._conv import ConvDictionary


def conv_embedding(
  conv: "ConvDictionary", shape: tuple[int, ...], margins: Sequence[tuple[int, int]] | None
) -> CirculantEmbedding:
  """Computes `ConvDictionary.circulant_embedding`.

  All taps of all atoms lie in a range of size + low + high samples, so they do not wrap around a circle
  of this size. A circular atom starts before its position by the lower padding of a circular signal.
  """
  spatial = shape[:-1]
  if any(axis.stride != 1 for axis in conv.axes):
    checks.fail("dictionary", f"stride {conv.stride}", "a dense dictionary or a convolution of stride 1")
  circular = conv.padding == "CIRCULAR"
  own = [(0, 0) if circular else axis.pads(n) for axis, n in zip(conv.axes, spatial, strict=True)]
  around = [(low, high) for low, high in (own if margins is None else margins)]
  if circular and any(map(any, around)):
    checks.fail("margins", around, "zeros, because the dictionary is circular")
  if any(low < a or high < b for (low, high), (a, b) in zip(around, own, strict=True)):
    checks.fail("margins", around, f"at least {own}")
  larger = tuple(n + low + high for n, (low, high) in zip(spatial, around, strict=True))
  wrapped = conv.replace(padding="CIRCULAR")
  embedding = CirculantEmbedding(
    wrapped,
    (*larger, shape[-1]),
    lambda ridge: _ridge_inverse(wrapped, larger, ridge),
    mean_squared_norm(conv.filters),
    margins=tuple(around),
    frame=lambda: frame_blocks(in_precision(wrapped), larger),
  )
  if circular:
    return embedding
  code = jax.eval_shape(conv.analysis, jax.ShapeDtypeStruct(shape, conv.filters.dtype))
  reach = [axis.pads(n)[0] for axis, n in zip(wrapped.axes, larger, strict=True)]
  lows = [low for low, _ in around]
  starts = [low - a + r for low, (a, _), r in zip(lows, own, reach, strict=True)]
  embed_signal, crop_signal = _window(lows, spatial, larger)
  embed_code, crop_code = _window(starts, code.shape[:-1], larger)
  return embedding._replace(
    embed_signal=embed_signal, crop_signal=crop_signal, embed_code=embed_code, crop_code=crop_code
  )


def _ridge_inverse(conv: "ConvDictionary", sizes: Sequence[int], ridge: jax.Array) -> Partial:
  """Computes `CirculantEmbedding.ridge_inverse` of a circular convolution."""
  conv = in_precision(conv)
  blocks = inverse_blocks(conv, sizes, ridge)
  return pair_of(conv, blocks, ridge, on_codes=codes_are_smaller(conv.filters))


def _window(
  starts: Sequence[int], sizes: Sequence[int], larger: Sequence[int]
) -> tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
  """Returns the embedding of arrays [..., sizes, C] in zeros [..., larger, C], and its adjoint."""
  pads = [(a, total - n - a) for a, n, total in zip(starts, sizes, larger, strict=True)]
  window = tuple(slice(a, a + n) for a, n in zip(starts, sizes, strict=True))

  def embed(array: jax.Array) -> jax.Array:
    batch = [(0, 0)] * (array.ndim - len(pads) - 1)
    return jnp.pad(array, [*batch, *pads, (0, 0)])

  return embed, lambda array: array[(..., *window, slice(None))]
