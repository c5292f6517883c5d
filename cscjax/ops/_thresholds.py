"""Thresholds: proximal operators of the penalties that make a code sparse."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.ops._precision import expand_rank


def soft_threshold(z: ArrayLike, threshold: ArrayLike) -> jax.Array:
  """Applies the soft threshold `S_b(z) = sign(z) max(|z| - b, 0)`.

  It is the proximal operator of `b ||.||_1`: the result minimizes `1/2 (g - z)^2 + b |g|` over g.

  Args:
    z: Array of any shape.
    threshold: The threshold b >= 0: a scalar, one value per channel, or one per coefficient. It
      broadcasts against `z`.

  Returns:
    An array of the shape of `z`.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> ops.soft_threshold(jnp.array([-3.0, 0.5, 2.0]), 1.0).tolist()
    [-2.0, 0.0, 1.0]
  """
  z = jnp.asarray(z)
  threshold = expand_rank(threshold, z.ndim)
  # In a sum of the result, XLA's CPU backend would store max(|z| - b, 0), sign(z) and the broadcast 0.
  return jnp.where(jnp.abs(z) <= threshold, 0, z - jnp.sign(z) * threshold)  # this order keeps NaN


def nonnegative_soft_threshold(z: ArrayLike, threshold: ArrayLike) -> jax.Array:
  """Applies the nonnegative soft threshold `S_b^+(z) = max(z - b, 0) = ReLU(z - b)` (eq. 2).

  The result minimizes `1/2 (g - z)^2 + b g` over g >= 0.

  Args:
    z: Array of real numbers, of any shape.
    threshold: The threshold b: a scalar, one value per channel, or one per coefficient. It broadcasts
      against `z`. A sparsity penalty has b >= 0; the bias -b of a network can have either sign.

  Returns:
    An array of the shape of `z`.

  Raises:
    ValueError: If `z` is not an array of real numbers.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> ops.nonnegative_soft_threshold(jnp.array([-3.0, 0.5, 2.0]), 1.0).tolist()
    [0.0, 0.0, 1.0]
  """
  z = checks.real_array("z", z)
  return jax.nn.relu(z - expand_rank(threshold, z.ndim))


def hard_threshold(z: ArrayLike, threshold: ArrayLike) -> jax.Array:
  """Applies the hard threshold: z where |z| > b, else zero.

  It is the proximal operator of `b^2/2 ||.||_0`: the result minimizes `1/2 (g - z)^2 + b^2/2 [g != 0]`.

  Args:
    z: Array of any shape.
    threshold: The threshold b >= 0: a scalar, one value per channel, or one per coefficient. It
      broadcasts against `z`.

  Returns:
    An array of the shape of `z`. NaN stays NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> ops.hard_threshold(jnp.array([-3.0, 0.5, 2.0]), 1.0).tolist()
    [-3.0, 0.0, 2.0]
  """
  z = jnp.asarray(z)
  return jnp.where(jnp.abs(z) <= expand_rank(threshold, z.ndim), 0, z)  # this order keeps NaN
