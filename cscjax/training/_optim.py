"""SGD with momentum and the step schedule of the paper's protocols."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from cscjax import checks

DECAYED = ("filters", "kernel")
"""How the names of the parameters begin that weight decay is for."""


def is_decayed(path: tuple[Any, ...]) -> bool:
  """Whether weight decay is for the parameter at this path of a tree of dicts."""
  # By name: in stacked blocks a bias has two axes as well.
  return path[-1].key.startswith(DECAYED)


def step_schedule(
  learning_rate: float, boundaries: Sequence[int], *, factor: float = 0.1, warmup_steps: int = 0
) -> optax.Schedule:
  """The rate, multiplied by `factor` at each boundary, after a linear warm-up.

  Args:
    learning_rate: > 0, before the first boundary.
    boundaries: Steps at which it falls, rising.
    factor: In (0, 1).
    warmup_steps: Steps over which the rate rises linearly to its first value; 0 for none.

  Returns:
    A function step -> rate.

  Raises:
    ValueError: If an argument is out of range.
  """
  checks.in_range("learning_rate", learning_rate, 0, low_open=True)
  checks.in_range("factor", factor, 0, 1, low_open=True)
  checks.int_at_least("warmup_steps", warmup_steps, 0)
  if list(boundaries) != sorted(set(boundaries)):
    checks.fail("boundaries", list(boundaries), "rising steps")
  falling = optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(boundaries, factor))

  def schedule(step):
    rise = 1.0 if warmup_steps == 0 else jax.numpy.minimum(1.0, (step + 1) / warmup_steps)
    with jax.numpy_dtype_promotion("standard"):  # Optax's own
      return falling(step) * rise

  return schedule


def sgd(
  schedule: optax.Schedule, *, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
) -> optax.GradientTransformation:
  """SGD with momentum; weight decay is L2, added to the gradient, and of filters and kernels alone.

  Args:
    schedule: Step -> learning rate.
    momentum: In [0, 1).
    nesterov: Whether the momentum is Nesterov's.
    weight_decay: >= 0, of the parameters named in `DECAYED`: no biases, scales or solver steps.

  Raises:
    ValueError: If an argument is out of range.
  """
  checks.in_range("momentum", momentum, 0, 1)
  checks.in_range("weight_decay", weight_decay, 0)

  def is_kernel(params):
    return jax.tree.map_with_path(lambda path, _: is_decayed(path), params)

  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask=is_kernel),
    optax.sgd(schedule, momentum=momentum, nesterov=nesterov),
  )
