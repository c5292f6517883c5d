"""Functions of arrays on which the dictionaries, solvers and networks are built.

- Convolutions: `conv` and its exact adjoint `conv_adjoint`, and the shapes of their results.
- Proximal operators: `soft_threshold`, `nonnegative_soft_threshold` and `hard_threshold`.
- Largest eigenvalues of linear maps: `power_iteration`, `lanczos_max` and `lanczos_vector`.
- Signals: `tikhonov_lowpass` and `max_pool`.
- Numerics: precision, common types, scaling by powers of two, and arrays on device meshes.
- Classes: `PyTree` is the base class of frozen dataclasses that are pytrees.
- Text: `compact_repr` describes the results of solvers.
"""

from cscjax.ops._conv import analysis_shape, conv, conv_adjoint, synthesis_shape
from cscjax.ops._eigenvalues import lanczos_max, lanczos_vector, power_iteration
from cscjax.ops._geometry import Axis, Padding, as_axes, as_padding, integers_per_axis
from cscjax.ops._lowpass import tikhonov_lowpass
from cscjax.ops._meshes import shard_batch, vary_alike
from cscjax.ops._pooling import max_pool
from cscjax.ops._precision import at_least_float32, common_float, expand_rank, highest_precision
from cscjax.ops._pytree import PyTree
from cscjax.ops._repr import compact_repr
from cscjax.ops._scale import norm, power_of_two, scaled
from cscjax.ops._thresholds import hard_threshold, nonnegative_soft_threshold, soft_threshold

__all__ = [
  "Axis",
  "Padding",
  "PyTree",
  "analysis_shape",
  "as_axes",
  "as_padding",
  "at_least_float32",
  "common_float",
  "compact_repr",
  "conv",
  "conv_adjoint",
  "expand_rank",
  "hard_threshold",
  "highest_precision",
  "integers_per_axis",
  "lanczos_max",
  "lanczos_vector",
  "max_pool",
  "nonnegative_soft_threshold",
  "norm",
  "power_iteration",
  "power_of_two",
  "scaled",
  "shard_batch",
  "soft_threshold",
  "synthesis_shape",
  "tikhonov_lowpass",
  "vary_alike",
]
