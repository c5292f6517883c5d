"""The state of a training run, which is what a checkpoint holds."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

LAST_STEP = 2**31 - 1  # steps are int32


class EpochMetrics(struct.PyTreeNode):
  """Sums of loss and correct classifications over examples, such as those of the current epoch.

  Attributes:
    loss: Sum of the losses of the examples, float32.
    correct: Number of examples that were classified correctly, float32.
    count: Number of examples, float32.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import training
    >>> sums = training.EpochMetrics(jnp.float32(2), jnp.float32(3), jnp.float32(4))
    >>> sums.means()
    {'loss': 0.5, 'accuracy': 0.75}
  """

  loss: jax.Array
  correct: jax.Array
  count: jax.Array

  @classmethod
  def zero(cls) -> "EpochMetrics":
    """Returns the sums over no examples.

    Returns:
      The sums, all zero.
    """
    return cls(*(jnp.zeros((), jnp.float32) for _ in range(3)))

  def means(self) -> dict[str, float]:
    """Returns the mean loss and the accuracy.

    Returns:
      A dict of the floats "loss" and "accuracy" (0 to 1); both are 0 if there are no examples.
    """
    loss, correct, count = (float(v) for v in (self.loss, self.correct, self.count))
    count = max(count, 1.0)
    return {"loss": loss / count, "accuracy": correct / count}


class TrainState(struct.PyTreeNode):
  """The state of a training run between two steps.

  Attributes:
    step: Number of completed steps, int32.
    params: Trainable parameters.
    variables: The other collections of the model, such as its running statistics.
    opt_state: State of the optimizer.
    metrics: Sums over the examples of the current epoch, so that a resumed epoch reports all of them.
    bad_step: The first step whose loss or new parameters were not finite, int32; -1 if there is none.

  Example:
    >>> import jax
    >>> from cscjax import training
    >>> from cscjax.models import create_model
    >>> schedule = training.step_schedule(0.1, [])
    >>> model = create_model("msdnet", num_classes=2, depth=1, width=2)
    >>> trainer = training.Trainer(model, training.sgd(schedule), schedule, batch_size=4)
    >>> state = trainer.create_state((4, 4, 1), jax.random.key(0))
    >>> int(state.step), int(state.bad_step), sorted(state.variables)
    (0, -1, ['batch_stats'])
  """

  step: jax.Array
  params: Any
  variables: Any
  opt_state: Any
  metrics: EpochMetrics
  bad_step: jax.Array


def parameter_count(params: Any) -> int:
  """Returns the number of trainable scalars.

  Args:
    params: A tree of arrays, or of shapes from `jax.eval_shape`.

  Returns:
    The number of entries of all arrays together.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from cscjax import models, training
    >>> model = models.create_model("resnet", num_classes=10, depth=20)
    >>> x = jnp.zeros((1, 32, 32, 3))
    >>> training.parameter_count(jax.eval_shape(model.init, jax.random.key(0), x)["params"])
    269722
  """
  return sum(leaf.size for leaf in jax.tree.leaves(params))
