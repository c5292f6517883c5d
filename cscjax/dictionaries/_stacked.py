"""Several dictionaries of one signal space, side by side."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from cscjax import checks, ops
from cscjax.dictionaries._abstract import AbstractDictionary, with_methods
from cscjax.dictionaries._embedding import CirculantEmbedding, in_precision, pair_of
from cscjax.dictionaries._lipschitz_constant import is_small
from cscjax.dictionaries._protocol import Code, Dictionary, check_part
from cscjax.dictionaries._symbol import bound_of_blocks


class StackedDictionary(AbstractDictionary):
  """The dictionary D = [D_1, ..., D_k] that has the atoms of several dictionaries.

  For example, convolutions with several sizes of filters.

  A code is a tuple with one code for each dictionary, and D code = D_1 code_1 + ... + D_k code_k. `admm`
  works if it works for each part: with convolutions of stride 1 of any sizes and zero padding, with
  circular ones, or with dense dictionaries.

  Attributes:
    dictionaries: The dictionaries, a nonempty tuple; a list is converted.

  Raises:
    ValueError: On construction, if `dictionaries` is empty or not a tuple, or contains an array.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> small, large = jax.random.normal(jax.random.key(0), (2, 9, 1, 4))[:, :3], jnp.ones((9, 1, 2)) / 3
    >>> parts = [cscjax.ConvDictionary(small[0]), cscjax.ConvDictionary(large)]
    >>> stacked = cscjax.StackedDictionary(parts)
    >>> result = cscjax.admm(stacked, jnp.ones((32, 1)), beta=0.1, tolerance=1e-3)
    >>> [part.shape for part in result.code]
    [(32, 4), (32, 2)]
  """

  dictionaries: tuple[Dictionary, ...]

  def __post_init__(self) -> None:
    if isinstance(self.dictionaries, list):
      object.__setattr__(self, "dictionaries", tuple(self.dictionaries))
    if isinstance(self.dictionaries, tuple) and not self.dictionaries:
      checks.fail("dictionaries", self.dictionaries, "at least one dictionary")
    if isinstance(self.dictionaries, AbstractDictionary):
      checks.fail("dictionaries", self.dictionaries.name, "a tuple of dictionaries")
    for part in self.dictionaries if isinstance(self.dictionaries, tuple) else [self.dictionaries]:
      check_part("dictionaries", part)

  @property
  def signal_ndim(self) -> int:
    """Number of trailing axes that form one signal."""
    return self.dictionaries[0].signal_ndim

  def analysis(self, x: jax.Array) -> tuple[Code, ...]:
    """Computes (D_1^T x, ..., D_k^T x).

    Args:
      x: Signal, with any number of leading batch axes.

    Returns:
      The tuple of the codes of all dictionaries.
    """
    return tuple(dictionary.analysis(x) for dictionary in self.dictionaries)

  def synthesis(self, code: tuple[Code, ...], signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Computes D_1 code_1 + ... + D_k code_k.

    Args:
      code: Tuple with one code for each dictionary.
      signal_shape: Shape of the signal, if the code of the first dictionary does not determine it.

    Returns:
      The signal, with the batch axes of the code.

    Raises:
      ValueError: If `code` is not such a tuple.
    """
    if not isinstance(code, tuple) or len(code) != len(self.dictionaries):
      checks.fail("code", type(code).__name__, f"a tuple of {len(self.dictionaries)} codes")
    signals = []
    for dictionary, part in zip(self.dictionaries, code, strict=True):
      signals.append(dictionary.synthesis(part, signal_shape))
      signal_shape = signals[0].shape
    dtype = ops.common_float(*signals)
    return functools.reduce(jnp.add, [signal.astype(dtype) for signal in signals])

  def compute_lipschitz(
    self, shape: tuple[int, ...], tolerance: float | None, key: jax.Array | None
  ) -> jax.Array:
    if tolerance is not None or is_small(self, shape):
      return super().compute_lipschitz(shape, tolerance, key)
    try:
      return bound_of_blocks(self._frame(self._embeddings(shape, None)))
    except ValueError:  # a part has no embedding
      return _sum([part.compute_lipschitz(shape, tolerance, key) for part in self._parts])

  def compute_lipschitz_bound(self, shape: tuple[int, ...]) -> jax.Array:
    bound = _sum([part.compute_lipschitz_bound(shape) for part in self._parts])
    return bound * (1 + len(self.dictionaries) * jnp.finfo(bound.dtype).eps)

  def compute_atom_norms(self, shape: tuple[int, ...]) -> tuple[Code, ...]:
    return tuple(part.compute_atom_norms(shape) for part in self._parts)

  def circulant_embedding(
    self, signal_shape: Sequence[int], margins: Sequence[tuple[int, int]] | None = None
  ) -> CirculantEmbedding:
    embeddings = self._embeddings(signal_shape, margins)
    dictionary = self.replace(dictionaries=tuple(e.dictionary for e in embeddings))

    def ridge_inverse(ridge: jax.Array) -> Partial:
      blocks = self._frame(embeddings)
      eye = ops.expand_rank(jnp.eye(blocks.shape[-1], dtype=blocks.dtype), blocks.ndim)
      inverse = jnp.linalg.inv(blocks + jnp.asarray(ridge, blocks.dtype) * eye)
      return pair_of(in_precision(dictionary), inverse, ridge, on_codes=False)

    def each(name: str) -> Callable[[tuple[Code, ...]], tuple[Code, ...]]:
      return lambda code: tuple(getattr(e, name)(part) for e, part in zip(embeddings, code, strict=True))

    squared_norms = [jnp.asarray(e.squared_norm) for e in embeddings]
    return embeddings[0]._replace(
      dictionary=dictionary,
      ridge_inverse=ridge_inverse,
      squared_norm=_sum(squared_norms) / len(squared_norms),
      embed_code=each("embed_code"),
      crop_code=each("crop_code"),
      frame=lambda: self._frame(embeddings),
    )

  def patch_sums(self, values: jax.Array) -> jax.Array:
    return jnp.concatenate([part.patch_sums(values) for part in self._parts], axis=-1)

  @property
  def _parts(self) -> list[AbstractDictionary]:
    return [with_methods(dictionary) for dictionary in self.dictionaries]

  def _embeddings(self, signal_shape: Sequence[int], margins: Any) -> list[CirculantEmbedding]:
    """Returns embeddings of all parts with equal margins, so that their signals are the same."""
    found = [part.circulant_embedding(signal_shape, margins) for part in self._parts]
    if margins is None and any(e.margins != found[0].margins for e in found):
      axes = zip(*(e.margins for e in found), strict=True)
      margins = tuple((max(low for low, _ in axis), max(high for _, high in axis)) for axis in axes)
      found = [part.circulant_embedding(signal_shape, margins) for part in self._parts]
    if any(e.signal_shape != found[0].signal_shape for e in found):
      shapes = [e.signal_shape for e in found]
      checks.fail("dictionaries", shapes, "dictionaries with embeddings of one signal shape")
    return found

  def _frame(self, embeddings: Sequence[CirculantEmbedding]) -> jax.Array:
    """Returns the sum of the blocks of all parts."""
    return _sum([e.frame_blocks() for e in embeddings])


def _sum(values: Sequence[jax.Array]) -> jax.Array:
  """Adds arrays in their common type."""
  dtype = functools.reduce(jnp.promote_types, [value.dtype for value in values])
  return functools.reduce(jnp.add, [value.astype(dtype) for value in values])
