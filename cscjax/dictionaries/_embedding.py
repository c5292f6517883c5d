"""A dictionary as part of a circular one, and (ridge I + D D^T)^-1 there: what ADMM needs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cscjax import checks
from cscjax.dictionaries._base import Code, Dictionary
from cscjax.dictionaries._circulant import codes_are_smaller, inverse_blocks
from cscjax.dictionaries._conv import ConvDictionary
from cscjax.dictionaries._identity import IdentityAugmented
from cscjax.dictionaries._matrix import MatrixDictionary
from cscjax.ops import at_least_float32, common_float


class CirculantEmbedding(NamedTuple):
  """A dictionary as part of a circular one, whose D D^T the Fourier transform diagonalises.

  D code = crop_signal(dictionary.synthesis(embed_code(code))). A circular or a dense dictionary is its
  own embedding.

  Attributes:
    dictionary: The circular one.
    signal_shape: Of one of its signals.
    embed_signal: Signal -> signal of the circular dictionary, zeros around it.
    crop_signal: The adjoint.
    embed_code: Code -> code of the circular dictionary, zeros around it.
    crop_code: The adjoint.
  """

  dictionary: Dictionary
  signal_shape: tuple[int, ...]
  embed_signal: Callable[[jax.Array], jax.Array]
  crop_signal: Callable[[jax.Array], jax.Array]
  embed_code: Callable[[Code], Code]
  crop_code: Callable[[Code], Code]

  def ridge_inverse(self, ridge: jax.Array) -> Callable[[jax.Array], tuple[jax.Array, Code]]:
    """The maps (ridge I + D D^T)^-1 and D^T (ridge I + D D^T)^-1 of the circular or dense dictionary D.

    What is inverted is the smaller of D D^T and D^T D, for D^T (ridge I + D D^T)^-1 equals
    (ridge I + D^T D)^-1 D^T: for many channels and few atoms (sensors) the larger would take far more
    memory than the signal.

    Args:
      ridge: > 0, a scalar.

    Returns:
      Signals [batch..., *signal_shape] -> (the same, codes [batch..., ...]), computed in float32 at
      least.
    """
    return _ridge_inverse(self.dictionary, self.signal_shape, ridge)


def circulant_embedding(dictionary: Dictionary, signal_shape: Sequence[int]) -> CirculantEmbedding:
  """The embedding of a dense dictionary, of a convolution of stride 1, or of the identity beside one.

  Args:
    dictionary: D.
    signal_shape: Shape of one signal without batch.

  Raises:
    ValueError: For any other dictionary.
  """
  shape = tuple(signal_shape)
  augmented = isinstance(dictionary, IdentityAugmented)
  conv = dictionary.conv if augmented else dictionary
  is_conv = isinstance(conv, ConvDictionary) and all(s == 1 for s in jax.tree.leaves(conv.stride))
  if not is_conv and not isinstance(conv, MatrixDictionary):
    checks.fail("dictionary", type(conv).__name__, "a dense one or a convolution of stride 1")
  if not isinstance(conv, ConvDictionary) or conv.padding == "CIRCULAR":
    return CirculantEmbedding(dictionary, shape, *[lambda array: array] * 4)
  spatial, lows, larger, reach = _margins(conv, shape)
  code_spatial = jax.eval_shape(conv.analysis, jax.ShapeDtypeStruct(shape, conv.filters.dtype)).shape[
    :-1
  ]
  embed_signal, crop_signal = _window(lows, spatial, larger)
  embed_code, crop_code = _window(reach, code_spatial, larger)
  wrapped: Dictionary = conv.replace(padding="CIRCULAR")
  if augmented:
    wrapped = dictionary.replace(conv=wrapped)
    embed_code, crop_code = (
      lambda code, kept=kept, new=new: (kept(code[0]), new(code[1]))
      for kept, new in ((embed_signal, embed_code), (crop_signal, crop_code))
    )
  return CirculantEmbedding(
    wrapped, (*larger, shape[-1]), embed_signal, crop_signal, embed_code, crop_code
  )


def _ridge_inverse(dictionary, shape, ridge):
  precise = at_least_float32(common_float(*jax.tree.leaves(dictionary)))
  dictionary = jax.tree.map(lambda leaf: leaf.astype(precise), dictionary)
  if isinstance(dictionary, IdentityAugmented):  # D D^T = I + F^T F
    conv_inverse = _ridge_inverse(dictionary.conv, shape, ridge + 1)

    def augmented(x):
      signal, new = conv_inverse(x)
      return signal, (signal, new)

    return augmented
  if isinstance(dictionary, MatrixDictionary):
    on_codes, apply = _dense_inverse(dictionary, ridge)
  else:
    on_codes, apply = _circular_inverse(dictionary, shape, ridge)

  def inverse(x):
    signal = x.astype(precise)
    if on_codes:
      code = apply(dictionary.analysis(signal))
      signal = (signal - dictionary.synthesis(code, signal.shape)) / ridge
    else:
      signal = apply(signal)
      code = dictionary.analysis(signal)
    return signal.astype(x.dtype), code.astype(x.dtype)

  return inverse


def _dense_inverse(dictionary, ridge):
  """(acts on codes or not, the inverse of ridge I + D^T D on codes or ridge I + D D^T on signals)."""
  atoms = dictionary.atoms
  on_codes = atoms.shape[1] < atoms.shape[0]
  wide = atoms.T if on_codes else atoms
  gram = wide @ wide.T
  inverse = jnp.linalg.inv(gram + ridge * jnp.eye(len(gram), dtype=gram.dtype))
  return on_codes, lambda array: array @ inverse


def _circular_inverse(conv, shape, ridge):
  sizes = shape[:-1]
  blocks = inverse_blocks(conv, sizes, ridge)
  axes = tuple(range(-len(shape), -1))

  def apply(array):
    spectrum = jnp.fft.rfftn(array, axes=axes)
    product = jnp.einsum("...c,...cd->...d", spectrum, blocks)
    return jnp.fft.irfftn(product, s=sizes, axes=axes)

  return codes_are_smaller(conv), apply


def _margins(conv, shape):
  """Along each axis: signal size, where it begins in the circular one, size of that, where codes begin.

  The taps of an atom reach from -low to size + high, so that around a circle of size + low + high they
  never wrap; a circular atom begins as many samples before its position as a circular signal is padded.
  """
  spatial = shape[:-1]
  margins = [axis.pads(n) for axis, n in zip(conv.axes, spatial, strict=True)]
  starts = [
    axis._replace(padding="CIRCULAR").pads(n)[0] for axis, n in zip(conv.axes, spatial, strict=True)
  ]
  larger = [n + low + high for n, (low, high) in zip(spatial, margins, strict=True)]
  return spatial, [low for low, _ in margins], larger, starts


def _window(starts, sizes, larger):
  """Embedding of [..., sizes, C] into zeros [..., larger, C], and its adjoint."""
  pads = [(a, total - n - a) for a, n, total in zip(starts, sizes, larger, strict=True)]
  window = tuple(slice(a, a + n) for a, n in zip(starts, sizes, strict=True))

  def embed(array):
    batch = [(0, 0)] * (array.ndim - len(pads) - 1)
    return jnp.pad(array, [*batch, *pads, (0, 0)])

  return embed, lambda array: array[(..., *window, slice(None))]
