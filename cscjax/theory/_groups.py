"""Groups of coefficients that are zero jointly, the spectral norms and the kernels of their atoms."""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse

from cscjax.theory._restricted import DENSE, SparseMatrix, spectral_norm

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

  def spectra(
    self, atoms: Callable[[np.ndarray], SparseMatrix], norms: np.ndarray
  ) -> tuple[np.ndarray, SparseMatrix]:
    """Returns upper bounds on the spectral norms of the atoms of each group, and the kernels.

    The norms are exact up to rounding for groups of at most `DENSE` atoms. The kernels are the block
    diagonal matrix [p, p] of the projections onto those coefficients of each of these groups that its
    atoms map to zero.

    Args:
      atoms: Returns atoms, given by their places, as the columns of a matrix.
      norms: The norms of all atoms.
    """
    found, dependent = np.empty(len(self.sizes)), []
    for members in self.members:
      size = members.shape[1]
      if size == 1:
        values = norms[members[:, 0]]
      elif size <= DENSE:
        count = max(CHUNK // size, 1)
        chunks = [members[k : k + count] for k in range(0, len(members), count)]
        values, singular = map(
          np.concatenate,
          zip(*(_block_spectra(atoms(chunk.ravel()), size) for chunk in chunks), strict=True),
        )
        dependent.extend(members[singular])
      else:
        values = np.array([norm_bound(atoms, group) for group in members])
      found[self.of[members[:, 0]]] = values
    return found, _kernels(atoms, dependent, len(self.of))


def norm_bound(atoms: Callable[[np.ndarray], SparseMatrix], indices: np.ndarray) -> float:
  """Bounds the spectral norm of many atoms, closely if `spectral_norm` can factor their Gram matrix.

  Else the square is at most the sum of all squares, and at most the largest sum of magnitudes in a row
  times the largest in a column (Schur's test).

  Args:
    atoms: Returns atoms, given by their places, as the columns of a matrix.
    indices: The places of the atoms.
  """
  if len(indices) <= CHUNK and (norm := spectral_norm(atoms(indices))) is not None:
    return norm
  rows, column, squares = np.zeros(1), 0.0, 0.0
  for k in range(0, len(indices), CHUNK):
    magnitudes = abs(atoms(indices[k : k + CHUNK]))
    rows = rows + magnitudes.sum(axis=1)
    column = max(column, float(np.max(magnitudes.sum(axis=0), initial=0)))
    squares += float(np.sum(magnitudes.data**2))
  square = min(squares, float(np.max(rows, initial=0)) * column)
  return math.sqrt(square * (1 + np.finfo(np.float64).eps * (len(indices) + len(rows))))


def _kernels(
  atoms: Callable[[np.ndarray], SparseMatrix], groups: Sequence[np.ndarray], count: int
) -> SparseMatrix:
  """Returns the projections onto the kernels of groups of atoms: [count, count], zero elsewhere."""
  values, rows, places = [np.zeros(0)], [np.zeros(0, int)], [np.zeros(0, int)]
  for group in groups:
    columns = atoms(group).tocsr()
    matrix = columns[np.diff(columns.indptr) > 0].toarray()
    missing = max(len(group) - len(matrix), 0)  # rows of zeros, with which V^T is square
    matrix = np.pad(matrix, ((0, missing), (0, 0)))
    _, singular, vectors = np.linalg.svd(matrix, full_matrices=False)
    kernel = vectors[singular <= np.finfo(np.float64).eps * max(matrix.shape) * singular[0]]
    values.append(np.ravel(kernel.T @ kernel))
    rows.append(np.repeat(group, len(group)))
    places.append(np.tile(group, len(group)))
  entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(places))
  return scipy.sparse.coo_array(entries, shape=(count, count)).tocsc()


def _block_spectra(columns: SparseMatrix, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the spectral norms of blocks of `size` columns, and whether they may be dependent."""
  entries, count = columns.tocoo(), columns.shape[1] // size
  # Rows of their own for each block make its Gram matrix a diagonal block of the product.
  places = entries.col // size * columns.shape[0] + entries.row
  rows, inverse = np.unique(places.astype(np.int64), return_inverse=True)
  shape = (len(rows), columns.shape[1])
  apart = scipy.sparse.coo_array((entries.data, (inverse, entries.col)), shape=shape).tocsr()
  product = (apart.T @ apart).tocoo()
  grams = np.zeros((count, size, size))
  grams[product.row // size, product.row % size, product.col % size] = product.data
  values, traces = np.linalg.eigvalsh(grams), np.trace(grams, axis1=1, axis2=2)
  rounding = np.finfo(np.float64).eps * (size + columns.shape[0]) * traces
  return np.sqrt(values[:, -1] + rounding), values[:, 0] <= rounding
