"""JAX's strict modes, which promote neither ranks nor types: everything runs, with the same values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax import ops
from cscjax.models import MLCSC, MSDCSC, ResCSC

RNG = np.random.default_rng(0)
FILTERS, X = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((3, 3, 1, 4), (2, 8, 8, 1)))
ATOMS, VECTORS = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((6, 10), (4, 6)))
BETAS = np.array([0.1, 0.2, 0.1, 0.3])  # float64, one value per channel
D, DENSE = cscjax.ConvDictionary(FILTERS), cscjax.MatrixDictionary(ATOMS)


def _energy(filters, solver=cscjax.fista, **options):
  return jnp.sum(solver(cscjax.ConvDictionary(filters), X, 0.1, **options).code ** 2)


CALLS = {
  "analysis of integers": lambda: D.analysis(np.arange(64, dtype=np.uint8).reshape(8, 8, 1)),
  "synthesis": lambda: D.synthesis(D.analysis(X)),
  "soft threshold": lambda: ops.soft_threshold(X, jnp.full(1, 0.1)),
  "lowpass": lambda: ops.tikhonov_lowpass(X, 5),
  "ista": lambda: cscjax.ista(D, X, BETAS, iterations=3, init=D.analysis(X)),
  "fista": lambda: cscjax.fista(D, X, BETAS, iterations=3, mask=np.ones((8, 8, 1))),
  "fista to a tolerance": lambda: cscjax.fista(D, np.asarray(X), 0.1, tolerance=1e-2),
  "adaptive": lambda: cscjax.fista(D, X, BETAS, iterations=3, step="adaptive", restart=True),
  "dense": lambda: cscjax.fista(DENSE, VECTORS, 0.1, iterations=3, nonnegative=True),
  "admm": lambda: cscjax.admm(D, X, BETAS, iterations=3),
  "admm of a circular dictionary": lambda: cscjax.admm(
    D.replace(padding="CIRCULAR"), X, 0.1, iterations=3
  ),
  "omp": lambda: cscjax.omp(DENSE, VECTORS, sparsity=3),
  "omp to a tolerance": lambda: cscjax.omp(DENSE, VECTORS, tolerance=0.1),
  "lipschitz": lambda: cscjax.lipschitz(D, (8, 8, 1)),
  "learning": lambda: cscjax.learn_dictionary(X, 0.1, kernel=[(3, 2), (5, 1)], steps=2).objective,
  "gradient, unrolled": lambda: jax.grad(_energy)(FILTERS, iterations=3),
  "gradient, implicit": lambda: jax.grad(_energy)(FILTERS, tolerance=1e-3),
  "gradient of admm": lambda: jax.grad(_energy)(FILTERS, cscjax.admm, iterations=3),
}


def _strict_and_not(call):
  expected = call()
  with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
    got = call()
  assert jax.tree.map(jnp.result_type, got) == jax.tree.map(jnp.result_type, expected)
  jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("name", CALLS)
def test_library(name):
  _strict_and_not(CALLS[name])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  "model",
  [
    lambda dtype: MLCSC(10, unfolding=1, dtype=dtype),
    lambda dtype: MSDCSC(10, depth=2, unfolding=1, dtype=dtype),
    lambda dtype: ResCSC(10, depth=8, dtype=dtype),
  ],
)
def test_networks(model, dtype):
  """Their logits and the gradient of a training step."""
  model = model(dtype)
  x = jnp.asarray(RNG.normal(size=(2, 16, 16, 3)), jnp.float32)
  variables = jax.jit(model.init)(jax.random.key(0), x)

  def loss(params):
    variables_now = {**variables, "params": params}
    logits, _ = model.apply(variables_now, x, train=True, mutable=["batch_stats"])
    return jnp.sum(logits**2)

  _strict_and_not(lambda: jax.jit(lambda p: jax.value_and_grad(loss)(p))(variables["params"]))
