"""The end of each network: global average pooling and a linear classifier."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cscjax.ops import at_least_float32


def classify(x: jax.Array, num_classes: int, *, zeros: int = 0) -> jax.Array:
  """Returns the logits of a linear classifier of each channel's mean.

  Args:
    x: The last code, [N, H, W, C] or [N, L, C].
    num_classes: Number of classes.
    zeros: Number of leading channels that are zero, for which the classifier has no weights.

  Returns:
    The logits [N, num_classes] in float32 or wider. The weights are the parameters "classifier" of the
    module in whose compact method this function is called, once.
  """
  means = jnp.mean(x.astype(at_least_float32(x.dtype)), axis=tuple(range(1, x.ndim - 1)))
  with jax.numpy_dtype_promotion("standard"):  # Flax promotes the float32 parameters
    return nn.Dense(num_classes, name="classifier")(means[:, zeros:])
