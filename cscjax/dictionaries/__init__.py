"""Dictionaries: linear maps from codes to signals with their adjoints, as pytrees.

`MatrixDictionary` is a dense dictionary, `ConvDictionary` a convolutional one, `SeparableDictionary` one
with separable filters, `IdentityAugmented` the dictionary of a dense connection, and `ComplexDictionary`
a complex one, made of two real ones. `StackedDictionary`, `ProductDictionary`, `ScaledDictionary`,
`MaskedDictionary` and `ChannelwiseDictionary` are composed of others. Other classes can derive from
`AbstractDictionary` or implement the protocol `Dictionary`; `check_conformance` tests them. Functions
compute properties of a dictionary (`lipschitz`, `mutual_coherence`, `atom_norms`, `to_matrix`) and show
the layers of a network in its input domain (`effective_atoms`, `layer_reconstructions`).
"""

from cscjax.dictionaries._abstract import AbstractDictionary, with_methods
from cscjax.dictionaries._channelwise import ChannelwiseDictionary
from cscjax.dictionaries._coded_layers import (
  CodedLayer,
  ScaledFit,
  check_coded_layers,
  effective_atoms,
  layer_reconstructions,
  nonzero_fraction,
  scaled_fit,
)
from cscjax.dictionaries._complex import ComplexDictionary
from cscjax.dictionaries._conformance import check_conformance
from cscjax.dictionaries._conv import ConvDictionary
from cscjax.dictionaries._embedding import CirculantEmbedding
from cscjax.dictionaries._identity import IdentityAugmented
from cscjax.dictionaries._masked import MaskedDictionary
from cscjax.dictionaries._matrix import MatrixDictionary
from cscjax.dictionaries._product import ProductDictionary
from cscjax.dictionaries._properties import (
  atom_norms,
  circulant_embedding,
  lipschitz,
  lipschitz_bound,
  mutual_coherence,
)
from cscjax.dictionaries._protocol import (
  Code,
  Dictionary,
  as_signal,
  check_dictionary,
  check_one_per_dictionary,
  check_signal_shape,
  join,
  split,
  to_matrix,
)
from cscjax.dictionaries._scaled import ScaledDictionary
from cscjax.dictionaries._separable import SeparableDictionary
from cscjax.dictionaries._stacked import StackedDictionary
from cscjax.dictionaries._symbol import symbol_on_grid

__all__ = [
  "AbstractDictionary",
  "ChannelwiseDictionary",
  "CirculantEmbedding",
  "Code",
  "CodedLayer",
  "ComplexDictionary",
  "ConvDictionary",
  "Dictionary",
  "IdentityAugmented",
  "MaskedDictionary",
  "MatrixDictionary",
  "ProductDictionary",
  "ScaledDictionary",
  "ScaledFit",
  "SeparableDictionary",
  "StackedDictionary",
  "as_signal",
  "atom_norms",
  "check_coded_layers",
  "check_conformance",
  "check_dictionary",
  "check_one_per_dictionary",
  "check_signal_shape",
  "circulant_embedding",
  "effective_atoms",
  "join",
  "layer_reconstructions",
  "lipschitz",
  "lipschitz_bound",
  "mutual_coherence",
  "nonzero_fraction",
  "scaled_fit",
  "split",
  "symbol_on_grid",
  "to_matrix",
  "with_methods",
]
