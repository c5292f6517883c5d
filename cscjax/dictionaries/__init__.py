"""Dictionaries: pairs of adjoint maps between signals and codes, as pytrees."""

from cscjax.dictionaries._base import (
  Code,
  Dictionary,
  check_dictionary,
  check_signal_shape,
  floating_type,
  join,
  split,
  to_matrix,
)
from cscjax.dictionaries._coherence import atom_norms, mutual_coherence
from cscjax.dictionaries._conv import ConvDictionary
from cscjax.dictionaries._effective import (
  CodedLayer,
  ScaledFit,
  check_coded_layers,
  effective_atoms,
  layer_reconstructions,
  nonzero_fraction,
  scaled_fit,
)
from cscjax.dictionaries._frame import canvas, frame_inverse, squared_atom_norm
from cscjax.dictionaries._identity import IdentityAugmented
from cscjax.dictionaries._lipschitz import lipschitz
from cscjax.dictionaries._matrix import MatrixDictionary
from cscjax.dictionaries._symbol import lipschitz_bound, symbol_on_grid

__all__ = [
  "Code",
  "CodedLayer",
  "ConvDictionary",
  "Dictionary",
  "IdentityAugmented",
  "MatrixDictionary",
  "ScaledFit",
  "atom_norms",
  "canvas",
  "check_coded_layers",
  "check_dictionary",
  "check_signal_shape",
  "effective_atoms",
  "floating_type",
  "frame_inverse",
  "join",
  "layer_reconstructions",
  "lipschitz",
  "lipschitz_bound",
  "mutual_coherence",
  "nonzero_fraction",
  "scaled_fit",
  "split",
  "squared_atom_norm",
  "symbol_on_grid",
  "to_matrix",
]
