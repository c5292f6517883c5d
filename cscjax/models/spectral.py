"""Steps in units of 1/L, with an L that the power method follows while the filters are trained."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cscjax.dictionaries import ConvDictionary
from cscjax.ops import power_iteration

INITIAL_POWER_ITERATIONS = 50  # from a random vector, when the parameters are made
TRAINING_POWER_ITERATIONS = 2  # in each training step, from the vector that the last one left
STEPS = ("bounded", "free")


def tracked_lipschitz(
  module: nn.Module, dictionary: ConvDictionary, signal_shape: Sequence[int], *, train: bool
) -> jax.Array:
  """An estimate of lambda_max(D^T D), kept with its vector in the module's collection "spectral".

  Each training step goes on with the power method from where the last one stopped, for 2 iterations. No
  gradient flows through it.

  It is not an upper bound: for the filters that it was updated with it is at most lambda_max. It was up
  to 1 % below after the initial 50 iterations, 17 % after SGD steps at rate 0.05, and by a factor of 2.1
  at rate 0.5.
  Without `train` it is not updated: in an evaluation it belongs to the filters before the last step of
  the optimizer. `cscjax.lipschitz` bounds lambda_max from above.

  Args:
    module: In whose compact method this is called, once.
    dictionary: D with the trained filters, in float32 (the estimate's type).
    signal_shape: (..., H, W, C) of the signals; L does not depend on the batch.
    train: Whether to update the estimate (pass mutable=["spectral"]).

  Returns:
    A scalar.
  """
  dictionary = jax.tree.map(lax.stop_gradient, dictionary)
  signal = jax.ShapeDtypeStruct((1, *signal_shape[-dictionary.signal_ndim :]), dictionary.filters.dtype)

  def gram(code):
    return dictionary.analysis(dictionary.synthesis(code, signal.shape))

  def initial():
    code = jax.eval_shape(dictionary.analysis, signal)
    start = jax.random.normal(module.make_rng("params"), code.shape, code.dtype)
    return power_iteration(gram, start, INITIAL_POWER_ITERATIONS)

  state = module.variable("spectral", "state", initial)
  if train and not module.is_initializing():
    start = lax.stop_gradient(state.value[1])
    state.value = power_iteration(gram, start, TRAINING_POWER_ITERATIONS)
  return state.value[0]


def trained_step(
  module: nn.Module,
  dictionary: ConvDictionary,
  signal_shape: Sequence[int],
  *,
  train: bool,
  kind: str = "bounded",
  identity: bool = False,
) -> jax.Array:
  """The step of a module's pursuit, one trained scalar.

  "bounded": 2 sigmoid(k) / L with k trained from 0 (parameter "step_logit"): it starts at 1/L and stays
  below 2/L for the L of `tracked_lipschitz`, which can be below lambda_max(D^T D). "free": the scalar
  itself, from 1 (parameter "step"). When an iteration descends is told at `UnfoldedLayer`.

  Args:
    module: As in `tracked_lipschitz`.
    dictionary: Likewise.
    signal_shape: Likewise.
    train: Likewise.
    kind: One of `STEPS`.
    identity: Whether the pursuit is over [I, D], for which L = 1 + lambda_max(D^T D) (Lemma 2).
  """
  if kind == "free":
    return module.param("step", nn.initializers.ones, ())
  logit = module.param("step_logit", nn.initializers.zeros, ())
  bound = tracked_lipschitz(module, dictionary, signal_shape, train=train) + float(identity)
  return 2 * nn.sigmoid(logit) / jnp.where(bound == 0, 1, bound)
