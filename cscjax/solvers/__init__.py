"""Sparse coding algorithms: pure functions from a dictionary and a signal to a sparse code.

- One layer: `ista`, `fista` and `admm` solve the Lasso, min 1/2 ||x - D code||^2 + beta ||code||_1;
  `beta_max`, `duality_gap` and `polished` bound, certify and refine its solutions, and `relative` gives
  the penalty as a fraction of `beta_max`. `basis_pursuit` finds the penalty from the norm of the noise.
  `omp` selects atoms greedily. The classes `ISTA`, `FISTA` and `ADMM` solve a problem, a `Lasso`, step
  by step; `Solver` is their base class. `WorkingSet` solves it by coordinate descent, for dense
  dictionaries of which a code uses few atoms.
- Several layers: `layered_thresholding` and `layered_bp` encode one layer after the other; `ml_bp`
  solves the multi-layer basis pursuit, `ml_ista` and `ml_fista` end near its solution, and
  `ml_projection` selects atoms greedily.
- Networks: `unfolded_pursuit`, `initialized_thresholding`, `layered_pursuit` and `multilayer_pursuit`
  unfold (also called unroll) the iterations, with a proximal operator of its own for each.

The solvers compute float32 products and convolutions at the highest precision, see
`cscjax.ops.highest_precision`. The functions for networks follow `jax.default_matmul_precision`.

Memory: a solver needs a few arrays of the size of the code, and a few of the size of the signal. On a
CPU, the synthesis of up to 8 channels works on tiles of the code. For an image of 4096x4096 and 32 atoms
of 8x8, whose code has 2 GiB, XLA plans 3.2 times the size of the code for `fista` with `iterations=`,
4.4 times for `admm` with `iterations=`, and 5.4 times for both with `tolerance=`. This includes the
results: the code and the state are two (`admm`) or three codes (`fista`). With many channels, `admm`
needs more: it stores the inverse of a matrix of size min(C, m) for each frequency, for C channels and m
atoms. Use `fista` for a long recording with tens of channels. Under `jax.jit`, a function that returns
only `result.code` does not store the state.
"""

from cscjax.solvers._arguments import iteration_limit
from cscjax.solvers._callbacks import (
  TEST_PERIOD,
  Callback,
  IterationStats,
  as_callbacks,
  report,
)
from cscjax.solvers._lasso._admm import ADMM, ADMMState, admm
from cscjax.solvers._lasso._basis_pursuit import BasisPursuitResult, basis_pursuit
from cscjax.solvers._lasso._certificates import beta_max, duality_gap
from cscjax.solvers._lasso._fista import fista, ista
from cscjax.solvers._lasso._implicit import PolishedCode, polished
from cscjax.solvers._lasso._iterate import Differentiate, SolverResult
from cscjax.solvers._lasso._omp import OMPResult, omp
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._proximal_gradient import FISTA, ISTA, FISTAState, ISTAState
from cscjax.solvers._lasso._signals import as_mask
from cscjax.solvers._lasso._solver import Solver
from cscjax.solvers._lasso._working_set import WorkingSet, WorkingSetState
from cscjax.solvers._multilayer._layered import layered_bp, layered_thresholding
from cscjax.solvers._multilayer._ml_bp import ml_bp
from cscjax.solvers._multilayer._ml_ista import ml_fista, ml_ista
from cscjax.solvers._multilayer._projection import ml_projection
from cscjax.solvers._multilayer._result import MultilayerResult
from cscjax.solvers._penalty import RelativePenalty, relative
from cscjax.solvers._steps import SOLVERS, Prox, momentum_weights
from cscjax.solvers._unrolled import (
  initialized_thresholding,
  layered_pursuit,
  multilayer_pursuit,
  unfolded_pursuit,
)
from cscjax.solvers._warnings import looks_like_an_image, warn_about_integers

__all__ = [
  "ADMM",
  "FISTA",
  "ISTA",
  "SOLVERS",
  "TEST_PERIOD",
  "ADMMState",
  "BasisPursuitResult",
  "Callback",
  "Differentiate",
  "FISTAState",
  "ISTAState",
  "IterationStats",
  "Lasso",
  "MultilayerResult",
  "OMPResult",
  "PolishedCode",
  "Prox",
  "RelativePenalty",
  "Solver",
  "SolverResult",
  "WorkingSet",
  "WorkingSetState",
  "admm",
  "as_callbacks",
  "as_mask",
  "basis_pursuit",
  "beta_max",
  "duality_gap",
  "fista",
  "initialized_thresholding",
  "ista",
  "iteration_limit",
  "layered_bp",
  "layered_pursuit",
  "layered_thresholding",
  "looks_like_an_image",
  "ml_bp",
  "ml_fista",
  "ml_ista",
  "ml_projection",
  "momentum_weights",
  "multilayer_pursuit",
  "omp",
  "polished",
  "relative",
  "report",
  "unfolded_pursuit",
  "warn_about_integers",
]
