"""The certificate of stability of one signal: its active atoms, their singular values and the bounds."""

import functools
import math

import numpy as np
import scipy.sparse

from cscjax.theory._groups import norm_bound
from cscjax.theory._restricted import (
  DENSE_VECTOR,
  Restriction,
  SparseMatrix,
  is_independent,
  most_amplified_vector,
  smallest_singular_value,
  smallest_singular_vector,
)
from cscjax.theory._screening import FlatProblems, screen

ENDS = tuple(2 ** (-i / 4) for i in range(16))
"""The bound is an integral over 0..noise, which is cut at these fractions of the noise. 1/s grows with
the noise, so that its value at the end of a segment bounds the integral over the segment."""
RESOLUTION = 1.1  # relative precision of `largest_noise`
PRECISION = 1e-3  # relative precision of `noise_within`


def gain(s: float, ridge: float) -> float:
  """Bounds the change of the solution per unit of noise, if its atoms stay the same.

  Without a ridge, the bound is 1 / s. With one, let Delta be the change of the code, b its norm, a =
  ||D Delta||, and e the noise. The residual is a projection, which is firmly nonexpansive, so that
  a ||e|| >= a^2 + sum_j ridge_j Delta_j^2, of which the right side is at least s^2 b^2. The result is
  the largest b for any a.

  Args:
    s: The smallest singular value of the atoms with their ridge, or a lower bound.
    ridge: The smallest ridge of the atoms.
  """
  square = max(s**2, ridge)
  if square == 0:
    return math.inf
  if square > 2 * ridge:
    return math.sqrt(1 - ridge / square) / math.sqrt(square)
  return 0.5 / math.sqrt(ridge)


def value_by_ridge(s: float, norm: float, ridge: float) -> float:
  """Bounds the smallest singular value of atoms with their ridge from below, without computing it.

  For codes (u, v), where v are the coefficients with a ridge, ||D (u, v)|| >= s ||u|| - norm ||v||. The
  result is the root of the smallest eigenvalue of the quadratic form
  (s ||u|| - norm ||v||)^2 + ridge ||v||^2.

  Args:
    s: The smallest singular value of the atoms without a ridge, or a lower bound.
    norm: The spectral norm of the atoms with a ridge, or an upper bound.
    ridge: The smallest ridge of these, > 0.
  """
  trace = s**2 + norm**2 + ridge
  root = math.sqrt(max(trace**2 - 4 * s**2 * ridge, 0))
  return s * math.sqrt(2 * ridge / (trace + root))


