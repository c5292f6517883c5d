"""Batch norm as the models use it: its bias is the negative threshold (eq. 2)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from cscjax.ops import common_float, expand_rank

MOMENTUM = 0.9  # of the running statistics


class Norm(nn.Module):
  """Batch norm with scale and bias, over all axes but the channels.

  The variance is the mean of (z - mean)^2, in float32: a mean of 1e4 deviations leaves two to three
  digits of the result. In bfloat16 the values themselves keep a deviation only down to 1/256 of the
  mean, so inputs have to be normalised.

  Attributes:
    norm: False leaves the bias alone.
    dtype: Of the result; statistics and parameters are float32.
    axis_name: Mapped axis over whose devices batch statistics are taken; None: each device's own.
  """

  norm: bool = True
  dtype: Any = None
  axis_name: str | None = None

  @nn.compact
  def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
    """The normalised z; with `train` by the batch's statistics, and "batch_stats" is updated."""
    (apply,) = shared_norms(self, z.shape[-1], 1, norm=self.norm, axis_name=self.axis_name, train=train)
    return apply(z).astype(self.dtype or z.dtype)


def shared_norms(
  module: nn.Module, features: int, count: int, *, norm: bool, axis_name: str | None, train: bool
) -> list[Callable[[jax.Array], jax.Array]]:
  """N_0, N_1, ...: one scale and one bias, and running statistics for each.

  Args:
    module: In whose compact method this is called, once; it gets the parameters "scale" and "bias".
    features: Channels.
    count: How many.
    norm: Whether there is a batch norm; else each is z + bias.
    axis_name: As in `Norm`.
    train: Whether to use and collect the batch's statistics.
  """
  bias = module.param("bias", nn.initializers.zeros, (features,))
  if not norm:
    return [lambda z: _sum(z, bias)] * count
  scale = module.param("scale", nn.initializers.ones, (features,))

  def make(index):
    standardize = nn.BatchNorm(
      use_running_average=not train,
      momentum=MOMENTUM,
      use_scale=False,
      use_bias=False,
      use_fast_variance=False,  # E[z^2] - E[z]^2 has no correct digit where the mean is large
      axis_name=axis_name,
      name=f"norm_{index}",
    )

    def apply(z):
      with jax.numpy_dtype_promotion("standard"):  # Flax's own: statistics are float32
        z = standardize(z)
      z = z.astype(common_float(z, scale))
      return _sum(z * expand_rank(scale.astype(z.dtype), z.ndim), bias)

    return apply

  return [make(index) for index in range(count)]


def _sum(z, bias):
  """z + bias in their common type."""
  dtype = common_float(z, bias)
  return z.astype(dtype) + expand_rank(bias.astype(dtype), z.ndim)
