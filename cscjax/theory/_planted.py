"""Inner products of the atoms of unit norm, and what they say about the support of a planted code.

Everything is NumPy in float64, and codes are flattened, with their parts concatenated.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse

from cscjax.dictionaries import Dictionary, atom_norms, with_methods
from cscjax.ops import highest_precision
from cscjax.theory._float64 import flatten, flatten_batch, float64_on_host
from cscjax.theory._restricted import SparseMatrix, atom_columns

BLOCK = 2**22  # largest number of cosines that are dense at a time
ROUNDING = 100  # rounding errors that a solution of a linear system may have, times its condition number


@dataclasses.dataclass(frozen=True)
class UnitAtoms:
  """The atoms of a dictionary for one size of signal, divided by their norms.

  Attributes:
    dictionary: The dictionary, in float64.
    shape: The shape of one signal.
    norms: The norms of the atoms [p]. Atoms that are zero stay zero.
  """

  dictionary: Dictionary
  shape: tuple[int, ...]
  norms: np.ndarray

  @classmethod
  def of(cls, dictionary: Dictionary, shape: tuple[int, ...]) -> Self:
    """Computes the norms."""
    with float64_on_host():
      return cls(dictionary, shape, flatten(atom_norms(dictionary, shape)))

  @highest_precision
  def cosines(self, indices: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields blocks of indices [b] and the inner products of these unit atoms with all: [b, p]."""
    inverse = np.divide(1, self.norms, out=np.zeros_like(self.norms), where=self.norms > 0)
    size = max(1, BLOCK // len(self.norms))
    for start in range(0, len(indices), size):
      chosen = indices[start : start + size]
      atoms = (atom_columns(self.dictionary, self.shape, chosen).toarray() * inverse[chosen]).T
      with float64_on_host():
        code = self.dictionary.analysis(jnp.asarray(atoms.reshape(len(chosen), *self.shape)))
        parts = jax.tree.leaves(code)
      yield chosen, flatten_batch(parts, parts, chosen.shape) * inverse


def babel(atoms: UnitAtoms, indices: np.ndarray, count: int) -> np.ndarray:
  """Computes mu_1(0), ..., mu_1(count), with the maximum over the atoms with these indices."""
  largest = np.zeros(count + 1)
  kept = min(count, len(atoms.norms) - 1)
  for chosen, block in atoms.cosines(indices):
    block = np.abs(block)
    block[np.arange(len(chosen)), chosen] = 0
    top = np.sort(np.partition(block, -kept)[:, block.shape[1] - kept :])[:, ::-1]
    sums = np.max(np.cumsum(top, axis=1), axis=0, initial=0)
    largest[1 : kept + 1] = np.maximum(largest[1 : kept + 1], sums)
    largest[kept + 1 :] = largest[kept]
  return largest


def representative_atoms(
  dictionary: Dictionary, shape: tuple[int, ...] | None
) -> tuple[UnitAtoms, np.ndarray]:
  """Returns unit atoms, few if possible, and the indices of those for the maximum in `babel`."""
  dictionary, shape, indices = with_methods(dictionary).representative_atoms(shape)
  return UnitAtoms.of(dictionary, shape), indices


@dataclasses.dataclass(frozen=True)
class PlantedSupport:
  """The geometry of the unit atoms in the support S of a code with given signs, and of the others.

  U is the dictionary of unit atoms, and G = U_S^T U_S. If the atoms in S are dependent, up to rounding,
  the smallest eigenvalue is 0 and all other numbers are inf.

  Attributes:
    exact: ||U_S^+ u_j||_1 for each atom outside S that is not zero: [q].
    dual: |u_j^T (U_S^+)^T sign| for the same atoms.
    distances: The distance of the same atoms from the span of those in S.
    smallest: The smallest eigenvalue of G.
    gains: The norms of the rows of U_S^+: [k].
    shrinkage: sign_i (G^{-1} sign)_i, by which a magnitude decreases per unit of beta: [k].
    rounding: What rounding may add to `exact` and `dual`.
  """

  exact: np.ndarray
  dual: np.ndarray
  distances: np.ndarray
  smallest: float
  gains: np.ndarray
  shrinkage: np.ndarray
  rounding: float

  @classmethod
  def of(cls, atoms: UnitAtoms, support: np.ndarray, signs: np.ndarray) -> Self:
    """Computes the numbers from the inner products of the atoms in the support with all others."""
    count, others = len(support), atoms.norms > 0
    others[support] = False
    outside = int(np.count_nonzero(others))
    if not count:
      zeros, empty = np.zeros(outside), np.zeros(0)
      return cls(zeros, zeros, np.ones(outside), math.inf, empty, empty, 0.0)
    cross: SparseMatrix = scipy.sparse.vstack(
      [scipy.sparse.csr_array(block) for _, block in atoms.cosines(support)], format="csc"
    )
    gram = cross[:, support].toarray()
    gram = (gram + gram.T) / 2
    values = np.linalg.eigvalsh(gram)
    unit = ROUNDING * float(np.finfo(np.float64).eps)
    if values[0] <= unit * values[-1]:
      infinite, inside = np.full(outside, np.inf), np.full(count, np.inf)
      return cls(infinite, infinite, infinite, 0.0, inside, inside, 0.0)
    factor = scipy.linalg.cho_factor(gram)
    inverse = scipy.linalg.cho_solve(factor, np.eye(count))
    cross = cross[:, np.flatnonzero(others)]
    exact, dual, squares = np.zeros(outside), np.zeros(outside), np.ones(outside)
    overlapping = np.flatnonzero(np.diff(cross.indptr))
    size = max(1, BLOCK // count)
    for start in range(0, len(overlapping), size):
      chosen = overlapping[start : start + size]
      columns = cross[:, chosen].toarray()
      weights = scipy.linalg.cho_solve(factor, columns)
      exact[chosen] = np.sum(np.abs(weights), axis=0)
      dual[chosen] = np.abs(signs @ weights)
      squares[chosen] = 1 - np.sum(columns * weights, axis=0)
    rounding = unit * float(values[-1] / values[0])
    distances = np.sqrt(np.maximum(squares, 0) + rounding)
    gains, shrinkage = np.sqrt(np.diag(inverse)), signs * (inverse @ signs)
    return cls(exact, dual, distances, float(values[0]), gains, shrinkage, rounding)

  def largest(self, values: np.ndarray) -> float:
    """Returns the largest of `exact` or `dual`: 0 without others, inf if atoms in S are dependent."""
    return math.inf if self.smallest == 0 else float(np.max(values, initial=0))
