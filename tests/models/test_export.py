"""The networks can be exported for batches of any size, with their loops and for a GPU too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from cscjax.models import create_model

NETWORKS = {
  "msd_csc": {"depth": 2, "width": 4, "unfolding": 2, "solver": "fista", "pursuit": "multilayer"},
  "ml_csc": {"width": 2, "unfolding": 1},
  "res_csc": {"depth": 20, "width": 4},
}


@pytest.mark.parametrize(
  "name", ["ml_csc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("msd_csc", "res_csc"))]
)
def test_any_number_of_images(name):
  model = create_model(name, num_classes=3, **NETWORKS[name])
  x = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
  variables = jax.jit(model.init)(jax.random.key(0), x)
  network = jax.jit(lambda x: model.apply(variables, x))
  (n,) = export.symbolic_shape("n")
  any_number = jax.ShapeDtypeStruct((n, *x.shape[1:]), jnp.float32)
  exported = export.export(network, platforms=["cpu", "cuda"])(any_number)
  np.testing.assert_allclose(exported.call(x), network(x), rtol=1e-4, atol=1e-5)
