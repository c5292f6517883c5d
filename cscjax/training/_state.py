"""The state of a training run: all that a checkpoint has to hold."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
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


def create_train_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  example_shape: tuple[int, ...],
  key: jax.Array,
) -> TrainState:
  """The state at step 0.

  Args:
    model: Called as model(x, train=...).
    optimizer: Whose state is made.
    example_shape: One example's shape, [H, W, C] or [L, C].
    key: For the parameters.
  """
  variables = jax.jit(model.init)(key, jnp.zeros((1, *example_shape), jnp.float32))
  params = variables.pop("params")
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    variables=variables,
    opt_state=jax.jit(optimizer.init)(params),
    metrics=EpochMetrics.zero(),
    bad_step=jnp.full((), -1, jnp.int32),
  )


def parameter_count(params: Any) -> int:
  """Number of trainable scalars."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
