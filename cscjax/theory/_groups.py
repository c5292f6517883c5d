"""Groups of coefficients that are zero jointly, and bounds on the spectral norms of their atoms."""

import functools
import math
from collections.abc import Callable

import numpy as np
import scipy.sparse

from cscjax.theory._restricted import DENSE, SparseMatrix

CHUNK = 2**16  # number of atoms that are computed together


class Groups:
  """A partition of the coefficients of a flattened code.

  Attributes:
    of: The group of each coefficient: [p], numbers from 0.
    sizes: The number of coefficients of each group.
  """

  def __init__(self, of: np.ndarray) -> None:
    self.of = of
    self.sizes = np.bincount(of)

  def sums(self, values: np.ndarray) -> np.ndarray:
    """Returns the sum of the values of each group."""
    return np.bincount(self.of, values)

  def norms(self, values: np.ndarray) -> np.ndarray:
    """Returns the Euclidean norm of the values of each group."""
    unit = np.max(np.abs(values), initial=0) or 1.0  # squares in this unit do not underflow
    return unit * np.sqrt(self.sums((values / unit) ** 2))

  def largest(self, values: np.ndarray) -> np.ndarray:
    """Returns the largest of the values of each group."""
    largest = np.full(len(self.sizes), -np.inf)
    np.maximum.at(largest, self.of, values)
    return largest

  @functools.cached_property
  def members(self) -> list[np.ndarray]:
    """The coefficients of the groups, an array [groups, size] for each size."""
    order = np.argsort(self.of, kind="stable")
    starts = np.cumsum(self.sizes) - self.sizes
    sizes = np.unique(self.sizes)
    return [order[starts[self.sizes == k, None] + np.arange(k)] for k in sizes]

  def spectral_norms(self, atoms: Callable[[np.ndarray], SparseMatrix], norms: np.ndarray) -> np.ndarray:
    """Returns upper bounds on the spectral norms of the atoms of each group.

    They are exact up to rounding for groups of at most `DENSE` atoms.

    Args:
      atoms: Returns atoms, given by their places, as the columns of a matrix.
      norms: The norms of all atoms.
    """
    found = np.empty(len(self.sizes))
    for members in self.members:
      size = members.shape[1]
      if size == 1:
        values = norms[members[:, 0]]
      elif size <= DENSE:
        count = max(CHUNK // size, 1)
        chunks = [members[k : k + count] for k in range(0, len(members), count)]
        values = np.concatenate([_block_norms(atoms(chunk.ravel()), size) for chunk in chunks])
      else:
        values = np.array([norm_bound(atoms, group) for group in members])
      found[self.of[members[:, 0]]] = values
    return found


def norm_bound(atoms: Callable[[np.ndarray], SparseMatrix], indices: np.ndarray) -> float:
  """Bounds the spectral norm of many atoms without their Gram matrix.

  The square is at most the sum of all squares, and at most the largest sum of magnitudes in a row times
  the largest in a column (Schur's test).

  Args:
    atoms: Returns atoms, given by their places, as the columns of a matrix.
    indices: The places of the atoms.
  """
  rows, column, squares = np.zeros(1), 0.0, 0.0
  for k in range(0, len(indices), CHUNK):
    magnitudes = abs(atoms(indices[k : k + CHUNK]))
    rows = rows + magnitudes.sum(axis=1)
    column = max(column, float(np.max(magnitudes.sum(axis=0), initial=0)))
    squares += float(np.sum(magnitudes.data**2))
  square = min(squares, float(np.max(rows, initial=0)) * column)
  return math.sqrt(square * (1 + np.finfo(np.float64).eps * (len(indices) + len(rows))))


def _block_norms(columns: SparseMatrix, size: int) -> np.ndarray:
  """Returns the spectral norm of each block of `size` consecutive columns of a matrix."""
  entries, count = columns.tocoo(), columns.shape[1] // size
  # Rows of their own for each block make its Gram matrix a diagonal block of the product.
  places = entries.col // size * columns.shape[0] + entries.row
  rows, inverse = np.unique(places.astype(np.int64), return_inverse=True)
  shape = (len(rows), columns.shape[1])
  apart = scipy.sparse.coo_array((entries.data, (inverse, entries.col)), shape=shape).tocsr()
  product = (apart.T @ apart).tocoo()
  grams = np.zeros((count, size, size))
  grams[product.row // size, product.row % size, product.col % size] = product.data
  largest = np.linalg.eigvalsh(grams)[:, -1]
  traces = np.trace(grams, axis1=1, axis2=2)
  return np.sqrt(largest + np.finfo(np.float64).eps * (size + columns.shape[0]) * traces)
