"""Dense dictionaries, given by a matrix."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks, ops
from cscjax.dictionaries._abstract import AbstractDictionary
from cscjax.dictionaries._atoms import Entries, Representatives
from cscjax.dictionaries._embedding import CirculantEmbedding, dense_embedding
from cscjax.dictionaries._lipschitz_constant import largest_gram_eigenvalue
from cscjax.dictionaries._protocol import floating_type
from cscjax.ops import common_float


class MatrixDictionary(AbstractDictionary):
  """A dense dictionary D, given by its matrix.

  Attributes:
    atoms: The matrix of shape [n, m]; its columns are the atoms. A list of lists is converted.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 2.0]]))
    >>> dictionary.synthesis(jnp.array([1.0, 0.0, 3.0])).tolist()
    [7.0, 6.0]
  """

  atoms: jax.Array

  def __post_init__(self) -> None:
    object.__setattr__(self, "atoms", checks.list_as_array("atoms", self.atoms))

  @property
  def signal_ndim(self) -> int:
    """Number of axes of a signal, 1: it is a vector [n]."""
    return 1

  def analysis(self, x: jax.Array) -> jax.Array:
    """Computes D^T x.

    Args:
      x: Signal of shape [..., n].

    Returns:
      The code of shape [..., m].

    Raises:
      ValueError: If `x` is not an array of real numbers of this shape, or if `atoms` is not a nonempty
        matrix of real numbers.
    """
    self._check("x", x, axis=0)
    return _product(x, self.atoms, axis=0)

  def synthesis(self, code: jax.Array, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Computes D code.

    Args:
      code: Code of shape [..., m].
      signal_shape: Not used; the atoms determine the size of the signal.

    Returns:
      The signal of shape [..., n].

    Raises:
      ValueError: If `code` is not an array of real numbers of this shape, or if `atoms` is not a
        nonempty matrix of real numbers.
    """
    del signal_shape
    self._check("code", code, axis=1)
    return _product(code, self.atoms, axis=1)

  def compute_lipschitz(
    self, shape: tuple[int, ...], tolerance: float | None, key: jax.Array | None
  ) -> jax.Array:
    if tolerance is None:
      return largest_gram_eigenvalue(self.atoms)
    return super().compute_lipschitz(shape, tolerance, key)

  def compute_atom_norms(self, shape: tuple[int, ...]) -> jax.Array:
    return ops.norm(jnp.asarray(self.atoms, floating_type(self, shape)), axis=0)

  def compute_coherence(self, shape: tuple[int, ...] | None) -> jax.Array:
    return super().compute_coherence(self.atoms.shape[:1])

  def circulant_embedding(
    self, signal_shape: Sequence[int], margins: Sequence[tuple[int, int]] | None = None
  ) -> CirculantEmbedding:
    if margins:
      checks.fail("margins", margins, "none, because signals have no spatial axes")
    return dense_embedding(self, tuple(signal_shape))

  def atom(self, index: ArrayLike, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Returns one atom, a column of the matrix.

    Args:
      index: The number of the atom, an integer, which may be traced.
      signal_shape: Not needed, because a column has the shape of a signal.

    Returns:
      An array of shape [n].
    """
    return self.atoms[:, index]

  def atom_entries(self, indices: np.ndarray, signal_shape: Sequence[int]) -> Entries:
    atoms = np.asarray(self.atoms, np.float64)[:, indices]
    rows, columns = np.indices(atoms.shape).reshape(2, -1)
    return atoms.ravel(), rows, columns

  def representative_atoms(self, signal_shape: tuple[int, ...] | None) -> Representatives:
    return super().representative_atoms(self.atoms.shape[:1])

  def _check(self, name: str, array: jax.Array, axis: int) -> None:
    """Raises ValueError if the last axis of `array` differs from the given axis of the atoms."""
    checks.all_real("atoms", self.atoms)
    checks.all_real(name, array)
    if self.atoms.ndim != 2 or not self.atoms.size:
      checks.fail("atoms", tuple(self.atoms.shape), "a matrix [n, m] without an empty axis")
    if array.ndim < 1 or array.shape[-1] != self.atoms.shape[axis]:
      checks.fail(name, tuple(array.shape), f"[..., {self.atoms.shape[axis]}]")


def _product(rows: jax.Array, matrix: jax.Array, axis: int) -> jax.Array:
  """Sums over the last axis of `rows` and an axis of `matrix`, in their common floating-point type."""
  dtype = common_float(rows, matrix)
  # A product with the transpose would first copy it: 20 times slower for one signal on a CPU.
  return jnp.tensordot(jnp.asarray(rows, dtype), jnp.asarray(matrix, dtype), axes=(-1, axis))
