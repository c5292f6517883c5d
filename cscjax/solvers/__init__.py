"""Pursuits: pure functions from a dictionary and a signal to a sparse code.

Solvers compute float32 products and convolutions at the highest precision, see
`cscjax.ops.highest_precision`. What networks are made of keeps the setting of JAX:
`initialized_thresholding`, `layered_pursuit`, `multilayer_pursuit` and `unfolded_pursuit`.
"""

from cscjax.solvers.admm import admm
from cscjax.solvers.certificates import beta_max, duality_gap
from cscjax.solvers.implicit import PolishedCode, polished
from cscjax.solvers.iterate import SolverResult
from cscjax.solvers.layered import layered_thresholding
from cscjax.solvers.multilayer import layered_pursuit, multilayer_pursuit
from cscjax.solvers.multilayer_bp import MultilayerResult, layered_bp, ml_fista, ml_ista
from cscjax.solvers.omp import OMPResult, omp
from cscjax.solvers.proximal_gradient import fista, ista
from cscjax.solvers.residual import initialized_thresholding
from cscjax.solvers.unfolded import unfolded_pursuit

__all__ = [
  "MultilayerResult",
  "OMPResult",
  "PolishedCode",
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
