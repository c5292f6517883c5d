"""The kinds of problems of the suite `solvers`, and their objectives.

The arrays of the problems are in float32; the objectives are computed in float64, for all libraries
alike. This module only imports NumPy, because `process` also runs in interpreters without cscjax.
"""

import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

RHO = 1.0  # penalty parameter; for atoms of norm 1 adapting it does not help
RELAXATION = 1.8
HELD_TOLERANCE = 1e-3  # relative duality gap at which the codes of held-out signals are accurate enough
TEST_PERIOD = 10  # iterations between two computations of an objective or a gap


class Coding(NamedTuple):
  """Convolutional sparse coding: min over G of 1/2 ||x - D G||^2 + beta ||G||_1.

  Attributes:
    x: Signals [N, *space, C].
    filters: Atoms of norm 1, shape [*taps, C, m]. The origin of an atom is its first tap.
    beta: Penalty.
    padding: "CIRCULAR", with codes [N, *space, m], or "VALID": no atom crosses the border, and the codes
      have the shape [N, *(space - taps + 1), m].
    nonnegative: Whether the codes are constrained to be nonnegative.
  """

  x: np.ndarray
  filters: np.ndarray
  beta: float
  padding: str = "CIRCULAR"
  nonnegative: bool = False

  @property
  def places(self) -> tuple[slice, ...]:
    """The places of an atom that the padding allows."""
    if self.padding == "CIRCULAR":
      return ()
    sizes = zip(self.x.shape[1:-1], self.filters.shape, strict=False)
    return tuple(slice(n - k + 1) for n, k in sizes)

  def objective(self) -> "Objective":
    """Returns the objective of a code."""
    return Objective(self)


class DenseLasso(NamedTuple):
  """The Lasso of a matrix: min over w of 1/2 ||x - A w||^2 + beta ||w||_1.

  Attributes:
    x: Signals [N, n].
    matrix: A, with columns of norm 1, shape [n, m].
    beta: Penalty.
  """

  x: np.ndarray
  matrix: np.ndarray
  beta: float

  def objective(self) -> Callable[[np.ndarray], float]:
    """Returns the objective of a code [N, m]."""
    x, matrix = self.x.astype(np.float64), self.matrix.astype(np.float64)

    def value(code: np.ndarray) -> float:
      code = code.astype(np.float64)
      misfit = 0.5 * np.sum(np.square(x - code @ matrix.T))
      return float(misfit + self.beta * np.sum(np.abs(code)))

    return value


class Learning(NamedTuple):
  """Dictionary learning; the filters are judged by the sparse codes of held-out signals.

  Attributes:
    x: Training signals [N, *space, C].
    held: Held-out signals, of the same shape but for N.
    filters: Initial atoms [*taps, C, m].
    beta: Penalty.
    padding: Padding of the held-out problem, as in `Coding`.
    nonnegative: Whether codes are nonnegative.
  """

  x: np.ndarray
  held: np.ndarray
  filters: np.ndarray
  beta: float
  padding: str
  nonnegative: bool

  def objective(self) -> Callable[[np.ndarray], float]:
    """Returns the minimum over the codes of the held-out signals, as a function of the filters.

    The filters are first scaled to norm 1. The duality gap bounds the error by `HELD_TOLERANCE`.
    """

    def value(filters: np.ndarray) -> float:
      norms = np.sqrt(np.sum(np.square(filters), axis=tuple(range(filters.ndim - 1))))
      filters = filters / np.where(norms > 0, norms, 1)
      coding = Coding(self.held, filters, self.beta, self.padding, self.nonnegative)
      objective = coding.objective()
      return sum(objective.minimum(x, HELD_TOLERANCE) for x in objective.x)

    return value


Problem = Coding | DenseLasso | Learning
KINDS = {kind.__name__: kind for kind in (Coding, DenseLasso, Learning)}


def save(path: pathlib.Path, problem: Problem) -> None:
  """Writes a problem to an .npz file."""
  np.savez(path, kind=type(problem).__name__, **problem._asdict())


def load(path: str) -> Problem:
  """Reads a problem from an .npz file."""
  with np.load(path, allow_pickle=False) as file:
    fields = {name: file[name] if file[name].ndim else file[name].item() for name in file}
  return KINDS[fields.pop("kind")](**fields)


