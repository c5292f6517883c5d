"""Dictionaries: pairs of adjoint maps between signals and codes, as pytrees."""

from cscjax.dictionaries.base import Code, Dictionary, join, to_matrix
from cscjax.dictionaries.coherence import atom_norms, mutual_coherence
from cscjax.dictionaries.conv import ConvDictionary
from cscjax.dictionaries.identity import IdentityAugmented
from cscjax.dictionaries.lipschitz import lipschitz
from cscjax.dictionaries.matrix import MatrixDictionary

__all__ = [
  "Code",
  "ConvDictionary",
  "Dictionary",
  "IdentityAugmented",
  "MatrixDictionary",
  "atom_norms",
  "join",
  "lipschitz",
  "mutual_coherence",
  "to_matrix",
]
