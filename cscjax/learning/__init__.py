"""Convolutional dictionary learning: `learn_dictionary` finds filters for sparse codes."""

from cscjax.learning._dictionary_learning import LearningResult, LearningState, learn_dictionary

__all__ = ["LearningResult", "LearningState", "learn_dictionary"]
