"""The dictionary of MSD-CSC: the identity and a convolutional dictionary, side by side."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from cscjax import checks
from cscjax.dictionaries._abstract import AbstractDictionary
from cscjax.dictionaries._atoms import Entries, Representatives
from cscjax.dictionaries._conv import ConvDictionary
from cscjax.dictionaries._conv_atoms import augmented_coherence, reduced_shape
from cscjax.dictionaries._embedding import CirculantEmbedding
from cscjax.dictionaries._protocol import Code
from cscjax.ops import expand_rank


class IdentityAugmented(AbstractDictionary):
  """The dictionary D = [I, F^T] of a dense connection (Proposition 1).

  A code is a pair (a, z) with D (a, z) = a + F^T z. The part `a` has the shape [..., H, W, C] of the
  signal, and `z` has the shape [..., H, W, m] for m filters. The code stays a pair, so solvers never
  concatenate it.

  Attributes:
    conv: The convolutional dictionary F^T, whose analysis is F. Its stride is 1, and its padding keeps
      the spatial size.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.IdentityAugmented(cscjax.ConvDictionary(jnp.ones((3, 3, 1, 8))))
    >>> a, z = dictionary.analysis(jnp.ones((32, 32, 1)))
    >>> a.shape, z.shape
    ((32, 32, 1), (32, 32, 8))
  """

  conv: ConvDictionary

  @property
  def signal_ndim(self) -> int:
    """Number of axes of a signal: 3 for [H, W, C], 2 for [L, C]."""
    return self.conv.signal_ndim

  def analysis(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes D^T x = (x, F x).

    Args:
      x: Signal of shape [..., H, W, C] or [..., L, C].

    Returns:
      The pair (a, z), where a is `x` and z has the shape [..., H, W, m] or [..., L, m].

    Raises:
      ValueError: If `conv` is not a `ConvDictionary` or changes the spatial size, or if `x` is not an
        array of real numbers of this shape.
    """
    if not isinstance(self.conv, ConvDictionary):
      checks.fail("conv", type(self.conv).__name__, "a ConvDictionary")
    new = self.conv.analysis(x)
    if new.shape[:-1] != x.shape[:-1]:
      checks.fail("conv", self.conv.geometry, "stride 1 and padding that keeps the spatial size")
    return x, new

  def synthesis(
    self, code: tuple[jax.Array, jax.Array], signal_shape: Sequence[int] | None = None
  ) -> jax.Array:
    """Computes D (a, z) = a + F^T z.

    Args:
      code: The pair (a, z); a has the shape of the signal, and z the shape [..., H, W, m] or [..., L,
        m].
      signal_shape: Shape of the signal. It can be omitted, because `a` has this shape.

    Returns:
      The signal, an array of the shape of a.

    Raises:
      ValueError: If `code` is not such a pair.
    """
    kept, new = self._parts(code)
    reconstruction = self.conv.synthesis(new, signal_shape)
    _check_kept(kept, reconstruction)
    return kept + reconstruction

  def residual(self, code: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """Computes D (a, z) - x as (a - x) + F^T z.

    In bfloat16 this order is more accurate than (a + F^T z) - x, because a is close to x. If `a` is the
    array `x` itself, as after layered thresholding, a - x is not computed.

    Args:
      code: The pair (a, z); a has the shape of the signal, and z the shape [..., H, W, m] or [..., L,
        m].
      x: Signal of shape [..., H, W, C] or [..., L, C].

    Returns:
      An array of the shape of `x`.

    Raises:
      ValueError: If `code` is not such a pair.
    """
    kept, new = self._parts(code)
    reconstruction = self.conv.synthesis(new, x.shape)
    _check_kept(kept, reconstruction)
    return reconstruction if kept is x else (kept - x) + reconstruction

  def compute_lipschitz(
    self, shape: tuple[int, ...], tolerance: float | None, key: jax.Array | None
  ) -> jax.Array:
    return 1 + self.conv.compute_lipschitz(shape, tolerance, key)  # Lemma 2

  def compute_lipschitz_bound(self, shape: tuple[int, ...]) -> jax.Array:
    bound = 1 + self.conv.compute_lipschitz_bound(shape)
    return bound * (1 + jnp.finfo(bound.dtype).eps)  # the sum may have been rounded down

  def compute_atom_norms(self, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    new = self.conv.compute_atom_norms(shape)
    return jnp.ones(shape, new.dtype), new

  def atom_entries(self, indices: np.ndarray, signal_shape: Sequence[int]) -> Entries:
    size = math.prod(signal_shape)
    kept, new = np.flatnonzero(indices < size), np.flatnonzero(indices >= size)
    values, rows, columns = self.conv.atom_entries(indices[new] - size, signal_shape)
    return (
      np.concatenate([np.ones(len(kept)), values]),
      np.concatenate([indices[kept], rows]),
      np.concatenate([kept, new[columns]]),
    )

  def representative_atoms(self, signal_shape: tuple[int, ...] | None) -> Representatives:
    shape = (
      signal_shape if signal_shape is None else reduced_shape(self.conv, signal_shape, overlapping=3)
    )
    return super().representative_atoms(shape)

  def compute_coherence(self, shape: tuple[int, ...] | None) -> jax.Array:
    return augmented_coherence(self.conv, shape)

  def circulant_embedding(
    self, signal_shape: Sequence[int], margins: Sequence[tuple[int, int]] | None = None
  ) -> CirculantEmbedding:
    conv = self.conv.circulant_embedding(signal_shape, margins)

    def ridge_inverse(ridge: jax.Array) -> Partial:
      return Partial(_augmented, conv.ridge_inverse(ridge + 1))  # D D^T = I + F^T F

    def frame() -> jax.Array:
      blocks = conv.frame_blocks()
      return blocks + expand_rank(jnp.eye(blocks.shape[-1], dtype=blocks.dtype), blocks.ndim)

    return conv._replace(
      dictionary=self.replace(conv=conv.dictionary),
      ridge_inverse=ridge_inverse,
      embed_code=lambda code: (conv.embed_signal(code[0]), conv.embed_code(code[1])),
      crop_code=lambda code: (conv.crop_signal(code[0]), conv.crop_code(code[1])),
      frame=frame,
    )

  def stripe_sums(self, values: tuple[jax.Array, jax.Array], signal_shape: Sequence[int]) -> jax.Array:
    # The stripe of an atom of the identity is contained in that of every atom of F that covers its site.
    kept, new = values
    return self.conv.stripe_sums(new, signal_shape) + self.conv.patch_sums(kept)

  def patch_sums(self, values: jax.Array) -> jax.Array:
    return self.conv.patch_sums(values)

  def _parts(self, code: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns the code, or raises ValueError if it is not a pair."""
    if not isinstance(code, tuple) or len(code) != 2:
      checks.fail("code", type(code).__name__, "a pair (a, z)")
    return code


def _check_kept(kept: jax.Array, reconstruction: jax.Array) -> None:
  """Raises ValueError if the part `a` of a code does not have the shape of the signal."""
  if kept.shape != reconstruction.shape:
    checks.fail("code", f"a of shape {kept.shape}", f"a of the signal's shape {reconstruction.shape}")


def _augmented(inverse: Partial, x: jax.Array) -> tuple[jax.Array, Code]:
  """Applies the ridge inverse of [I, F^T], given that of F^T."""
  signal, new = inverse(x)
  return signal, (signal, new)
