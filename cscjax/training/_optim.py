"""SGD with momentum, and a learning rate that falls in steps, as in the paper's experiments."""

from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax.typing import ArrayLike

from cscjax import checks

DECAYED = ("filters", "kernel")
"""Prefixes of the names of the parameters to which weight decay applies."""


def is_decayed(path: tuple[Any, ...]) -> bool:
  """Returns whether weight decay applies to the parameter at this path of a tree of dicts."""
  # Names decide, because the biases of stacked blocks have two axes as well.
  return path[-1].key.startswith(DECAYED)


def step_schedule(
  learning_rate: float, boundaries: Sequence[int], *, factor: float = 0.1, warmup_steps: int = 0
) -> optax.Schedule:
  """Returns a learning rate that is multiplied by `factor` at each boundary, after a linear warm-up.

  Args:
    learning_rate: Learning rate before the first boundary, > 0.
    boundaries: Steps at which the rate falls, strictly increasing.
    factor: Factor by which the rate falls at each boundary, in (0, 1).
    warmup_steps: Number of steps over which the rate rises linearly to `learning_rate`; 0 for no
      warm-up.

  Returns:
    The schedule, a function from the step to the learning rate.

  Raises:
    ValueError: If an argument is out of range.

  Example:
    >>> from cscjax import training
    >>> schedule = training.step_schedule(0.1, [100, 150], warmup_steps=5)
    >>> [round(float(schedule(step)), 4) for step in (0, 4, 99, 100, 150)]
    [0.02, 0.1, 0.1, 0.01, 0.001]
  """
  checks.in_range("learning_rate", learning_rate, 0, low_open=True)
  checks.in_range("factor", factor, 0, 1, low_open=True)
  checks.int_at_least("warmup_steps", warmup_steps, 0)
  if list(boundaries) != sorted(set(boundaries)):
    checks.fail("boundaries", list(boundaries), "strictly increasing steps")
  falling = optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(boundaries, factor))

  def schedule(step: ArrayLike) -> Any:
    rise = 1.0 if warmup_steps == 0 else jax.numpy.minimum(1.0, (step + 1) / warmup_steps)
    with jax.numpy_dtype_promotion("standard"):  # Optax promotes the types of step and rate
      return falling(step) * rise

  return schedule


def sgd(
  schedule: optax.Schedule, *, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
) -> optax.GradientTransformation:
  """Returns SGD with momentum and weight decay of the filters and kernels.

  The weight decay is L2 regularization: `weight_decay` times the parameter is added to its gradient.

  Args:
    schedule: Learning rate as a function of the step, such as `step_schedule`.
    momentum: Momentum, in [0, 1).
    nesterov: Whether to use Nesterov momentum.
    weight_decay: Weight decay, >= 0. It applies to the parameters whose names begin with "filters" or
      "kernel" (`DECAYED`), and not to biases, scales or the steps of solvers.

  Returns:
    The optimizer.

  Raises:
    ValueError: If an argument is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from cscjax import training
    >>> optimizer = training.sgd(training.step_schedule(0.1, []), weight_decay=0.5)
    >>> params = {"filters": jnp.ones(1), "bias": jnp.ones(1)}
    >>> gradient = {"filters": jnp.zeros(1), "bias": jnp.zeros(1)}
    >>> updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    >>> new = optax.apply_updates(params, updates)
    >>> round(float(new["filters"][0]), 3), round(float(new["bias"][0]), 3)
    (0.95, 1.0)
  """
  checks.in_range("momentum", momentum, 0, 1)
  checks.in_range("weight_decay", weight_decay, 0)

  def is_kernel(params: Any) -> Any:
    return jax.tree.map_with_path(lambda path, _: is_decayed(path), params)

  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask=is_kernel),
    optax.sgd(schedule, momentum=momentum, nesterov=nesterov),
  )
