"""Batch normalization whose statistics and gradient take one pass over the batch each."""

import jax
import jax.numpy as jnp
from jax import lax

EPSILON = 1e-5  # added to the variance


@jax.custom_jvp
def batch_norm(
  z: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes scale (z - mean) / sqrt(variance + EPSILON) + bias with the statistics of the batch.

  The derivative is written out. Its transpose, the gradient, needs two sums over the batch, which are at
  the same time the gradients by bias and scale; automatic differentiation needs five, and three of them
  wait for one another.

  Args:
    z: Floating-point array [N, ..., C].
    scale: [1, ..., 1, C], of the type of `z`.
    bias: As `scale`.

  Returns:
    The result, the mean and the variance; these two have the shape of `scale`.
  """
  mean, variance = _moments(z)
  return normalized(z, mean, variance, scale, bias), mean, variance


@batch_norm.defjvp
def _batch_norm_jvp(primals, tangents):
  (z, scale, _), (dz, dscale, dbias) = primals, tangents
  results = _, mean, variance = batch_norm(*primals)
  inverse = lax.rsqrt(variance + EPSILON)
  standard = (z - mean) * inverse
  dmean, covariance = _means(dz, standard * dz)
  factor = scale * inverse
  # Of each channel, and broadcast in two stages: the transpose sums as `_means` does.
  slope_and_offset = jnp.stack([dscale - factor * covariance, dbias - factor * dmean])
  slope, offset = jnp.broadcast_to(slope_and_offset, (2, z.shape[0], *scale.shape[1:]))
  return results, (factor * dz + standard * slope + offset, dmean, 2 * covariance / inverse)


def normalized(
  z: jax.Array, mean: jax.Array, variance: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
  """scale (z - mean) / sqrt(variance + EPSILON) + bias; all but `z` are [1, ..., 1, C]."""
  return (z - mean) * (scale * lax.rsqrt(variance + EPSILON)) + bias


def _moments(z):
  """Mean and variance, both from sums of z - pivot.

  The pivot is the first value of each channel. It is a few deviations from the mean, of which rounding
  takes the square; 0 can be so many away that no digit of E[z^2] - E[z]^2 is correct.
  """
  pivot = z[(slice(1),) * (z.ndim - 1)]
  shifted = z - pivot
  mean, square = _means(shifted, shifted * shifted)
  variance = jnp.maximum(square - mean * mean, 0)
  # They are added as vectors. Where the batch is split over devices XLA takes the pivot, of size 1 along
  # it, for split too; so would be all that is computed from it elementwise, and exchanged each time.
  mean = (mean.ravel() + pivot.ravel()).reshape(mean.shape)
  return mean, variance


def _means(*arrays):
  """Means over all axes but the channels, [1, ..., 1, C] each, stacked.

  They are taken over the positions of each example, then over the examples of all arrays at once: on a
  GPU each stage is one kernel, and one stage alone would be split into two for each array.
  """
  positions = tuple(range(1, arrays[0].ndim - 1))
  by_example = jnp.stack([jnp.mean(array, axis=positions, keepdims=True) for array in arrays])
  return jnp.mean(by_example, axis=1, keepdims=True)
