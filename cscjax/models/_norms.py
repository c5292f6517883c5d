"""Batch norm as the models use it: its bias is the negative threshold (eq. 2)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cscjax.models._batch_norm import batch_norm, normalized
from cscjax.ops import common_float, expand_rank

MOMENTUM = 0.9  # of the running statistics


class Norm(nn.Module):
  """Batch norm with scale and bias, over all axes but the channels.

  The statistics are computed in float32 from differences to a value of the batch: a mean of 1e4
  deviations leaves two to three digits of the result. In bfloat16 the values themselves keep a deviation
  only down to 1/256 of the mean, so inputs have to be normalised.

  Attributes:
    norm: False leaves the bias alone.
    dtype: Of the result; statistics and parameters are float32.
  """

  norm: bool = True
  dtype: Any = None

  @nn.compact
  def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
    """The normalised z; with `train` by the batch's statistics, and "batch_stats" is updated."""
    (apply,) = shared_norms(self, z.shape[-1], 1, norm=self.norm, train=train)
    return apply(z).astype(self.dtype or z.dtype)


def shared_norms(
  module: nn.Module, features: int, count: int, *, norm: bool, train: bool
) -> list[Callable[[jax.Array], jax.Array]]:
  """N_0, N_1, ...: one scale and one bias, and running statistics for each.

  Args:
    module: In whose compact method this is called, once; it gets the parameters "scale" and "bias".
    features: Channels.
    count: How many.
    norm: Whether there is a batch norm; else each is z + bias.
    train: Whether to use and collect the batch's statistics.
  """
  bias = module.param("bias", nn.initializers.zeros, (features,))
  if not norm:
    return [lambda z: _sum(z, bias)] * count
  scale = module.param("scale", nn.initializers.ones, (features,))

  norms = [_BatchNorm(name=f"norm_{index}") for index in range(count)]
  return [partial(norm, scale=scale, bias=bias, train=train) for norm in norms]


class _BatchNorm(nn.Module):
  """Batch norm and its running statistics; scale and bias belong to another module."""

  @nn.compact
  def __call__(self, z, *, scale, bias, train):
    statistics = [
      self.variable("batch_stats", "mean", jnp.zeros, scale.shape, jnp.float32),
      self.variable("batch_stats", "var", jnp.ones, scale.shape, jnp.float32),
    ]
    dtype = common_float(z, scale)
    z, scale, bias, mean, variance = (
      expand_rank(a.astype(dtype), z.ndim)
      for a in (z, scale, bias, *(variable.value for variable in statistics))
    )
    if not train or self.is_initializing():
      return normalized(z, mean, variance, scale, bias)
    result, *of_batch = batch_norm(z, scale, bias)
    for variable, old, new in zip(statistics, (mean, variance), of_batch, strict=True):
      value = MOMENTUM * old + (1 - MOMENTUM) * new
      variable.value = value.reshape(scale.shape[-1:]).astype(variable.value.dtype)
    return result


def _sum(z, bias):
  """z + bias in their common type."""
  dtype = common_float(z, bias)
  return z.astype(dtype) + expand_rank(bias.astype(dtype), z.ndim)
