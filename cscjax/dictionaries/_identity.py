"""The dictionary of MSD-CSC: a convolutional one beside the identity."""

from collections.abc import Sequence

import jax
from flax import struct

from cscjax import checks
from cscjax.dictionaries._conv import ConvDictionary


class IdentityAugmented(struct.PyTreeNode):
  """D = [I, F^T]: the dense connection as a dictionary (Proposition 1).

  A code is a pair (a, z): `a` [..., H, W, C] codes the signal by itself, `z` [..., H, W, w] over the
  atoms of F. As a pair, not one array, it is never concatenated inside a solver.

  Attributes:
    conv: The dictionary F^T, whose analysis is F. Stride 1, and padding that keeps the size.
  """

  conv: ConvDictionary

  @property
  def signal_ndim(self) -> int:
    """That of F."""
    return self.conv.signal_ndim

  def analysis(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """D^T x = (x, F x). ValueError where F changes the spatial size."""
    if not isinstance(self.conv, ConvDictionary):
      checks.fail("conv", type(self.conv).__name__, "a ConvDictionary")
    new = self.conv.analysis(x)
    if new.shape[:-1] != x.shape[:-1]:
      checks.fail("conv", self.conv.geometry, "stride 1 and a padding that keeps the size")
    return x, new

  def synthesis(
    self, code: tuple[jax.Array, jax.Array], signal_shape: Sequence[int] | None = None
  ) -> jax.Array:
    """D (a, z) = a + F^T z."""
    kept, new = self._parts(code)
    reconstruction = self.conv.synthesis(new, signal_shape)
    _check_kept(kept, reconstruction)
    return kept + reconstruction

  def residual(self, code: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """(a - x) + F^T z, in this order: a is close to x, and in bfloat16 (a + F^T z) - x cancels.

    Where `a` is the array `x` itself, as after layered thresholding, it is F^T z at no further cost.
    """
    kept, new = self._parts(code)
    reconstruction = self.conv.synthesis(new, x.shape)
    _check_kept(kept, reconstruction)
    return reconstruction if kept is x else (kept - x) + reconstruction

  def _parts(self, code):
    if not isinstance(code, tuple) or len(code) != 2:
      checks.fail("code", type(code).__name__, "a pair (a, z)")
    return code


def _check_kept(kept, reconstruction):
  if kept.shape != reconstruction.shape:
    checks.fail("code", f"a of shape {kept.shape}", f"a of the signal's shape {reconstruction.shape}")
