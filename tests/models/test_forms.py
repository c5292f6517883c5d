"""The forms of a network for different devices compute the same results."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax.models import create_model, describe
from tests.models import networks

BLOCKS: dict[str, Any] = {"name": "res_csc", "depth": 14, "width": 2}  # 2, 1 and 1 blocks in the stages
MORE_BLOCKS: dict[str, Any] = BLOCKS | {"depth": 20}  # 3, 2 and 2
LAYERS: dict[str, Any] = {"name": "msd_csc", "depth": 2, "width": 4, "unfolding": 2}
FORMS = {  # fields of a network, and the fields that change its form
  "no loop": (BLOCKS | {"name": "resnet"}, {"unroll": 100}),
  "padded": (LAYERS, {"channel_multiple": 8}),
  "no loop, remat": (BLOCKS, {"unroll": 2, "remat": "all"}),
  "two blocks per iteration": (MORE_BLOCKS, {"unroll": 2}),
  "padded, multilayer": (
    LAYERS | {"depth": 3, "pursuit": "multilayer", "solver": "fista"},
    {"channel_multiple": 4},
  ),
}
STEPS = 4


def curve(model, variables, x):
  """Returns the losses of a few gradient steps, the last logits and codes, and the final variables."""

  @jax.jit
  def step(variables):
    state = {"batch_stats": variables["batch_stats"]}

    def loss(params):
      outputs, updates = model.apply(
        {"params": params, **state}, x, train=True, return_codes=True, mutable=list(state)
      )
      return jnp.sum(jnp.square(outputs[0] - 1)), (outputs, updates)

    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    params = jax.tree.map(lambda p, g: p - 1e-3 * g, variables["params"], gradient)
    return value, aux[0], {"params": params, **aux[1]}

  losses, outputs = [], None
  for _ in range(STEPS):
    value, outputs, variables = step(variables)
    losses.append(float(value))
  return losses, outputs, variables


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_training_and_codes_are_the_same(x64, form):
  fields, other = FORMS[form]
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 3)))
  models = [create_model(**f, num_classes=3, dtype=jnp.float64) for f in (fields, fields | other)]
  trees = [jax.eval_shape(model.init, jax.random.key(0), x) for model in models]
  assert trees[0] == trees[1]  # the variables of one form fit the other
  variables = networks.initialized(models[0], x)
  expected, found = (curve(model, variables, x) for model in models)
  assert expected[0][-1] < 0.99 * expected[0][0]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "elementwise"])
def test_without_loops_a_barrier_protects_the_recomputation(remat):
  """Without a loop, an optimization barrier must separate the recomputation from the forward pass."""
  scanned, unrolled = (
    networks.gradient_for_a_gpu(create_model(**MORE_BLOCKS, num_classes=3, remat=remat, unroll=unroll))
    for unroll in (1, 3)
  )
  assert "stablehlo.while" in scanned
  assert "stablehlo.while" not in unrolled
  assert ("optimization_barrier" in unrolled) == (remat == "elementwise")


@pytest.mark.parametrize("channels", [3, 8])
def test_the_dense_signal_has_a_multiple_of_channels(channels):
  fields: dict[str, Any] = LAYERS | {"width": 8}
  model = create_model(**fields, num_classes=3, channel_multiple=8)
  x = jnp.zeros((1, 8, 8, channels))
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  filters = [e.invars[1].aval.shape for e in networks.convolutions(model.apply, variables, x)]
  assert {shape[-2:] for shape in filters} == {(8, 8), (16, 8)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_summary_does_not_depend_on_the_padding(dtype):
  plain, padded = (
    describe(create_model(**LAYERS, num_classes=3, dtype=dtype, channel_multiple=multiple), (8, 8, 3))
    for multiple in (1, 8)
  )
  assert len(plain) == 3
  assert padded == plain
