"""The exact solution of small problems with joint sparsity, in dense float64 algebra."""

import dataclasses

import numpy as np
import scipy.linalg

from tests.theory.lasso_reference import SMALL, DenseLasso


@dataclasses.dataclass(frozen=True)
class DenseGroupLasso(DenseLasso):
  """min 1/2 ||sqrt(weights) (x - d code)||^2 + sum_g beta_g ||code_g|| + sum ridge/2 code^2.

  `groups` is the group of each coefficient; `beta` has the same value in a group.
  """

  groups: np.ndarray

  def norms(self, code):
    """Returns for each coefficient the norm of its group."""
    return np.sqrt(np.bincount(self.groups, code**2))[self.groups]

  def prox(self, code, step):
    """Returns the proximal point of the penalty without the ridge."""
    code = np.where(self.one_sided, np.maximum(code, 0), code)
    norms = self.norms(code)
    return code * np.maximum(1 - step * self.beta / np.where(norms > 0, norms, 1), 0)

  def curvature(self, code):
    """Returns the second derivative of the norms at a code, zero in groups of zeros."""
    found = np.zeros((len(code), len(code)))
    for group in np.unique(self.groups[code != 0]):
      places = np.flatnonzero(self.groups == group)
      norm = np.linalg.norm(code[places])
      unit = code[places] / norm
      found[np.ix_(places, places)] = (
        self.beta[places] / norm * (np.eye(len(unit)) - np.outer(unit, unit))
      )
    return found

  def solve(self, x):
    """Returns the solution, and how far it is from optimal: FISTA, then Newton on the support."""
    a = self.weighted
    gram, correlation = a.T @ a + np.diag(self.ridge), a.T @ (np.sqrt(self.weights) * x)
    step = 1 / np.linalg.norm(gram, 2)
    code, point, t = np.zeros(len(gram)), np.zeros(len(gram)), 1.0
    for k in range(20_000):
      after = self.prox(point - step * (gram @ point - correlation), step)
      t_after = (1 + np.sqrt(1 + 4 * t**2)) / 2
      restart = (point - after) @ (after - code) > 0
      point = after if restart else after + (t - 1) / t_after * (after - code)
      code, t = after, 1.0 if restart else t_after
      if k % 100 == 99:
        polished = self._newton(gram, correlation, code)
        gradient = correlation - gram @ polished
        violation = np.max(np.abs(self.prox(polished + gradient, 1.0) - polished))
        if violation <= SMALL:
          return polished, violation
    return polished, violation

  def _newton(self, gram, correlation, code):
    for _ in range(4):
      s = np.flatnonzero(code)
      norms = self.norms(code)
      gradient = gram @ code - correlation + self.beta * code / np.where(norms > 0, norms, 1)
      step = np.linalg.pinv((gram + self.curvature(code))[np.ix_(s, s)]) @ gradient[s]
      after = code.copy()
      after[s] -= step
      code = np.where(self.one_sided, np.maximum(after, 0), after)
    return code

  def smallest_singular_value(self, active):
    """Returns that of some atoms for codes whose groups are in the row spaces of their atoms.

    Groups of solutions are, if they have a penalty but no constraint.
    """
    columns = [np.zeros((len(self.augmented), 0))]
    for group in np.unique(self.groups[active]):
      places, whole = active[self.groups[active] == group], self.groups == group
      atoms = self.augmented[:, places]
      if np.all(self.beta[whole] > 0) and not np.any(self.one_sided[whole]):
        atoms = atoms @ scipy.linalg.orth(atoms.T, rcond=1e-10)
      columns.append(atoms)
    return np.min(np.linalg.svd(np.hstack(columns), compute_uv=False), initial=np.inf)

  def response(self, code):
    """Returns the derivative of the support of the solution, by the weighted signal."""
    s = np.flatnonzero(code)
    hessian = self.augmented.T @ self.augmented + self.curvature(code)
    return np.linalg.pinv(hessian[np.ix_(s, s)]) @ self.weighted[:, s].T
