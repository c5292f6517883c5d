"""Embedding of a dictionary in a circular one, and the linear solves of ADMM there."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from cscjax import checks
from cscjax.dictionaries._base import Code, Dictionary
from cscjax.dictionaries._circulant import codes_are_smaller, inverse_blocks
from cscjax.dictionaries._conv import ConvDictionary
from cscjax.dictionaries._identity import IdentityAugmented
from cscjax.dictionaries._matrix import MatrixDictionary
from cscjax.ops import at_least_float32, common_float


class CirculantEmbedding(NamedTuple):
  """The embedding of a dictionary D in a circular dictionary on larger signals.

  It satisfies `D code = crop_signal(dictionary.synthesis(embed_code(code)))`. The Fourier transform
  block-diagonalizes the circular dictionary. A circular or dense dictionary is its own embedding.

  Attributes:
    dictionary: The circular dictionary, or the dense one.
    signal_shape: Shape of a signal of the circular dictionary, without batch axes.
    embed_signal: Pads a signal with zeros to one of the circular dictionary.
    crop_signal: The adjoint of `embed_signal`, which crops a signal.
    embed_code: Pads a code with zeros to one of the circular dictionary.
    crop_code: The adjoint of `embed_code`, which crops a code.
  """

  dictionary: Dictionary
  signal_shape: tuple[int, ...]
  embed_signal: Callable[[jax.Array], jax.Array]
  crop_signal: Callable[[jax.Array], jax.Array]
  embed_code: Callable[[Code], Code]
  crop_code: Callable[[Code], Code]

  def ridge_inverse(self, ridge: jax.Array) -> Partial:
    """Returns a function that computes (ridge I + D D^T)^-1 x and D^T (ridge I + D D^T)^-1 x.

    Here D is the circular or dense dictionary. The smaller one of D D^T and D^T D is inverted, using
    D^T (ridge I + D D^T)^-1 = (ridge I + D^T D)^-1 D^T. With many channels and few atoms, as for arrays
    of sensors, the larger one would take far more memory than the signal.

    Args:
      ridge: A positive scalar.

    Returns:
      A function that maps signals of shape [..., *signal_shape] to a pair: signals of the same shape,
      and codes. It computes in at least float32 and returns the type of its argument. It is a pytree,
      which contains the inverse, so that it can be part of a solver's state.
    """
    return _ridge_inverse(self.dictionary, self.signal_shape, ridge)


def circulant_embedding(dictionary: Dictionary, signal_shape: Sequence[int]) -> CirculantEmbedding:
  """Embeds a dictionary in a circular one, which the Fourier transform block-diagonalizes.

  Args:
    dictionary: A `MatrixDictionary`, a `ConvDictionary` of stride 1, or an `IdentityAugmented`.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).

  Returns:
    The embedding, which is trivial for dense and circular dictionaries.

  Raises:
    ValueError: If `dictionary` is none of these.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.ConvDictionary(jnp.arange(1.0, 4.0).reshape(3, 1, 1))
    >>> embedding = cscjax.dictionaries.circulant_embedding(dictionary, (8, 1))
    >>> code = jnp.arange(8.0)[:, None]
    >>> circular_signal = embedding.dictionary.synthesis(embedding.embed_code(code))
    >>> circular_signal.shape
    (10, 1)
    >>> bool(jnp.allclose(embedding.crop_signal(circular_signal), dictionary.synthesis(code)))
    True
  """
  shape = tuple(signal_shape)
  augmented = isinstance(dictionary, IdentityAugmented)
  conv = dictionary.conv if augmented else dictionary
  is_conv = isinstance(conv, ConvDictionary) and all(s == 1 for s in jax.tree.leaves(conv.stride))
  if not is_conv and not isinstance(conv, MatrixDictionary):
    checks.fail("dictionary", type(conv).__name__, "a dense dictionary or a convolution of stride 1")
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


def _ridge_inverse(dictionary: Any, shape: tuple[int, ...], ridge: jax.Array) -> Partial:
  """Computes `CirculantEmbedding.ridge_inverse`."""
  precise = at_least_float32(common_float(*jax.tree.leaves(dictionary)))
  dictionary = jax.tree.map(lambda leaf: leaf.astype(precise), dictionary)
  if isinstance(dictionary, IdentityAugmented):  # D D^T = I + F^T F
    return Partial(_apply_augmented, _ridge_inverse(dictionary.conv, shape, ridge + 1))
  if isinstance(dictionary, MatrixDictionary):
    blocks = _dense_inverse(dictionary, ridge)
  else:
    blocks = inverse_blocks(dictionary, shape[:-1], ridge)
  return Partial(_apply_inverse, dictionary, blocks, ridge)


def _apply_augmented(conv_inverse: Partial, x: jax.Array) -> tuple[jax.Array, Code]:
  signal, new = conv_inverse(x)
  return signal, (signal, new)


def _apply_inverse(
  dictionary: Any, blocks: jax.Array, ridge: jax.Array, x: jax.Array
) -> tuple[jax.Array, Code]:
  """Applies (ridge I + D D^T)^-1, or (ridge I + D^T D)^-1 if the codes are smaller, given by blocks."""
  if isinstance(dictionary, MatrixDictionary):
    on_codes, apply = _has_few_atoms(dictionary), lambda array: array @ blocks
  else:
    on_codes, apply = codes_are_smaller(dictionary.filters), partial(_apply_in_frequency, blocks)
  signal = x.astype(common_float(*jax.tree.leaves(dictionary)))
  if on_codes:
    code = apply(dictionary.analysis(signal))
    signal = (signal - dictionary.synthesis(code, signal.shape)) / ridge
  else:
    signal = apply(signal)
    code = dictionary.analysis(signal)
  return signal.astype(x.dtype), code.astype(x.dtype)


def _has_few_atoms(dictionary: MatrixDictionary) -> bool:
  return dictionary.atoms.shape[1] < dictionary.atoms.shape[0]


def _dense_inverse(dictionary: MatrixDictionary, ridge: jax.Array) -> jax.Array:
  """Returns the inverse of ridge I + D^T D if there are few atoms, else of ridge I + D D^T."""
  atoms = dictionary.atoms
  wide = atoms.T if _has_few_atoms(dictionary) else atoms
  gram = wide @ wide.T
  return jnp.linalg.inv(gram + ridge * jnp.eye(len(gram), dtype=gram.dtype))


def _apply_in_frequency(blocks: jax.Array, array: jax.Array) -> jax.Array:
  """Multiplies the channels of an array [..., spatial, C] by a block [C, C] for each frequency."""
  axes = tuple(range(-blocks.ndim + 1, -1))
  sizes = [array.shape[axis] for axis in axes]
  spectrum = jnp.fft.rfftn(array, axes=axes)
  product = jnp.einsum("...c,...cd->...d", spectrum, blocks)
  return jnp.fft.irfftn(product, s=sizes, axes=axes)


def _margins(
  conv: ConvDictionary, shape: tuple[int, ...]
) -> tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]:
  """Returns sizes and positions along each spatial axis.

  All taps of all atoms lie in a range of size + low + high samples, so they do not wrap around a circle
  of this size. A circular atom starts before its position by the lower padding of a circular signal.

  Returns:
    The size of the signal, its start in the circular signal, the size of the circular signal, and the
    start of the code in the circular code.
  """
  spatial = shape[:-1]
  margins = [axis.pads(n) for axis, n in zip(conv.axes, spatial, strict=True)]
  starts = [
    axis._replace(padding="CIRCULAR").pads(n)[0] for axis, n in zip(conv.axes, spatial, strict=True)
  ]
  larger = [n + low + high for n, (low, high) in zip(spatial, margins, strict=True)]
  return spatial, [low for low, _ in margins], larger, starts


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
