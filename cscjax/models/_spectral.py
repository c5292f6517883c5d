"""Steps in units of 1/L, with an upper bound L from the filters as they are."""

import flax.linen as nn
import jax
import jax.numpy as jnp

STEPS = ("bounded", "free")


def trained_step(module: nn.Module, bound: jax.Array, *, kind: str = "bounded") -> jax.Array:
  """The step of a module's pursuit, one trained scalar.

  "bounded": 2 sigmoid(k) / L with k trained from 0 (parameter "step_logit"): it starts at 1/L and stays
  below 2/L. "free": the scalar itself, from 1 (parameter "step"). `UnfoldedLayer` says when an
  iteration descends.

  Args:
    module: The module in whose compact method this is called, once.
    bound: L, an upper bound of lambda_max(D^T D) from `lipschitz_bound`; 0 stands for a dictionary of
      zeros, and is taken as 1.
    kind: One of `STEPS`.

  Returns:
    A scalar.
  """
  if kind == "free":
    return module.param("step", nn.initializers.ones, ())
  logit = module.param("step_logit", nn.initializers.zeros, ())
  return 2 * nn.sigmoid(logit) / jnp.where(bound == 0, 1, bound)
