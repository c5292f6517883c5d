"""Rematerialization changes the memory of a training step and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax.models import create_model
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
