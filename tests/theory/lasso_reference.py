"""The exact solution of small Lassos in dense float64 algebra, and the noise that moves it most."""

import dataclasses

import numpy as np
from sklearn.linear_model import Lasso

SMALL = 1e-11  # violation of the optimality conditions that is due to rounding


@dataclasses.dataclass(frozen=True)
class DenseLasso:
  """min 1/2 ||sqrt(weights) (x - d code)||^2 + sum (beta |code| + ridge/2 code^2).

  With code >= 0 where `one_sided`.
  """

  d: np.ndarray
  beta: np.ndarray
  one_sided: np.ndarray
  weights: np.ndarray
  ridge: np.ndarray

  @property
  def weighted(self):
    return np.sqrt(self.weights)[:, None] * self.d

  @property
  def augmented(self):
    """The weighted matrix with a row for the ridge of each coefficient."""
    return np.vstack([self.weighted, np.diag(np.sqrt(self.ridge))])

  def smallest_singular_value(self, active):
    """Returns that of some atoms with their ridge: inf without atoms."""
    return np.min(np.linalg.svd(self.augmented[:, active], compute_uv=False), initial=np.inf)

  def response(self, code):
    """Returns the derivative of the support of the solution, by the weighted signal."""
    return np.linalg.pinv(self.augmented[:, np.flatnonzero(code)])[:, : len(self.weights)]

  def solve(self, x):
    """Returns the solution, and how far it is from optimal.

    The support comes from scikit-learn, the values from the linear system that they must satisfy.
    """
    d, x = self.augmented, np.append(np.sqrt(self.weights) * x, np.zeros(len(self.ridge)))
    free = (self.beta == 0) & ~self.one_sided
    inverse = np.linalg.pinv(d[:, free])
    p = np.eye(len(x)) - d[:, free] @ inverse  # atoms without a penalty are projected out
    columns = np.flatnonzero(~free)
    signed = columns[~self.one_sided[columns]]
    halves = np.concatenate([columns, signed])  # code = positive part - negative part
    signs = np.concatenate([np.ones(len(columns)), -np.ones(len(signed))])
    scale = self.beta[halves]
    model = Lasso(1 / len(x), fit_intercept=False, positive=True, tol=1e-13, max_iter=200_000)
    values = model.fit(p @ d[:, halves] * (signs / scale), p @ x).coef_
    code = np.zeros(len(free))
    np.add.at(code, halves, signs * values / scale)
    for _ in range(10):
      code = self._refined(d, x, code, free)
      residual = (x - d @ code)[: len(self.weights)]
      gradient = self.weighted.T @ residual - self.ridge * code
      off = gradient - self.beta * np.sign(code)
      inside = np.where(self.one_sided, gradient, np.abs(gradient)) - self.beta
      violation = np.where((code != 0) | free, np.abs(off), np.maximum(inside, 0))
      if np.max(violation) <= SMALL:
        break
      code[np.argmax(violation)] += np.sign(off[np.argmax(violation)]) * 1e-9
    return code, np.max(violation)

  def _refined(self, d, x, code, free):
    support = np.flatnonzero((code != 0) | free)
    signs = np.sign(code[support])
    found = np.zeros(len(code))
    if len(support):
      inverse = np.linalg.pinv(d[:, support])
      found[support] = inverse @ x - inverse @ inverse.T @ (self.beta[support] * signs)
    return np.where(free | (found * np.sign(code) > 0), found, 0)

  def worst_direction(self, code):
    """Returns the noise of norm 1 that moves the solution most, while its support is the same."""
    if not np.any(code):
      return np.zeros(len(self.weights))
    return np.linalg.svd(self.response(code), full_matrices=False)[2][0]

  def moved(self, x, e):
    """Returns the solution for x + e, where e is measured with the weights."""
    roots = np.sqrt(self.weights)
    return self.solve(x + np.where(roots > 0, e / np.where(roots > 0, roots, 1), 0))

  def ascent(self, x, code, e, steps=4):
    """Improves noise of a given norm by gradient ascent on the change of the code.

    Yields:
      The solutions on the way.
    """
    size = np.linalg.norm(e)
    for _ in range(steps):
      moved, violation = self.moved(x, e)
      if violation > SMALL:
        return
      yield moved
      direction = self.response(moved).T @ (moved - code)[moved != 0]
      if not np.any(direction):
        return
      e = size * direction / np.linalg.norm(direction)
