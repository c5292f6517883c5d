"""Thresholds, convolution and its adjoint, and the power method: plain functions over arrays."""

from cscjax.ops.conv import Padding, analysis_shape, conv, conv_adjoint, synthesis_shape
from cscjax.ops.power import power_iteration
from cscjax.ops.thresholds import hard_threshold, nonnegative_soft_threshold, soft_threshold

__all__ = [
  "Padding",
  "analysis_shape",
  "conv",
  "conv_adjoint",
  "hard_threshold",
  "nonnegative_soft_threshold",
  "power_iteration",
  "soft_threshold",
  "synthesis_shape",
]
