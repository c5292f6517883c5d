"""Dictionaries: pairs of adjoint maps between signals and codes, as pytrees."""

from cscjax.dictionaries.base import Code, Dictionary, join, mutual_coherence, to_matrix
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
  "join",
  "lipschitz",
  "mutual_coherence",
  "to_matrix",
]
