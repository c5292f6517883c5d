"""A dictionary of one channel on signals of several channels, each coded on its own."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from cscjax import checks
from cscjax.dictionaries._abstract import AbstractDictionary, with_methods
from cscjax.dictionaries._atoms import Representatives
from cscjax.dictionaries._embedding import CirculantEmbedding
from cscjax.dictionaries._protocol import Code, Dictionary, check_part
from cscjax.ops import expand_rank


class ChannelwiseDictionary(AbstractDictionary):
  """A dictionary D of single-channel signals, applied to each channel of a signal on its own.

  For example, a grey dictionary on colour images. The matrix is block diagonal: each channel has a block
  D. A code has the channels before the atoms, [..., H, W, C, m], so that a penalty `beta` of shape [m]
  holds for all channels.

  Attributes:
    dictionary: The dictionary D of signals [H, W, 1] or [L, 1], whose codes (or the parts of them) have
      as many axes: a convolution, or a composition of convolutions.

  Raises:
    ValueError: On construction, if `dictionary` is an array. On use, if its signals are vectors.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> grey = cscjax.ConvDictionary(jnp.ones((8, 8, 1, 32)) / 8)
    >>> colour = cscjax.ChannelwiseDictionary(grey)
    >>> code = colour.analysis(jnp.ones((5, 16, 16, 3)))
    >>> code.shape, colour.synthesis(code).shape
    ((5, 16, 16, 3, 32), (5, 16, 16, 3))
  """

  dictionary: Dictionary

  def __post_init__(self) -> None:
    check_part("dictionary", self.dictionary)

  @property
  def signal_ndim(self) -> int:
    """Number of axes of a signal: 3 for [H, W, C], 2 for [L, C].

    Raises:
      ValueError: If the signals of D are vectors, which have no channels.
    """
    if self.dictionary.signal_ndim < 2:
      checks.fail("dictionary", type(self.dictionary).__name__, "one of signals [H, W, 1] or [L, 1]")
    return self.dictionary.signal_ndim

  def analysis(self, x: jax.Array) -> Code:
    """Computes D^T x of each channel.

    Args:
      x: Signal of shape [..., H, W, C] or [..., L, C].

    Returns:
      The code of shape [..., H', W', C, m] or [..., L', C, m].
    """
    return self._channels_last(self.dictionary.analysis(self._apart(x)))

  def synthesis(self, code: Code, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Computes D code of each channel.

    Args:
      code: Code of shape [..., H', W', C, m] or [..., L', C, m].
      signal_shape: Shape of the signal, if D needs it. Batch axes are ignored.

    Returns:
      The signal of shape [..., H, W, C] or [..., L, C].
    """
    single = None if signal_shape is None else self._single(signal_shape)
    return self._together(self.dictionary.synthesis(self._channels_first(code), single))

  def compute_lipschitz(
    self, shape: tuple[int, ...], tolerance: float | None, key: jax.Array | None
  ) -> jax.Array:
    return with_methods(self.dictionary).compute_lipschitz(self._single(shape), tolerance, key)

  def compute_lipschitz_bound(self, shape: tuple[int, ...]) -> jax.Array:
    return with_methods(self.dictionary).compute_lipschitz_bound(self._single(shape))

  def compute_atom_norms(self, shape: tuple[int, ...]) -> Code:
    norms = with_methods(self.dictionary).compute_atom_norms(self._single(shape))
    repeated = jax.tree.map(lambda part: jnp.broadcast_to(part, (shape[-1], *part.shape)), norms)
    return self._channels_last(repeated)

  def representative_atoms(self, signal_shape: tuple[int, ...] | None) -> Representatives:
    single = None if signal_shape is None else self._single(signal_shape)
    return with_methods(self.dictionary).representative_atoms(single)

  def compute_coherence(self, shape: tuple[int, ...] | None) -> jax.Array:
    # Atoms of different channels are orthogonal.
    single = None if shape is None else self._single(shape)
    return with_methods(self.dictionary).compute_coherence(single)

  def circulant_embedding(
    self, signal_shape: Sequence[int], margins: Sequence[tuple[int, int]] | None = None
  ) -> CirculantEmbedding:
    inner = with_methods(self.dictionary).circulant_embedding(self._single(signal_shape), margins)
    channels = signal_shape[-1]

    def ridge_inverse(ridge: jax.Array) -> Partial:
      return Partial(_channelwise, self, inner.ridge_inverse(ridge))

    def each(function: Callable[[Code], Code]) -> Callable[[Code], Code]:
      return lambda code: self._channels_last(function(self._channels_first(code)))

    def frame() -> jax.Array:
      blocks = inner.frame_blocks()  # [..., 1, 1]
      return blocks * expand_rank(jnp.eye(channels, dtype=blocks.dtype), blocks.ndim)

    return inner._replace(
      dictionary=self.replace(dictionary=inner.dictionary),
      signal_shape=(*inner.signal_shape[:-1], channels),
      ridge_inverse=ridge_inverse,
      embed_signal=lambda x: self._together(inner.embed_signal(self._apart(x))),
      crop_signal=lambda x: self._together(inner.crop_signal(self._apart(x))),
      embed_code=each(inner.embed_code),
      crop_code=each(inner.crop_code),
      frame=frame,
    )

  def stripe_sums(self, values: Code, signal_shape: Sequence[int]) -> jax.Array:
    inner = with_methods(self.dictionary)
    sums = inner.stripe_sums(self._channels_first(values), self._single(signal_shape))
    return jax.lax.collapse(sums, sums.ndim - 2)

  def patch_sums(self, values: jax.Array) -> jax.Array:
    sums = with_methods(self.dictionary).patch_sums(self._apart(values))
    return jax.lax.collapse(sums, sums.ndim - 2)

  def _single(self, shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of one channel of a signal, without batch axes."""
    return (*tuple(shape)[-self.signal_ndim : -1], 1)

  def _apart(self, x: jax.Array) -> jax.Array:
    """Makes the channels of a signal a batch axis: [..., C, H, W, 1]."""
    return jnp.moveaxis(x, -1, -self.signal_ndim)[..., None]

  def _together(self, x: jax.Array) -> jax.Array:
    """Reverses `_apart`."""
    return jnp.moveaxis(x[..., 0], -self.signal_ndim, -1)

  def _channels_last(self, code: Code) -> Code:
    """Moves the channels of a code from a batch axis to the axis before the atoms."""
    return jax.tree.map(lambda part: jnp.moveaxis(part, -self.signal_ndim - 1, -2), code)

  def _channels_first(self, code: Code) -> Code:
    """Reverses `_channels_last`."""
    return jax.tree.map(lambda part: jnp.moveaxis(part, -2, -self.signal_ndim - 1), code)


def _channelwise(
  dictionary: ChannelwiseDictionary, inverse: Partial, x: jax.Array
) -> tuple[jax.Array, Code]:
  """Applies the ridge inverse of one channel to each channel."""
  signal, code = inverse(dictionary._apart(x))
  return dictionary._together(signal), dictionary._channels_last(code)