class SignalStability:
  """The certificate of stability of one signal.

  The atoms are sorted by the noise from which on they may be active, so that those for a level are the
  first ones. Their columns and singular values are computed when they are first used.
  """

  def __init__(self, problem: FlatProblems, i: int, code: np.ndarray, distance: float) -> None:
    screening = screen(problem, i, code)
    possible = np.flatnonzero(screening.levels < np.inf)
    self._order = possible[np.argsort(screening.levels[possible], kind="stable")]
    self._starts = screening.levels[self._order]
    self._roots = problem.roots[i]
    self._samples = int(np.count_nonzero(self._roots))
    ridge = np.zeros(len(code)) if problem.ridge is None else problem.ridge[i]
    self._ridge = ridge[self._order]
    # Each coefficient's part of the dimension of the codes, without the kernels of groups.
    self._dimensions = 1 - problem.kernels(i).diagonal()[self._order]
    self._atoms = functools.partial(problem.atoms, i)
    self._columns: SparseMatrix = self._atoms(self._order[:0])
    self._found: dict[int, Restriction] = {}
    self._known_by_ridge: dict[int, float] = {}
    self._groups, self._code, self._beta = problem.groups, code, problem.beta[i]
    self.nonzeros = int(np.count_nonzero(code))
    self.gap = screening.gap
    self.radius = screening.radius
    size = self.size(0.0)
    self.slack = self.start(size)
    s = self.restriction(0.0).value
    first = screening.radius / s if s > 0 else math.inf
    active = self._order[:size]
    slope = np.linalg.norm(screening.subgradient[active]) + np.linalg.norm(screening.rounding[active])
    second = float(slope) / s**2 if s > 0 else math.inf
    own_error = min(first, second)
    self.code_error = own_error
    self.error = distance + own_error
    magnitudes = np.where(problem.one_sided[i], code, self._code_norms)
    self.differentiable = bool(s > 0 and np.min(magnitudes[active], initial=np.inf) > own_error)
    self.largest_noise = self._largest_noise()

  def size(self, noise: float) -> int:
    """Returns the number of atoms that may be active."""
    return int(np.searchsorted(self._starts, noise, side="right"))

  def start(self, size: int) -> float:
    """Returns the noise from which on more than `size` atoms may be active."""
    return float(self._starts[size]) if size < len(self._starts) else math.inf

  def restriction(self, noise: float) -> Restriction:
    """Returns the smallest singular value of the atoms that may be active."""
    return self._restriction(self.size(noise))

  def proved_value(self, noise: float) -> float:
    """Returns a lower bound on the smallest singular value of the atoms that may be active."""
    return self._proved_value(self.size(noise))

  def bound(self, noise: float, *, proved: bool = False) -> float:
    """Bounds the change of the solution, without estimates if `proved`."""
    gains = [self._gain(end * noise, proved=proved) for end in ENDS]
    if math.inf in gains:  # an estimate for all atoms can exceed the value of some of them
      return math.inf
    starts = (*ENDS[1:], 0.0)
    segments = zip(starts, ENDS, gains, strict=True)
    return sum((end - start) * noise * gain for start, end, gain in segments)

  def noise_within(self, distance: float) -> float:
    """Returns a noise, near the largest one, for which the proved bound is below a distance."""
    low, high = 0.0, self.largest_noise
    if distance <= 0 or high == 0:
      return 0.0
    if high == math.inf:
      high = distance
      while self.bound(high, proved=True) < distance:
        low, high = high, 2 * high
        if high == math.inf:
          return math.inf
    while high - low > PRECISION * high:
      middle = (low + high) / 2
      low, high = (middle, high) if self.bound(middle, proved=True) < distance else (low, middle)
    return low

  def worst_direction(self) -> np.ndarray:
    """Returns the noise of norm 1 that moves the solution most, where no further atom becomes active."""
    size, samples = self.size(0.0), len(self._roots)
    columns, curvature = self._first(size)[:samples], self._curvature(size)
    if curvature.nnz and self.restriction(0.0).value > 0:
      vector = most_amplified_vector(columns, curvature)
    else:
      vector = smallest_singular_vector(columns)
    return np.divide(vector, self._roots, out=np.zeros_like(vector), where=self._roots > 0)

  def explain(self, noise: float) -> str:
    """Says why the bound is finite or infinite."""
    size, found = self.size(noise), self.restriction(noise)
    where = f"for noise up to {noise:.3g}: {size} of the atoms may be active"
    if self.bound(noise) < math.inf:
      how = "proved" if found.proved == 1 else f"estimated for {1 - found.proved:.0%} of them"
      if found.proved < 1 and (least := self.proved_value(noise)) > 0:
        how += f", at least {least:.3g} by the ridge"
      which = "smallest singular value" + " with the ridge" * bool(np.any(self._ridge))
      s = f"their {which} is {found.value:.3g} ({how})"
      return f"bound {self.bound(noise):.3g} {where}, and {s}"
    if not self._may_be_independent(size):
      reason = f"more than the {self._samples} samples of the signal"
      if np.any(self._dimensions[:size] < 1):
        reason = f"{round(self._dimension(size))} without those that depend on their group, {reason}"
    else:
      reason = "which are linearly dependent up to rounding"
    if self.largest_noise > 0:
      remedy = f"bounds are finite below {self.largest_noise:.3g}"
    else:
      remedy = f"{self.nonzeros} are in use, and the dual solution is known up to {self.radius:.3g}"
    return f"no bound {where}, {reason}; {remedy}"

  def _restriction(self, size: int) -> Restriction:
    """Returns the smallest singular value of the first atoms, with their ridge."""
    if size not in self._found:
      dimension = np.sum(self._dimensions[:size])
      if dimension <= max(self._samples, DENSE_VECTOR) and self._may_be_independent(size):
        self._found[size] = smallest_singular_value(self._first(size))
      else:  # many atoms, or some that are linearly dependent
        self._found[size] = Restriction(1, self._value_by_ridge(size), 1.0)
    return self._found[size]

  def _proved_value(self, size: int) -> float:
    """Returns a lower bound on the smallest singular value of the first atoms, with their ridge."""
    found = self._restriction(size)
    if found.proved == 1:
      return found.value
    if size not in self._known_by_ridge:
      self._known_by_ridge[size] = self._value_by_ridge(size)
    return self._known_by_ridge[size]

  def _value_by_ridge(self, size: int) -> float:
    """Returns a lower bound on that singular value which needs only atoms without a ridge."""
    ridge = self._ridge[:size]
    if np.all(ridge > 0):
      return math.sqrt(np.min(ridge))
    if np.all(ridge == 0) or not self._may_be_independent(size):
      return 0.0
    free = smallest_singular_value(self._without_ridge(size))
    s = free.value if free.proved == 1 else 0.0
    samples = len(self._roots)
    norm = norm_bound(lambda atoms: self._atoms(atoms)[:samples], self._order[:size][ridge > 0])
    return value_by_ridge(s, norm, float(np.min(ridge[ridge > 0])))

  def _may_be_independent(self, size: int) -> bool:
    """Returns whether the first atoms without a ridge have no more dimensions than the signal."""
    return self._dimension(size) < self._samples + 0.5

  def _dimension(self, size: int) -> float:
    """Returns the dimension of the codes of the first atoms without a ridge, up to rounding."""
    return float(np.sum(self._dimensions[:size][self._ridge[:size] == 0]))

  def _smallest_ridge(self, size: int) -> float:
    """Returns the smallest ridge of the first atoms."""
    return float(np.min(self._ridge[:size], initial=math.inf))

  def _gain(self, noise: float, *, proved: bool) -> float:
    """Bounds the change per unit of noise, for noise that is added to that of norm `noise`."""
    size = self.size(noise)
    s = self._proved_value(size) if proved else self._restriction(size).value
    return gain(s, self._smallest_ridge(size))

  @functools.cached_property
  def _code_norms(self) -> np.ndarray:
    """The norm of the group of each coefficient of the code."""
    return self._groups.norms(self._code)[self._groups.of]

  def _curvature(self, size: int) -> SparseMatrix:
    """Returns the second derivative of the penalty in the first coefficients, where it is smooth.

    That of beta ||c|| is beta (I - c c^T / ||c||^2) / ||c||, which is zero for a single coefficient. The
    further samples of the atoms add their Gram matrix.
    """
    first = self._order[:size]
    of, norms, code = self._groups.of[first], self._code_norms[first], self._code[first]
    curved = (norms > 0) & (self._groups.sizes[of] > 1)
    weights = np.divide(self._beta[first], norms, out=np.zeros(size), where=curved)
    directions = np.divide(code, norms, out=np.zeros(size), where=curved)
    shape = size, len(self._groups.sizes)
    values = directions * np.sqrt(weights)
    radial = scipy.sparse.coo_array((values, (np.arange(size), of)), shape=shape).tocsr()
    further = self._first(size)[len(self._roots) :]
    curvature = scipy.sparse.diags_array(weights) - radial @ radial.T + further.T @ further
    curvature = scipy.sparse.csr_array(curvature)
    curvature.eliminate_zeros()
    return curvature

  def _without_ridge(self, size: int) -> SparseMatrix:
    """Returns the columns of the atoms without a ridge among the first atoms."""
    free = self._ridge[:size] == 0
    return self._first(size) if np.all(free) else self._atoms(self._order[:size][free])

  def _first(self, size: int) -> SparseMatrix:
    """Returns the columns of the first atoms."""
    have = self._columns.shape[1]
    if size > have:
      more = self._atoms(self._order[have:size])
      self._columns = scipy.sparse.hstack([self._columns, more], format="csc")
    return self._columns[:, :size]

  def _largest_noise(self) -> float:
    """Finds by bisection how many of the first atoms have linearly independent columns.

    Those with a ridge are always independent of all others.
    """
    dimensions = np.cumsum(np.where(self._ridge == 0, self._dimensions, 0))
    low, high = self.size(0.0), int(np.searchsorted(dimensions, self._samples + 0.5)) + 1
    if self._restriction(low).value == 0:
      return 0.0
    while high - low > 1 and self.start(high - 1) > RESOLUTION * self.start(low):
      middle = min(max(2 * low, 1), (low + high) // 2)
      if is_independent(self._without_ridge(middle)):
        low = middle
      else:
        high = middle
    return self.start(low)
