"""Dense dictionaries: the simulations, and reference answers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from cscjax import checks
from cscjax.ops import common_float


class MatrixDictionary(struct.PyTreeNode):
  """A dense dictionary D.

  Attributes:
    atoms: [n, m], an atom a column. A list of lists is converted.
  """

  atoms: jax.Array

  def __post_init__(self):
    object.__setattr__(self, "atoms", checks.list_as_array("atoms", self.atoms))

  @property
  def signal_ndim(self) -> int:
    """A signal is a vector [n]."""
    return 1

  def analysis(self, x: jax.Array) -> jax.Array:
    """D^T x: [..., n] -> [..., m]. ValueError where the last axis is not n."""
    self._check("x", x, axis=0)
    return _product(x, self.atoms)

  def synthesis(self, code: jax.Array, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """D code: [..., m] -> [..., n]. ValueError where the last axis is not m."""
    del signal_shape  # the atoms tell it
    self._check("code", code, axis=1)
    return _product(code, self.atoms.T)

  def residual(self, code: jax.Array, x: jax.Array) -> jax.Array:
    """D code - x: [..., n]."""
    return self.synthesis(code) - x

  def _check(self, name, array, axis):
    checks.all_real("atoms", self.atoms)
    checks.all_real(name, array)
    if self.atoms.ndim != 2 or not self.atoms.size:
      checks.fail("atoms", tuple(self.atoms.shape), "a matrix [n, m], no axis empty")
    if array.ndim < 1 or array.shape[-1] != self.atoms.shape[axis]:
      checks.fail(name, tuple(array.shape), f"[..., {self.atoms.shape[axis]}]")


def _product(rows, matrix):
  """rows @ matrix in their common floating type."""
  dtype = common_float(rows, matrix)
  return jnp.matmul(jnp.asarray(rows, dtype), jnp.asarray(matrix, dtype))
