"""Pursuits: pure functions from a dictionary and a signal to a sparse code.

Solvers compute float32 products and convolutions at the highest precision, see
`cscjax.ops.highest_precision`. What networks are made of keeps the setting of JAX:
`initialized_thresholding`, `layered_pursuit`, `multilayer_pursuit` and `unfolded_pursuit`.
"""

from cscjax.solvers._lasso._admm import admm
from cscjax.solvers._lasso._certificates import beta_max, duality_gap
from cscjax.solvers._lasso._implicit import PolishedCode, polished
from cscjax.solvers._lasso._iterate import TEST_PERIOD, Differentiate, SolverResult
from cscjax.solvers._lasso._omp import OMPResult, omp
from cscjax.solvers._lasso._proximal_gradient import fista, ista
from cscjax.solvers._multilayer import (
  MultilayerResult,
  layered_bp,
  layered_thresholding,
  ml_fista,
  ml_ista,
)
from cscjax.solvers._steps import SOLVERS, Prox
from cscjax.solvers._unrolled import (
  initialized_thresholding,
  layered_pursuit,
  multilayer_pursuit,
  unfolded_pursuit,
)

__all__ = [
  "SOLVERS",
  "TEST_PERIOD",
  "Differentiate",
  "MultilayerResult",
  "OMPResult",
  "PolishedCode",
  "Prox",
  "SolverResult",
  "admm",
  "beta_max",
  "duality_gap",
  "fista",
  "initialized_thresholding",
  "ista",
  "layered_bp",
  "layered_pursuit",
  "layered_thresholding",
  "ml_fista",
  "ml_ista",
  "multilayer_pursuit",
  "omp",
  "polished",
  "unfolded_pursuit",
]
