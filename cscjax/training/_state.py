"""The state of a training run: all that a checkpoint has to hold."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


class EpochMetrics(struct.PyTreeNode):
  """Sums over the training examples seen since the epoch began.

  Attributes:
    loss: float32, sum of the examples' losses.
    correct: float32, how many were classified correctly.
    count: float32, how many there were.
  """

  loss: jax.Array
  correct: jax.Array
  count: jax.Array

  @classmethod
  def zero(cls) -> "EpochMetrics":
    """Nothing seen yet."""
    return cls(*(jnp.zeros((), jnp.float32) for _ in range(3)))

  def means(self) -> dict[str, float]:
    """Mean loss and accuracy (0..1) on the host."""
    loss, correct, count = (float(v) for v in (self.loss, self.correct, self.count))
    count = max(count, 1.0)
    return {"loss": loss / count, "accuracy": correct / count}


class TrainState(struct.PyTreeNode):
  """State between two steps.

  Attributes:
    step: int32, steps done.
    params: Trainable parameters.
    variables: The model's other collections: running statistics.
    opt_state: Of the optimizer.
    metrics: Sums of the current epoch, so that a resumed epoch reports all of it.
    bad_step: int32, the first step whose loss, or whose new parameters, were not finite, -1 while there
      is none.
  """

  step: jax.Array
  params: Any
  variables: Any
  opt_state: Any
  metrics: EpochMetrics
  bad_step: jax.Array


def parameter_count(params: Any) -> int:
  """Number of trainable scalars."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
