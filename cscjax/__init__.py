"""Convolutional sparse coding in JAX: what a notebook needs, in one namespace.

The layers below it can be imported alone: `cscjax.ops`, `cscjax.dictionaries`, `cscjax.solvers`,
`cscjax.theory`, `cscjax.learning`, `cscjax.models`, `cscjax.plots`, `cscjax.data`, `cscjax.training`;
each imports only from those before it.
"""

from cscjax.dictionaries import (
  CodedLayer,
  ConvDictionary,
  Dictionary,
  IdentityAugmented,
  MatrixDictionary,
  effective_atoms,
  layer_reconstructions,
  lipschitz,
  mutual_coherence,
  to_matrix,
)
from cscjax.learning import LearningResult, learn_dictionary
from cscjax.ops import (
  hard_threshold,
  nonnegative_soft_threshold,
  soft_threshold,
  tikhonov_lowpass,
)
from cscjax.solvers import (
  MultilayerResult,
  OMPResult,
  PolishedCode,
  SolverResult,
  admm,
  beta_max,
  duality_gap,
  fista,
  ista,
  layered_bp,
  layered_thresholding,
  ml_fista,
  ml_ista,
  omp,
  polished,
  unfolded_pursuit,
)
from cscjax.theory import (
  certify,
  failed_dimensions,
  stripe_sparsity,
  uniqueness_bound,
)

__version__ = "0.2.0"

__all__ = [
  "CodedLayer",
  "ConvDictionary",
  "Dictionary",
  "IdentityAugmented",
  "LearningResult",
  "MatrixDictionary",
  "MultilayerResult",
  "OMPResult",
  "PolishedCode",
  "SolverResult",
  "admm",
  "beta_max",
  "certify",
  "duality_gap",
  "effective_atoms",
  "failed_dimensions",
  "fista",
  "hard_threshold",
  "ista",
  "layer_reconstructions",
  "layered_bp",
  "layered_thresholding",
  "learn_dictionary",
  "lipschitz",
  "ml_fista",
  "ml_ista",
  "mutual_coherence",
  "nonnegative_soft_threshold",
  "omp",
  "polished",
  "soft_threshold",
  "stripe_sparsity",
  "tikhonov_lowpass",
  "to_matrix",
  "unfolded_pursuit",
  "uniqueness_bound",
]
