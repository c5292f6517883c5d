"""Codes of one layer: min 1/2 ||x - D code||^2 + beta ||code||_1, and orthogonal matching pursuit."""

from cscjax.solvers.lasso._admm import admm
from cscjax.solvers.lasso._certificates import beta_max, duality_gap
from cscjax.solvers.lasso._implicit import PolishedCode, polished
from cscjax.solvers.lasso._iterate import TEST_PERIOD, Differentiate, SolverResult
from cscjax.solvers.lasso._omp import OMPResult, omp
from cscjax.solvers.lasso._proximal_gradient import fista, ista

__all__ = [
  "TEST_PERIOD",
  "Differentiate",
  "OMPResult",
  "PolishedCode",
  "SolverResult",
  "admm",
  "beta_max",
  "duality_gap",
  "fista",
  "ista",
  "omp",
  "polished",
]
