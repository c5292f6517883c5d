"""Batch norm as the networks use it: its bias is the negative threshold (eq. 2)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cscjax import checks
from cscjax.models._batch_norm import batch_norm, normalized
from cscjax.ops import common_float, expand_rank

MOMENTUM = 0.9  # momentum of the running statistics


class Norm(nn.Module):
  """Batch norm with scale and bias, over all axes but the channels.

  The statistics are computed in float32 from differences to a value of the batch, so that two to three
  digits of the result are correct even if the mean is 1e4 standard deviations. In bfloat16 the input
  itself resolves deviations only down to 1/256 of the mean, so the images should be normalized.

  Attributes:
    norm: Whether to normalize; False only adds the bias.
    dtype: Type of the result, None for the type of the input. Statistics and parameters are float32.
  """

  norm: bool = True
  dtype: Any = None

  @nn.compact
  def __call__(self, z: jax.Array, *, train: bool) -> jax.Array:
    """Returns the normalized z.

    Args:
      z: Floating-point array [N, ..., C].
      train: Whether to use the statistics of the batch and to update the running ones in "batch_stats".

    Returns:
      An array of the shape of `z`.
    """
    (apply,) = shared_norms(self, z.shape[-1], 1, norm=self.norm, train=train)
    return apply(z).astype(self.dtype or z.dtype)


def shared_norms(
  module: nn.Module, features: int, count: int, *, norm: bool, train: bool, dtype: Any = float
) -> list[Callable[[jax.Array], jax.Array]]:
  """Returns batch norms N_0, N_1, ... that share scale and bias and keep their own running statistics.

  Args:
    module: The module in whose compact method this function is called, once. It gets the parameters
      "scale" and "bias".
    features: Number of channels.
    count: Number of batch norms.
    norm: Whether to normalize; False returns functions that only add the bias.
    train: Whether to use the statistics of the batch and to update the running ones.
    dtype: Type of scale and bias.

  Returns:
    `count` functions of an array [N, ..., features].
  """
  bias = module.param("bias", nn.initializers.zeros, (features,), dtype)
  if not norm:
    return [lambda z: _sum(z, bias)] * count
  scale = module.param("scale", nn.initializers.ones, (features,), dtype)

  norms = [_BatchNorm(name=f"norm_{index}") for index in range(count)]
  return [partial(norm, scale=scale, bias=bias, train=train) for norm in norms]


class _BatchNorm(nn.Module):
  """Batch norm and its running statistics; scale and bias belong to another module."""

  @nn.compact
  def __call__(self, z: jax.Array, *, scale: jax.Array, bias: jax.Array, train: bool) -> jax.Array:
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
    if not self.is_mutable_collection("batch_stats"):
      call = 'apply(variables, x, train=True, mutable=["batch_stats"])'
      checks.fail("mutable", False, f'["batch_stats"] with train=True, as in {call}')
    result, *of_batch = batch_norm(z, scale, bias)
    for variable, old, new in zip(statistics, (mean, variance), of_batch, strict=True):
      value = MOMENTUM * old + (1 - MOMENTUM) * new
      variable.value = value.reshape(scale.shape[-1:]).astype(variable.value.dtype)
    return result


def _sum(z: jax.Array, bias: jax.Array) -> jax.Array:
  """Returns z + bias in their common type."""
  dtype = common_float(z, bias)
  return z.astype(dtype) + expand_rank(bias.astype(dtype), z.ndim)
