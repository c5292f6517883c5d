"""When an unfolding descends, and the cases in which it need not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.models import CSCLayer

SHAPE = (8, 8, 3)


def _problem(seed, *, norm, factor=1.0):
  """(signals, variables with the step factor / L, D, L), L = lambda_max(D^T D) in float64."""
  x = jax.random.normal(jax.random.key(100 + seed), (4, *SHAPE))
  layer = CSCLayer(width=8, unfolding=3, norm=norm, step="free")
  variables = jax.jit(layer.init)(jax.random.key(seed), x)
  dictionary = cscjax.ConvDictionary(variables["params"]["filters"])
  largest = np.linalg.norm(np.float64(cscjax.to_matrix(dictionary, SHAPE)), 2) ** 2
  variables["params"]["step"] = jnp.asarray(factor / largest, jnp.float32)
  return x, variables, dictionary, largest


def _codes(x, variables, count, **fields):
  """After 0, 1, ... unfoldings of one layer."""
  layers = [CSCLayer(width=8, unfolding=k, step="free", **fields) for k in range(count)]
  apply = [layer.apply(variables, x, train=True, mutable=["batch_stats"])[0] for layer in layers]
  return [np.asarray(code, np.float64) for code in apply]


def _data_term(dictionary, code, x):
  return 0.5 * float(jnp.sum(jnp.square(dictionary.residual(jnp.asarray(code, x.dtype), x))))


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.95])
def test_ista_without_batch_norm_descends_below_two_over_l(factor):
  """On the data term and its linear penalty, also where a bias is positive."""
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


def test_with_batch_norm_an_unfolding_at_one_over_l_need_not_descend():
  """The norm scales the code anew: the data term grew for most of these."""
  grew = []
  for seed in range(5):
    x, variables, dictionary, _ = _problem(seed, norm=True)
    first, second = (_data_term(dictionary, code, x) for code in _codes(x, variables, 2, norm=True))
    grew.append(second > 1.01 * first)
  assert any(grew)


def test_fista_need_not_descend():
  """At 1/L: a code that is nearly the solution is carried past it by the extrapolation."""
  x, variables, dictionary, _ = _problem(0, norm=False)
  objective = lambda code: _data_term(dictionary, code, x)  # noqa: E731 - no bias, so no penalty
  values = [objective(code) for code in _codes(x, variables, 60, norm=False, solver="fista")]
  assert np.any(np.diff(values) > 0)


def test_a_tracked_constant_is_below_the_true_one_after_fast_updates():
  """SGD at a large rate: from below at the filters of each update, and by more than 10 % for some."""
  layer, x = CSCLayer(width=8, unfolding=1), jax.random.normal(jax.random.key(0), (4, *SHAPE))
  variables = layer.init(jax.random.key(0), x)
  params = variables.pop("params")
  weights = jax.random.normal(jax.random.key(1), (4, 8, 8, 8))

  @jax.jit
  def update(params, variables):
    def loss(params):
      code, new = layer.apply({"params": params, **variables}, x, train=True, mutable=list(variables))
      return jnp.mean(weights * code), new

    gradient, new = jax.grad(loss, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - 50 * g, params, gradient), new

  ratios = []
  for _ in range(5):
    dictionary = cscjax.ConvDictionary(params["filters"])
    params, variables = update(params, variables)
    tracked = float(variables["spectral"]["state"][0])
    ratios.append(np.linalg.norm(np.float64(cscjax.to_matrix(dictionary, SHAPE)), 2) ** 2 / tracked)
  assert min(ratios) > 1 - 1e-5
  assert max(ratios) > 1.1
