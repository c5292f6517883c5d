"""Thresholds: the proximal operators of the penalties that make a code sparse."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax.ops._precision import expand_rank


def soft_threshold(z: ArrayLike, threshold: ArrayLike) -> jax.Array:
  """Soft threshold S_b(z) = sign(z) max(|z| - b, 0): the proximal operator of b ||.||_1.

  Args:
    z: Array of any shape.
    threshold: b >= 0, broadcast against `z`: a scalar, one value a channel, or one a coefficient.

  Returns:
    argmin_g 1/2 (g - z)^2 + b |g|, the shape of `z`.
  """
  z = jnp.asarray(z)
  return jnp.sign(z) * jax.nn.relu(jnp.abs(z) - expand_rank(threshold, z.ndim))


def nonnegative_soft_threshold(z: ArrayLike, threshold: ArrayLike) -> jax.Array:
  """Non-negative soft threshold S_b^+(z) = max(z - b, 0) = ReLU(z - b) (eq. 2).

  Args:
    z: Array of any shape.
    threshold: b, broadcast against `z`. As a proximal operator b >= 0; a network's bias is -b and free.

  Returns:
    argmin_{g >= 0} 1/2 (g - z)^2 + b g, the shape of `z`.
  """
  return jax.nn.relu(jnp.asarray(z) - expand_rank(threshold, jnp.ndim(z)))


def hard_threshold(z: ArrayLike, threshold: ArrayLike) -> jax.Array:
  """Hard threshold: z where |z| > b, else 0; the proximal operator of b^2/2 ||.||_0.

  Args:
    z: Array of any shape.
    threshold: b >= 0, broadcast against `z`.

  Returns:
    argmin_g 1/2 (g - z)^2 + b^2/2 [g != 0], the shape of `z`.
  """
  z = jnp.asarray(z)
  return jnp.where(jnp.abs(z) <= expand_rank(threshold, z.ndim), 0, z)  # NaN stays NaN
