"""Trained step sizes of a pursuit, in units of 1/L with an upper bound L from the current filters."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

STEPS = ("bounded", "free")
"""How the step of a network's pursuit is trained, see `trained_step`."""


def trained_step(
  module: nn.Module, bound: jax.Array, *, kind: str = "bounded", dtype: Any = float
) -> jax.Array:
  """Returns the step size of a module's pursuit, which is one trained scalar.

  With "bounded" the step is 2 sigmoid(k) / L, and k is trained from 0 (parameter "step_logit"): the step
  starts at 1/L and stays below 2/L. With "free" the step itself is trained, from 1 (parameter "step").
  `UnfoldedLayer` says under which conditions an iteration lowers the objective.

  Args:
    module: The module in whose compact method this function is called, once.
    bound: L, an upper bound of lambda_max(D^T D) from `lipschitz_bound`. It is 0 if all atoms are zero,
      and is then replaced by 1.
    kind: "bounded" or "free".
    dtype: Type of the parameter.

  Returns:
    The step, a scalar.
  """
  if kind == "free":
    return module.param("step", nn.initializers.ones, (), dtype)
  return bounded_step(module.param("step_logit", nn.initializers.zeros, (), dtype), bound)


def bounded_step(logit: jax.Array, bound: jax.Array) -> jax.Array:
  """Returns 2 sigmoid(logit) / bound, or 2 sigmoid(logit) if the bound is 0."""
  return 2 * nn.sigmoid(logit.astype(bound.dtype)) / jnp.where(bound == 0, 1, bound)
