"""Adapters of scikit-learn and celer, for the Lasso of a matrix.

Both divide the misfit by the number of rows. They get the matrix in Fortran's order, which they need not
copy.
"""

from typing import Any

import numpy as np

from experiments.benchmarks.libraries.common import ByTolerance
from experiments.benchmarks.objective import DenseLasso


class _Estimator(ByTolerance):
  """Base of the estimators with scikit-learn's interface."""

  def __init__(self, solver: str, problem: DenseLasso):
    self.problem = problem
    self.matrix = np.asfortranarray(problem.matrix)
    self.kind = self._class()

  def _solve(self, tolerance: float) -> np.ndarray:
    rows = self.matrix.shape[0]
    model = self.kind(self.problem.beta / rows, fit_intercept=False, tol=tolerance)
    return np.stack([model.fit(self.matrix, x).coef_ for x in self.problem.x])

  def _class(self) -> Any:
    raise NotImplementedError


class ScikitLearn(_Estimator):
  """The solver of scikit-learn: coordinate descent (`cd`) with its default settings."""

  def _class(self) -> Any:
    from sklearn.linear_model import Lasso

    return Lasso


class Celer(_Estimator):
  """The solver of celer: coordinate descent on working sets (`celer`) with its default settings."""

  def _class(self) -> Any:
    from celer import Lasso  # pyright: ignore[reportMissingImports]

    return Lasso
