"""Convolutional dictionary learning: `learn_dictionary` finds filters for sparse codes.

`DictionaryLearner` does the same step by step, for minibatches that are read one at a time.
"""

from cscjax.learning._dictionary_learning import learn_dictionary
from cscjax.learning._learner import DictionaryLearner
from cscjax.learning._loop import LearningResult
from cscjax.learning._rank1 import Rank1Factors, rank1_factors
from cscjax.learning._steps import LearningState

__all__ = [
  "DictionaryLearner",
  "LearningResult",
  "LearningState",
  "Rank1Factors",
  "learn_dictionary",
  "rank1_factors",
]
