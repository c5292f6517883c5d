"""Singular values of a dictionary restricted to some atoms, proved where memory allows."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
from scipy.sparse import csgraph

from cscjax.dictionaries import Dictionary, with_methods
from cscjax.theory._float64 import float64_on_host

DENSE = 200  # largest number of atoms in a piece whose eigenvalues are computed
DENSE_VECTOR = 2000  # the same for an eigenvector
BAND = 2**25  # largest number of entries of a banded factor: 256 MiB
NORM_BAND = 2**22  # the same, where it takes longer to prove a norm than it is worth
NORM_MARGIN = 1e-3  # relative margin of the square of a norm that is proved
FRACTIONS = (0.9999, 0.99, 0.9, 0.5)  # fractions of the eigenvalue, tried in turn as a proved bound
PRECISION = 1e-5  # relative precision of that eigenvalue
ITERATIONS = 500  # iterations of the Lanczos method

SparseMatrix = Any
"""A sparse array of SciPy, which has no type annotations."""


class Restriction(NamedTuple):
  """The smallest singular value of some atoms.

  Attributes:
    pieces: The number of pieces, which have no sample in common.
    value: A lower bound if `proved` is 1, else an estimate. It is 0 if the atoms are linearly dependent
      up to rounding, and inf if there are none.
    proved: The fraction of the atoms that are in pieces whose value is proved.
  """

  pieces: int
  value: float
  proved: float


def atom_columns(dictionary: Dictionary, shape: tuple[int, ...], indices: np.ndarray) -> SparseMatrix:
  """Returns atoms as the columns of a sparse matrix [n, k].

  Args:
    dictionary: Any dictionary, in float64.
    shape: The shape of one signal.
    indices: The positions of the k atoms in a flattened code, whose parts are concatenated.
  """
  with float64_on_host():
    values, rows, columns = with_methods(dictionary).atom_entries(indices, shape)
  matrix = scipy.sparse.coo_array((values, (rows, columns)), shape=(math.prod(shape), len(indices)))
  matrix = matrix.tocsc()  # adds entries of the same place
  matrix.eliminate_zeros()  # atoms with no sample in common are in different pieces
  return matrix


def smallest_singular_value(columns: SparseMatrix) -> Restriction:
  """Computes the smallest singular value of a sparse matrix [n, k] from its Gram matrix.

  The columns fall into pieces that have no row in common, the connected components of the Gram matrix.
  Its smallest eigenvalue in each piece is found by a dense eigenvalue solver or, for large pieces, by
  the Lanczos method for the inverse, with a banded Cholesky factor; a second factorization then proves
  it. If the factor would be too large, the Lanczos method for the Gram matrix estimates the eigenvalue.
  """
  count = columns.shape[1]
  smallest, pieces, proved = math.inf, 0, 0
  for gram in _pieces(columns):
    value, is_proved = _smallest_eigenvalue(gram)
    smallest = min(smallest, value)
    pieces += 1
    proved += is_proved * gram.shape[0]
  return Restriction(pieces, math.sqrt(max(smallest, 0)), proved / count if count else 1.0)


def spectral_norm(columns: SparseMatrix) -> float | None:
  """Bounds the spectral norm of a sparse matrix [n, k] from above, by at most 0.1 % more than it is.

  The Lanczos method finds the largest eigenvalue of the Gram matrix of each piece from below. A Cholesky
  factor of shift I - Gram then proves that a number slightly above is an upper bound.

  Returns:
    The bound, or None if the Gram matrix or its factor would be too large.
  """
  rows = np.diff(columns.tocsr().indptr).astype(float)
  if min(float(columns.shape[1]) ** 2, float(rows @ rows)) > BAND:
    return None
  largest = 0.0
  for gram in _pieces(columns):
    value = _bound_of_largest_eigenvalue(gram)
    if value is None:
      return None
    largest = max(largest, value)
  return math.sqrt(largest)


def _bound_of_largest_eigenvalue(gram: SparseMatrix) -> float | None:
  """Returns an upper bound on the largest eigenvalue of a Gram matrix, or None if it is too large."""
  size = gram.shape[0]
  if size <= DENSE:
    rounding = float(np.finfo(np.float64).eps * size * gram.diagonal().sum())
    return float(np.linalg.eigvalsh(gram.toarray())[-1]) + rounding
  band = _Band(-gram)
  if band.entries_count > NORM_BAND:
    return None
  shift = (1 + NORM_MARGIN) * float(_lanczos_eigen(gram, "LA", 0.1 * NORM_MARGIN)[0])
  if band.factor(-shift) is None:
    return None
  return shift + (size * shift + band.trace) * band.unit


def smallest_singular_vector(columns: SparseMatrix) -> np.ndarray:
  """Returns the left singular vector of the smallest singular value of a sparse matrix [n, k]: [n].

  It is zero if there are no columns.
  """
  smallest, weights = math.inf, np.zeros(columns.shape[1])
  for indices, gram in _labelled_pieces(columns):
    if gram.shape[0] <= DENSE_VECTOR:
      values, vectors = scipy.linalg.eigh(gram.toarray(), subset_by_index=(0, 0))
    else:
      values, vectors = _lanczos_eigen(gram, "SA", 1e-2, vectors=True)
    if values[0] < smallest:
      smallest, weights = values[0], np.zeros(columns.shape[1])
      weights[indices] = vectors[:, 0]
  return _normalized(columns @ weights)


def most_amplified_vector(columns: SparseMatrix, curvature: SparseMatrix) -> np.ndarray:
  """Returns the unit vector e for which penalized least squares has the largest solution: [n].

  The solution is (A^T A + R)^-1 A^T e for a sparse matrix A [n, k] and the curvature R [k, k] of the
  penalty. It is zero if there are no columns. For R = 0, e would be the smallest singular vector.
  """
  largest, weights = -math.inf, np.zeros(columns.shape[1])
  for indices, gram in _labelled_pieces(columns, curvature):
    value, solution = _largest_solution(gram, curvature[indices][:, indices])
    if value > largest:
      largest, weights = value, np.zeros(columns.shape[1])
      weights[indices] = solution
  return _normalized(columns @ weights)


def _largest_solution(gram: SparseMatrix, curvature: SparseMatrix) -> tuple[float, np.ndarray]:
  """Returns the largest eigenvalue of K K^T, and w = (A^T A + R)^-1 u for its eigenvector u.

  Here K = (A^T A + R)^-1 A^T is the matrix of penalized least squares, and A w = K^T u.
  """
  matrix = scipy.sparse.csc_array(gram + curvature)
  solve = scipy.sparse.linalg.factorized(matrix)
  if gram.shape[0] <= DENSE_VECTOR:
    inverse = np.linalg.inv(matrix.toarray())
    last = (len(inverse) - 1,) * 2
    values, vectors = scipy.linalg.eigh(inverse @ gram @ inverse, subset_by_index=last)
  else:

    class Product(scipy.sparse.linalg.LinearOperator):
      def _matvec(self, x: np.ndarray) -> np.ndarray:
        return solve(gram @ solve(x))

    values, vectors = _lanczos_eigen(Product(np.dtype(np.float64), gram.shape), "LA", 1e-2, vectors=True)
  return float(values[0]), solve(vectors[:, 0])


def _normalized(vector: np.ndarray) -> np.ndarray:
  """Divides a vector by its norm; zero stays zero."""
  size = np.linalg.norm(vector)
  return vector / size if size > 0 else vector


def is_independent(columns: SparseMatrix) -> bool:
  """Proves that the columns of a sparse matrix are linearly independent, without their singular value.

  Returns:
    False if it cannot be proved because of rounding, or because a factor would be too large.
  """
  if columns.shape[1] > np.count_nonzero(np.diff(columns.tocsr().indptr)):
    return False  # more columns than rows
  bands = map(_Band, _pieces(columns))
  return all(band.entries_count <= BAND and band.factor(2 * band.rounding) is not None for band in bands)


def _pieces(columns: SparseMatrix) -> Iterator[SparseMatrix]:
  """Yields the Gram matrices of the pieces."""
  return (gram for _, gram in _labelled_pieces(columns))


def _labelled_pieces(
  columns: SparseMatrix, coupling: SparseMatrix | None = None
) -> Iterator[tuple[np.ndarray, SparseMatrix]]:
  """Yields the columns of each piece and their Gram matrix.

  Columns are also in the same piece if the entry of `coupling` for them is not zero.
  """
  if not columns.shape[1]:
    return
  if columns.nnz > 0.1 * math.prod(columns.shape):  # a dense product is faster
    dense = columns.toarray()
    gram = scipy.sparse.csr_array(dense.T @ dense)
  else:
    gram = scipy.sparse.csr_array(columns.T @ columns)
  graph = gram if coupling is None else abs(gram) + abs(coupling)
  count, labels = csgraph.connected_components(graph, directed=False)
  order = np.argsort(labels, kind="stable")
  gram = gram[order][:, order]
  ends = np.cumsum(np.bincount(labels, minlength=count))
  for start, end in zip(ends - np.diff(ends, prepend=0), ends, strict=True):
    yield order[start:end], gram[start:end, start:end]


class _Band:
  """A sparse Gram matrix, ordered so that its entries are near the diagonal."""

  def __init__(self, gram: SparseMatrix) -> None:
    order = csgraph.reverse_cuthill_mckee(gram, symmetric_mode=True)
    self._upper = scipy.sparse.triu(gram[order][:, order]).tocoo()
    self._width = int(np.max(self._upper.col - self._upper.row, initial=0))
    self.size = gram.shape[0]
    # Rump (2006), Verification of positive definiteness: if a matrix minus mu I has a Cholesky factor in
    # floating point, its eigenvalues are at least mu - eps (bandwidth + 2) trace.
    self.unit = float(np.finfo(np.float64).eps * (self._width + 2))
    self.trace = float(gram.diagonal().sum())
    self.rounding = self.unit * self.trace

  @property
  def entries_count(self) -> int:
    """The number of entries of a factor."""
    return (self._width + 1) * self.size

  def factor(self, shift: float) -> np.ndarray | None:
    """Returns the Cholesky factor of the matrix minus shift I, or None if it is not definite."""
    band = np.zeros((self._width + 1, self.size), order="F")
    band[self._width + self._upper.row - self._upper.col, self._upper.col] = self._upper.data
    band[self._width] -= shift
    try:
      return scipy.linalg.cholesky_banded(band, overwrite_ab=True, check_finite=False)
    except np.linalg.LinAlgError:
      return None


def _smallest_eigenvalue(gram: SparseMatrix) -> tuple[float, bool]:
  """Returns a lower bound of the smallest eigenvalue of a Gram matrix, up to rounding, and True.

  If it cannot be proved, returns an estimate and False.
  """
  band = _Band(gram)
  if band.size <= DENSE:
    return float(np.linalg.eigvalsh(gram.toarray())[0]) - band.rounding, True
  if band.entries_count > BAND:
    return _lanczos(gram), False
  largest = _largest_of_inverse(band)
  if largest is None:
    return 0.0, True
  for fraction in FRACTIONS:
    shift = fraction / largest
    if band.factor(shift) is not None:
      return shift - band.rounding, True
  return 0.0, True


def _largest_of_inverse(band: _Band) -> float | None:
  """Returns the largest eigenvalue of the inverse of a matrix, or None if it is not definite."""
  factor = band.factor(0.0)
  if factor is None:
    return None

  class Inverse(scipy.sparse.linalg.LinearOperator):
    def _matvec(self, x: np.ndarray) -> np.ndarray:
      return scipy.linalg.cho_solve_banded((factor, False), x, check_finite=False)

  inverse = Inverse(np.dtype(np.float64), (band.size, band.size))
  return float(_lanczos_eigen(inverse, "LA", PRECISION)[0])


def _lanczos(gram: SparseMatrix) -> float:
  """Estimates the smallest eigenvalue from above, by the smallest Ritz value of a few iterations.

  Lost orthogonality only repeats Ritz values, see `cscjax.ops.lanczos_max`.
  """
  vector = _random_unit_vector(gram.shape[0])
  previous, coupling = np.zeros_like(vector), 0.0
  diagonal, off_diagonal = [], []
  for _ in range(ITERATIONS):
    image = gram @ vector - coupling * previous
    diagonal.append(float(vector @ image))
    image -= diagonal[-1] * vector
    coupling = float(np.linalg.norm(image))
    if coupling <= np.finfo(np.float64).eps * max(diagonal) * math.sqrt(len(vector)):
      break
    off_diagonal.append(coupling)
    previous, vector = vector, image / coupling
  return float(
    scipy.linalg.eigvalsh_tridiagonal(
      diagonal, off_diagonal[: len(diagonal) - 1], select="i", select_range=(0, 0)
    )[0]
  )


def _lanczos_eigen(matrix: Any, which: str, tolerance: float, *, vectors: bool = False) -> Any:
  """Returns the largest ("LA") or smallest ("SA") eigenvalue of a symmetric matrix, and its vector."""
  start, tol = _random_unit_vector(matrix.shape[0]), cast(Any, tolerance)
  return scipy.sparse.linalg.eigsh(
    matrix, k=1, which=which, tol=tol, v0=start, return_eigenvectors=vectors
  )


def _random_unit_vector(size: int) -> np.ndarray:
  """Returns a vector that has a part along each eigenvector; the same each time."""
  vector = np.random.default_rng(0).normal(size=size)
  return vector / np.linalg.norm(vector)
