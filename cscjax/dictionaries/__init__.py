"""Dictionaries: pairs of adjoint maps between signals and codes, as pytrees."""

from cscjax.dictionaries.base import Code, Dictionary, join, to_matrix
from cscjax.dictionaries.coherence import atom_norms, mutual_coherence
from cscjax.dictionaries.conv import ConvDictionary
from cscjax.dictionaries.effective import (
  Layer,
  ScaledFit,
  effective_atoms,
  layer_reconstructions,
  new_code,
  nonzero_share,
  scaled_fit,
)
from cscjax.dictionaries.identity import IdentityAugmented
from cscjax.dictionaries.lipschitz import lipschitz
from cscjax.dictionaries.matrix import MatrixDictionary
from cscjax.dictionaries.symbol import lipschitz_bound

__all__ = [
  "Code",
  "ConvDictionary",
  "Dictionary",
  "IdentityAugmented",
  "Layer",
  "MatrixDictionary",
  "ScaledFit",
  "atom_norms",
  "effective_atoms",
  "join",
  "layer_reconstructions",
  "lipschitz",
  "lipschitz_bound",
  "mutual_coherence",
  "new_code",
  "nonzero_share",
  "scaled_fit",
  "to_matrix",
]
