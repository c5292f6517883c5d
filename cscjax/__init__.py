"""Convolutional sparse coding in JAX: the most used functions and classes in one namespace.

A dictionary D is a `ConvDictionary`, a `MatrixDictionary`, a composition such as a `StackedDictionary`,
or an object of your own that implements the protocol `Dictionary`. Solvers such as `fista`, `admm` and
`layered_bp` compute sparse codes, `learn_dictionary` learns filters, `load_pretrained` loads learned
ones, `load_run` loads a network that you have trained, and `certify` states what the theory guarantees.

>>> import jax.numpy as jnp
>>> import cscjax
>>> D = cscjax.ConvDictionary(jnp.ones((3, 1, 1)))
>>> result = cscjax.fista(D, jnp.ones((10, 1)), beta=0.1, iterations=20)
>>> result.code.shape
(10, 1)

The subpackages can also be imported alone: `cscjax.ops`, `cscjax.metrics`, `cscjax.dictionaries`,
`cscjax.solvers`, `cscjax.theory`, `cscjax.learning`, `cscjax.models`, `cscjax.plots`, `cscjax.data`,
`cscjax.training`, `cscjax.runs` and `cscjax.pretrained`. Each imports only from those before it.
"""

from typing import TYPE_CHECKING, Any

from cscjax import metrics
from cscjax.dictionaries import (
  ChannelwiseDictionary,
  CodedLayer,
  ConvDictionary,
  Dictionary,
  IdentityAugmented,
  MaskedDictionary,
  MatrixDictionary,
  ProductDictionary,
  ScaledDictionary,
  SeparableDictionary,
  StackedDictionary,
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
from cscjax.pretrained import load_pretrained
from cscjax.solvers import (
  BasisPursuitResult,
  IterationStats,
  Lasso,
  MultilayerResult,
  OMPResult,
  PolishedCode,
  SolverResult,
  admm,
  basis_pursuit,
  beta_max,
  duality_gap,
  fista,
  ista,
  layered_bp,
  layered_thresholding,
  ml_bp,
  ml_fista,
  ml_ista,
  ml_projection,
  omp,
  polished,
  relative,
  unfolded_pursuit,
)
from cscjax.theory import (
  certify,
  failed_dimensions,
  stripe_sparsity,
  uniqueness_bound,
)

if TYPE_CHECKING:
  from cscjax.runs import load_run as load_run

__version__ = "0.2.0"

__all__ = [
  "BasisPursuitResult",
  "ChannelwiseDictionary",
  "CodedLayer",
  "ConvDictionary",
  "Dictionary",
  "IdentityAugmented",
  "IterationStats",
  "Lasso",
  "LearningResult",
  "MaskedDictionary",
  "MatrixDictionary",
  "MultilayerResult",
  "OMPResult",
  "PolishedCode",
  "ProductDictionary",
  "ScaledDictionary",
  "SeparableDictionary",
  "SolverResult",
  "StackedDictionary",
  "admm",
  "basis_pursuit",
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
  "load_pretrained",
  "metrics",
  "ml_bp",
  "ml_fista",
  "ml_ista",
  "ml_projection",
  "mutual_coherence",
  "nonnegative_soft_threshold",
  "omp",
  "polished",
  "relative",
  "soft_threshold",
  "stripe_sparsity",
  "tikhonov_lowpass",
  "to_matrix",
  "unfolded_pursuit",
  "uniqueness_bound",
]


def __getattr__(name: str) -> Any:
  if name == "load_run":  # importing the networks and their training takes a second
    from cscjax.runs import load_run

    return load_run
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
