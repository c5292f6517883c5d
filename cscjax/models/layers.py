"""The MSD-CSC layer: it declares filters, thresholds and the step, and calls a pursuit."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cscjax.dictionaries import ConvDictionary, IdentityAugmented
from cscjax.ops import power_iteration
from cscjax.solvers import unfolded_pursuit

INITIAL_POWER_ITERATIONS = 50  # from a random vector, when the parameters are made
TRAINING_POWER_ITERATIONS = 2  # in each training step, from the vector that the last one left


class MSDCSCLayer(nn.Module):
  """Codes its input over D = [I, F^T] by layered thresholding and `unfolding` further iterations.

      start           a = x,  z = relu(N_0(F x))
      each unfolding  r = a + F^T z - x,  z <- relu(N_k(z - step F r)),  a <- a - step r

  `a` is clipped at 0 but for its first `signed` channels. N_k is batch norm whose bias is the negative
  threshold (eq. 2); all N_k share scale and bias, so that parameters do not grow with the unfolding,
  and keep their own running statistics. Unfolding 0 is a layer of the MSDNet (Proposition 1).

  The step is 2 sigmoid(k) / L with k trained from 0, below 2/L, so that every unfolding descends.
  L = 1 + lambda_max(F F^T) (Lemma 2) is followed by the power method, which goes on in each training
  step from where the last one stopped (collection "spectral"); no gradient flows through it.

  Attributes:
    width: New channels w.
    dilation: Of the 3-tap filters F.
    unfolding: Iterations after the first one, >= 0.
    solver: "ista" or "fista"; the same up to unfolding 1.
    signed: Leading channels of the input that are no codes (the image's own).
    step: "bounded" as above, or "free": a trained scalar from 1, for comparison.
    norm: False replaces batch norm by a bias.
    dtype: Of the convolutions; parameters, statistics and L are float32.
    axis_name: Mapped axis over whose devices batch statistics are taken; None: each device's own.
  """

  width: int
  dilation: int = 1
  unfolding: int = 0
  solver: str = "ista"
  signed: int = 0
  step: str = "bounded"
  norm: bool = True
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Returns the code ([..., H, W, C], [..., H, W, w]) of x [N, H, W, C] or [N, L, C].

    With `train` batch statistics are those of the batch, and "batch_stats" and "spectral" are updated.
    """
    rank = x.ndim - 2
    shape = (3,) * rank + (x.shape[-1], self.width)
    filters = self.param("filters", nn.initializers.he_normal(), shape)
    scale = self.param("scale", nn.initializers.ones, (self.width,)) if self.norm else 1
    bias = self.param("bias", nn.initializers.zeros, (self.width,))

    def new_code(z, index):
      if self.norm:
        z = nn.BatchNorm(
          use_running_average=not train,
          momentum=0.9,
          use_scale=False,
          use_bias=False,
          axis_name=self.axis_name,
          name=f"norm_{index}",
        )(z)
      return nn.relu(z * scale + bias).astype(self.dtype)

    def kept_code(a):
      is_code = jnp.arange(a.shape[-1]) >= self.signed
      return jnp.where(is_code, nn.relu(a), a)

    def first(code):
      return code[0], new_code(code[1], 0)  # x is clipped already

    def later(index):
      return lambda code: (kept_code(code[0]), new_code(code[1], index))

    conv = ConvDictionary(filters.astype(self.dtype), dilation=self.dilation)
    return unfolded_pursuit(
      IdentityAugmented(conv),
      x.astype(self.dtype),
      [first, *(later(k + 1) for k in range(self.unfolding))],
      step=self._step(conv.replace(filters=filters), x.shape, train) if self.unfolding else 0,
      accelerate=self.solver == "fista",
    )

  def _step(self, conv: ConvDictionary, shape: tuple[int, ...], train: bool) -> jax.Array:
    """The step as a scalar of the compute type."""
    if self.step == "free":
      return self.param("step", nn.initializers.ones, ()).astype(self.dtype)
    logit = self.param("step_logit", nn.initializers.zeros, ())
    conv = conv.replace(filters=lax.stop_gradient(conv.filters))
    code_shape = (1, *shape[1:-1], self.width)  # L does not depend on the batch

    def gram(z):
      return conv.analysis(conv.synthesis(z))

    def initial():
      start = jax.random.normal(self.make_rng("params"), code_shape)
      return power_iteration(gram, start, INITIAL_POWER_ITERATIONS)

    state = self.variable("spectral", "state", initial)
    if train and not self.is_initializing():
      start = lax.stop_gradient(state.value[1])
      state.value = power_iteration(gram, start, TRAINING_POWER_ITERATIONS)
    lipschitz = 1 + state.value[0]
    return (2 * nn.sigmoid(logit) / lipschitz).astype(self.dtype)
