"""Thresholds, convolution and its adjoint, largest eigenvalues: plain functions over arrays."""

from cscjax.ops.conv import analysis_shape, conv, conv_adjoint, synthesis_shape
from cscjax.ops.geometry import Padding, as_padding, as_steps
from cscjax.ops.lanczos import lanczos_max, lanczos_vector
from cscjax.ops.lowpass import tikhonov_lowpass
from cscjax.ops.pooling import max_pool
from cscjax.ops.power import power_iteration
from cscjax.ops.precision import highest_precision
from cscjax.ops.promotion import at_least_float32, common_float, expand_rank
from cscjax.ops.scale import norm, power_of_two, scaled
from cscjax.ops.thresholds import hard_threshold, nonnegative_soft_threshold, soft_threshold

__all__ = [
  "Padding",
  "analysis_shape",
  "as_padding",
  "as_steps",
  "at_least_float32",
  "common_float",
  "conv",
  "conv_adjoint",
  "expand_rank",
  "hard_threshold",
  "highest_precision",
  "lanczos_max",
  "lanczos_vector",
  "max_pool",
  "nonnegative_soft_threshold",
  "norm",
  "power_iteration",
  "power_of_two",
  "scaled",
  "soft_threshold",
  "synthesis_shape",
  "tikhonov_lowpass",
]
