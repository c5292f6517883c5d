"""Convolutional dictionary learning: `learn_dictionary` finds filters for sparse codes."""

from cscjax.learning._dictionary_learning import LearningResult, LearningState, learn_dictionary
from cscjax.learning._rank1 import Rank1Factors, rank1_factors

__all__ = ["LearningResult", "LearningState", "Rank1Factors", "learn_dictionary", "rank1_factors"]
