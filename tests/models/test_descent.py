"""When an iteration of a layer decreases the objective, and when it need not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.models import CSCLayer, MSDCSCLayer

SHAPE = (8, 8, 3)


def _problem(seed, *, norm, factor=1.0):
  """Returns signals, variables with the step factor / L, D, and L = lambda_max(D^T D) in float64."""
  x = jax.random.normal(jax.random.key(100 + seed), (4, *SHAPE))
  layer = CSCLayer(width=8, unfolding=3, norm=norm, step="free")
  variables = jax.jit(layer.init)(jax.random.key(seed), x)
  dictionary = cscjax.ConvDictionary(variables["params"]["filters"])
  largest = np.linalg.norm(np.float64(cscjax.to_matrix(dictionary, SHAPE)), 2) ** 2
  variables["params"]["step"] = jnp.asarray(factor / largest, jnp.float32)
  return x, variables, dictionary, largest


def _codes(x, variables, count, **fields):
  """Returns the codes of a layer with unfolding 0, 1, ..., count - 1."""
  layers = [CSCLayer(width=8, unfolding=k, step="free", **fields) for k in range(count)]
  apply = [layer.apply(variables, x, train=True, mutable=["batch_stats"])[0] for layer in layers]
  return [np.asarray(code, np.float64) for code in apply]


def _data_term(dictionary, code, x):
  return 0.5 * float(jnp.sum(jnp.square(dictionary.residual(jnp.asarray(code, x.dtype), x))))


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.95])
def test_ista_without_batch_norm_descends_below_two_over_l(factor):
  """The objective is the data term plus a linear penalty, also if a bias is positive."""
  for seed in range(3):
    x, variables, dictionary, largest = _problem(seed, norm=False, factor=factor)
    bias = np.linspace(-0.5, 0.05, 8)
    variables["params"]["bias"] = jnp.asarray(bias, jnp.float32)
    beta = -bias * largest / factor
    values = [
      _data_term(dictionary, code, x) + np.sum(beta * code)
      for code in _codes(x, variables, 6, norm=False)
    ]
    assert np.all(np.diff(values) <= 1e-6 * np.abs(values[0]))
    assert values[-1] < 0.9 * values[0]


@pytest.mark.slow
def test_with_batch_norm_an_unfolding_at_one_over_l_need_not_descend():
  """The batch norm rescales the code, which can increase the data term."""
  grew = []
  for seed in range(5):
    x, variables, dictionary, _ = _problem(seed, norm=True)
    first, second = (_data_term(dictionary, code, x) for code in _codes(x, variables, 2, norm=True))
    grew.append(second > 1.01 * first)
  assert any(grew)


@pytest.mark.slow
def test_fista_need_not_descend():
  """Even with the step 1/L, the extrapolation overshoots a code that is nearly the solution."""
  x, variables, dictionary, _ = _problem(0, norm=False)
  objective = lambda code: _data_term(dictionary, code, x)  # noqa: E731 - no bias, so no penalty
  values = [objective(code) for code in _codes(x, variables, 60, norm=False, solver="fista")]
  assert np.any(np.diff(values) > 0)


@pytest.mark.parametrize(
  "layer",
  [
    pytest.param(CSCLayer(8, 1), marks=pytest.mark.slow),
    pytest.param(CSCLayer(8, 1, stride=2), marks=pytest.mark.slow),
    MSDCSCLayer(8, 1),
  ],
)
def test_the_bound_holds_while_filters_change_fast(layer):
  """Each SGD step, on a rescaled gradient, changes the filters by half their norm."""
  x = jax.random.normal(jax.random.key(0), (4, *SHAPE))
  variables = jax.jit(layer.init)(jax.random.key(0), x)
  output = jax.tree.leaves(jax.eval_shape(layer.apply, variables, x))[-1]
  weights = jax.random.normal(jax.random.key(1), output.shape)

  @jax.jit
  def update(variables):
    def loss(filters):
      params = {**variables["params"], "filters": filters}
      code, _ = layer.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
      return jnp.mean(weights * jax.tree.leaves(code)[-1])

    filters = variables["params"]["filters"]
    gradient = jax.grad(loss)(filters)
    scaled = gradient * (jnp.linalg.norm(filters) / jnp.linalg.norm(gradient))
    return {**variables, "params": {**variables["params"], "filters": filters - 0.5 * scaled}}

  def problem(variables):
    return layer.apply(variables, x.shape, method=lambda module, shape: module.problem(shape))

  for _ in range(6):
    found = problem(variables)
    largest = np.linalg.norm(np.float64(cscjax.to_matrix(found.dictionary, SHAPE)), 2) ** 2
    assert largest <= 1 / found.step <= 1.3 * largest
    variables = update(variables)


def test_the_default_step_always_descends():
  """ISTA without batch norm decreases the objective, even if training brought the step close to 2/L."""

  @jax.jit
  def codes(params, x):
    layers = [CSCLayer(width=8, unfolding=k, norm=False) for k in range(6)]
    return [layer.apply({"params": params}, x) for layer in layers]

  for seed, logit in [(0, 0.0), (1, 8.0), (2, 8.0)]:
    x, variables, dictionary, _ = _problem(seed, norm=False)
    params = {name: variables["params"][name] for name in ("filters", "bias")}
    found = codes({**params, "step_logit": jnp.asarray(logit)}, x)
    values = [_data_term(dictionary, code, x) for code in found]  # no bias, so no penalty
    assert np.all(np.diff(values) <= 1e-6 * values[0])
    assert values[-1] < 0.9 * values[0]
