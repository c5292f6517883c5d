"""The dictionary of MSD-CSC: the identity and a convolutional dictionary, side by side."""

from collections.abc import Sequence

import jax
from flax import struct

from cscjax import checks
from cscjax.dictionaries._conv import ConvDictionary


class IdentityAugmented(struct.PyTreeNode):
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

  def _parts(self, code: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns the code, or raises ValueError if it is not a pair."""
    if not isinstance(code, tuple) or len(code) != 2:
      checks.fail("code", type(code).__name__, "a pair (a, z)")
    return code


def _check_kept(kept: jax.Array, reconstruction: jax.Array) -> None:
  """Raises ValueError if the part `a` of a code does not have the shape of the signal."""
  if kept.shape != reconstruction.shape:
    checks.fail("code", f"a of shape {kept.shape}", f"a of the signal's shape {reconstruction.shape}")
