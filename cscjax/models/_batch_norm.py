"""Batch normalization whose statistics and gradient each take one pass over the batch."""

import jax
import jax.numpy as jnp
from jax import lax

EPSILON = 1e-5  # added to the variance

_Three = tuple[jax.Array, jax.Array, jax.Array]


@jax.custom_jvp
def batch_norm(z: jax.Array, scale: jax.Array, bias: jax.Array) -> _Three:
  """Computes scale (z - mean) / sqrt(variance + EPSILON) + bias with the statistics of the batch.

  The derivative is written by hand. Its transpose, the gradient, needs two sums over the batch, and
  these are also the gradients with respect to bias and scale. Automatic differentiation needs five sums,
  three of which depend on one another.

  Args:
    z: Floating-point array [N, ..., C].
    scale: Array [1, ..., 1, C] of the same type as `z`.
    bias: Array of the same shape and type as `scale`.

  Returns:
    The result, the mean and the variance. The mean and the variance have the shape of `scale`.
  """
  mean, variance = _moments(z)
  return normalized(z, mean, variance, scale, bias), mean, variance


@batch_norm.defjvp
def _batch_norm_jvp(primals: _Three, tangents: _Three) -> tuple[_Three, _Three]:
  (z, scale, _), (dz, dscale, dbias) = primals, tangents
  results = _, mean, variance = batch_norm(*primals)
  inverse = lax.rsqrt(variance + EPSILON)
  standard = (z - mean) * inverse
  dmean, covariance = _means(dz, standard * dz)
  factor = scale * inverse
  # The per-channel values are broadcast in two stages, so that the transpose sums in two stages too, as
  # `_means` does.
  slope_and_offset = jnp.stack([dscale - factor * covariance, dbias - factor * dmean])
  slope, offset = jnp.broadcast_to(slope_and_offset, (2, z.shape[0], *scale.shape[1:]))
  return results, (factor * dz + standard * slope + offset, dmean, 2 * covariance / inverse)


def normalized(
  z: jax.Array, mean: jax.Array, variance: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
  """Returns scale (z - mean) / sqrt(variance + EPSILON) + bias; all but `z` are [1, ..., 1, C]."""
  return (z - mean) * (scale * lax.rsqrt(variance + EPSILON)) + bias


def _moments(z: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the mean and the variance, both computed from sums of z - pivot.

  The pivot is the first value of each channel, which lies within a few standard deviations of the mean.
  The relative rounding error of the variance grows with the square of this distance. Zero, as the pivot,
  can be so far from the mean that no digit of E[z^2] - E[z]^2 is correct.
  """
  pivot = z[(slice(1),) * (z.ndim - 1)]
  shifted = z - pivot
  mean, square = _means(shifted, shifted * shifted)
  variance = jnp.maximum(square - mean * mean, 0)
  # The two are added as vectors: when the batch is sharded over devices, XLA also shards the pivot along
  # the batch axis, although its size is 1 there. It would then shard every array that is computed from
  # the pivot elementwise, and communicate each time.
  mean = (mean.ravel() + pivot.ravel()).reshape(mean.shape)
  return mean, variance


def _means(*arrays: jax.Array) -> jax.Array:
  """Returns the means over all axes but the channels, stacked: [number of arrays, 1, ..., 1, C].

  The mean is taken over the positions of each example first, then over the examples of all arrays at
  once. On a GPU each of these stages is one kernel; a single stage would be split into two kernels for
  each array.
  """
  positions = tuple(range(1, arrays[0].ndim - 1))
  by_example = jnp.stack([jnp.mean(array, axis=positions, keepdims=True) for array in arrays])
  return jnp.mean(by_example, axis=1, keepdims=True)
