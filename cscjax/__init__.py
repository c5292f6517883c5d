"""Convolutional sparse coding in JAX: what a notebook needs, in one namespace.

The layers below it can be imported alone: `cscjax.ops`, `cscjax.dictionaries`, `cscjax.solvers`,
`cscjax.models`, `cscjax.data`, `cscjax.training`; each imports only from those before it.
"""

from cscjax.dictionaries import (
  ConvDictionary,
  Dictionary,
  IdentityAugmented,
  MatrixDictionary,
  lipschitz,
  mutual_coherence,
  to_matrix,
)
from cscjax.ops import hard_threshold, nonnegative_soft_threshold, soft_threshold
from cscjax.solvers import (
  MultilayerResult,
  SolverResult,
  fista,
  ista,
  layered_bp,
  layered_thresholding,
  ml_fista,
  ml_ista,
  unfolded_pursuit,
)

__all__ = [
  "ConvDictionary",
  "Dictionary",
  "IdentityAugmented",
  "MatrixDictionary",
  "MultilayerResult",
  "SolverResult",
  "fista",
  "hard_threshold",
  "ista",
  "layered_bp",
  "layered_thresholding",
  "lipschitz",
  "ml_fista",
  "ml_ista",
  "mutual_coherence",
  "nonnegative_soft_threshold",
  "soft_threshold",
  "to_matrix",
  "unfolded_pursuit",
]