def lipschitz(problem: Coding) -> float:
  """Returns the largest eigenvalue of D^T D, with circular boundaries, one atom after the other."""
  space, axes = problem.x.shape[1:-1], tuple(range(problem.x.ndim - 2))
  gram = np.zeros(())
  for atom in np.moveaxis(problem.filters.astype(np.float64), -1, 0):
    spectrum = np.fft.rfftn(atom, space, axes)
    gram = gram + spectrum[..., :, None] * np.conj(spectrum[..., None, :])
  return float(np.linalg.norm(gram, ord=2, axis=(-2, -1)).max())


class Objective:
  """The objective of `Coding`, summed over the signals, by FFT.

  A code for "VALID" padding is a circular code that is zero where an atom would cross the border.
  """

  def __init__(self, problem: Coding):
    """Prepares the Fourier transform of the filters."""
    self.problem, self.x = problem, problem.x.astype(np.float64)
    self.space = problem.x.shape[1:-1]
    self.axes = tuple(range(len(self.space)))
    self.spectrum = self._transform(problem.filters.astype(np.float64))  # [*frequencies, C, m]

  def __call__(self, code: np.ndarray) -> float:
    """Returns the objective of a code [N, *space, m], which is infinite for a negative coefficient."""
    return sum(self.of_one(x, c) for x, c in zip(self.x, code, strict=True))

  def of_one(self, x: np.ndarray, code: np.ndarray) -> float:
    """Returns the objective of one signal [*space, C] and its code [*space, m]."""
    code = code.astype(np.float64)
    if self.problem.nonnegative and np.any(code < 0):
      return np.inf
    misfit = 0.5 * np.sum(np.square(x - self._synthesis(code)))
    return float(misfit + self.problem.beta * np.sum(np.abs(code)))

  def iterates(self, x: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the codes [*space, m] of one signal [*space, C] by Douglas-Rachford splitting.

    The iteration, with relaxation a and penalty parameter r, is

        P <- P + a (Y + D^T (r I + D D^T)^-1 (x - D (2 Y - P)) - P),  Y = prox(P).
    """
    gram = self.spectrum @ np.conj(np.swapaxes(self.spectrum, -2, -1))
    inverse = np.linalg.inv(gram + RHO * np.eye(x.shape[-1]))
    target = self._transform(x)
    point = np.zeros((*self.space, self.spectrum.shape[-1]))
    while True:
      near = self._prox(point)
      reflected = self._transform(2 * near - point)
      residual = inverse @ (target - self._sum_over_atoms(reflected))[..., None]
      point += RELAXATION * (near - point + self._adjoint(residual[..., 0]))
      yield near

  def minimum(self, x: np.ndarray, tolerance: float) -> float:
    """Returns the minimum for one signal, with a relative duality gap of at most `tolerance`."""
    for code in itertools.islice(self.iterates(x), TEST_PERIOD - 1, None, TEST_PERIOD):
      value = self.of_one(x, code)
      if value - self._dual(x, code) <= tolerance * value:
        return value
    raise AssertionError("the iterates never end")

  def _dual(self, x: np.ndarray, code: np.ndarray) -> float:
    """Returns the value of the dual point that is the residual of a code, scaled to be feasible."""
    residual = x - self._synthesis(code)
    correlation = self._adjoint(self._transform(residual))[self.problem.places]
    largest = np.max(correlation if self.problem.nonnegative else np.abs(correlation))
    dual = residual * min(1.0, self.problem.beta / max(largest, np.finfo(np.float64).tiny))
    return float(np.sum(dual * x) - 0.5 * np.sum(np.square(dual)))

  def _prox(self, point: np.ndarray) -> np.ndarray:
    """Returns the proximal operator of the penalty / `RHO`, with the constraints on the code."""
    shrunk = np.maximum(np.abs(point) - self.problem.beta / RHO, 0)
    near = np.where(point > 0, shrunk, 0 if self.problem.nonnegative else -shrunk)
    inside = np.zeros_like(near)
    inside[self.problem.places] = near[self.problem.places]
    return inside

  def _synthesis(self, code: np.ndarray) -> np.ndarray:
    return self._inverse(self._sum_over_atoms(self._transform(code)))

  def _sum_over_atoms(self, code: np.ndarray) -> np.ndarray:
    return np.einsum("...m,...cm->...c", code, self.spectrum)

  def _adjoint(self, residual: np.ndarray) -> np.ndarray:
    return self._inverse(np.einsum("...c,...cm->...m", residual, np.conj(self.spectrum)))

  def _transform(self, array: np.ndarray) -> np.ndarray:
    return np.fft.rfftn(array, self.space, self.axes)  # pads a smaller array with zeros

  def _inverse(self, spectrum: np.ndarray) -> np.ndarray:
    return np.fft.irfftn(spectrum, self.space, self.axes)
