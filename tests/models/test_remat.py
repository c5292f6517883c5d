"""Rematerialization changes the memory of a training step and nothing else."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax.models import MLCSC, MSDCSC, CSCLayer, MSDCSCLayer, ResCSC, ResCSCBlock, create_model
from cscjax.models._remat import REMAT
from tests.models import networks

NETWORKS = {
  "res_csc": ("res_csc", {"depth": 20, "width": 4}),
  "plain": ("plain", {"depth": 20, "width": 4}),
  "msd_csc": ("msd_csc", {"depth": 4, "width": 4, "unfolding": 2, "solver": "fista"}),
  "multilayer": ("msd_csc", {"depth": 3, "width": 4, "unfolding": 1, "pursuit": "multilayer"}),
}


def steps(name):
  """Returns the compiled gradient of a network for each choice of `remat`, and its arguments."""
  name, fields = NETWORKS[name]
  dtype = jnp.float64
  models = {r: create_model(name, num_classes=3, dtype=dtype, remat=r, **fields) for r in REMAT}
  x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 3)))
  variables = networks.initialized(models["none"], x)
  params, state = variables.pop("params"), variables

  def step(model):
    def loss(params, x):
      logits, updates = model.apply({"params": params, **state}, x, train=True, mutable=list(state))
      return jnp.sum(jnp.sin(logits)), updates

    return jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params, x).compile()

  return {remat: step(model) for remat, model in models.items()}, (params, x)


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("name", NETWORKS)
def test_results_stay_and_the_memory_of_scanned_blocks_shrinks(x64, name):
  compiled, arguments = steps(name)
  results = [jax.tree.leaves(step(*arguments)) for step in compiled.values()]
  for first, *others in zip(*results, strict=True):
    for other in others:
      np.testing.assert_allclose(other, first, rtol=1e-8, atol=1e-11)
  if name in ("res_csc", "plain"):
    memory = {remat: step.memory_analysis().temp_size_in_bytes for remat, step in compiled.items()}
    assert memory["all"] < memory["elementwise"] < memory["none"]


LAYERS = {
  CSCLayer: {"width": 4, "unfolding": 1},
  MSDCSCLayer: {"width": 4, "unfolding": 1, "signed": 3},
  ResCSCBlock: {"features": 4},
}
SWITCHED = {
  **LAYERS,
  MLCSC: {"num_classes": 2},
  MSDCSC: {"num_classes": 2, "depth": 2, "width": 2},
  ResCSC: {"num_classes": 2, "depth": 8, "width": 4},
}


@pytest.mark.parametrize(
  "layer",
  [
    pytest.param(CSCLayer, id="CSCLayer"),
    pytest.param(MSDCSCLayer, id="MSDCSCLayer", marks=pytest.mark.slow),
    pytest.param(ResCSCBlock, id="ResCSCBlock", marks=pytest.mark.slow),
  ],
)
def test_a_layer_in_nn_remat_computes_the_same(x64, layer):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 3)))
  plain = layer(**LAYERS[layer], dtype=jnp.float64)
  again = nn.remat(layer, static_argnums=(2,))(**LAYERS[layer], dtype=jnp.float64)
  variables = networks.initialized(plain, x)

  def loss(params, module):
    code, updates = module.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
    return sum(jnp.sum(jnp.sin(part)) for part in jax.tree.leaves(code)), updates

  expected, got = (
    jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)(variables["params"], module)
    for module in (plain, again)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), got, expected)


@pytest.mark.parametrize("module", [pytest.param(module, id=module.__name__) for module in SWITCHED])
def test_a_traced_switch_is_an_error_that_says_what_to_do(module):
  x, key = jnp.ones((1, 8, 8, 3)), jax.random.key(0)
  message = (
    r"^train: expected True or False; pass it by position with static_argnums=\(2,\) under nn.remat"
  )
  with pytest.raises(ValueError, match=message):
    nn.remat(module)(**SWITCHED[module]).init(key, x, train=False)
  with pytest.raises(ValueError, match=r"static_argnames=.train. under jax.jit, got "):
    jax.eval_shape(module(**SWITCHED[module]).init, key, x, train=False)
  with pytest.raises(ValueError, match=r"^train: expected True or False, got 'no'"):
    module(**SWITCHED[module]).init(key, x, train="no")
  if module not in LAYERS:
    with pytest.raises(ValueError, match=r"^return_codes: .* static_argnums=\(3,\)"):
      nn.remat(module, static_argnums=(2,))(**SWITCHED[module]).init(key, x, False, return_codes=True)
    whole = nn.remat(module, static_argnums=(2, 3))(**SWITCHED[module])
    logits, codes = jax.eval_shape(lambda: whole.init_with_output(key, x, False, True)[0])
    assert logits.shape == (1, 2)
    assert codes
