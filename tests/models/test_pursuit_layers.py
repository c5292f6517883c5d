"""The dictionaries, signals and codes of the layers that `pursuit_layers` returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax import theory
from cscjax.models._ml_csc import MLCSC
from cscjax.models._msd_csc import MSDCSC
from cscjax.models._res_csc import ResCSC
from cscjax.models._res_csc_block import RULES, shortcut
from tests.models.networks import initialized

X = np.random.default_rng(0).normal(size=(2, 8, 8, 1))
MODELS = {
  "msd_csc": MSDCSC(num_classes=3, depth=3, width=2, dilations=(1, 2), norm=False),
  "ml_csc": MLCSC(num_classes=3, width=2, norm=False),
  "res_csc": ResCSC(num_classes=3, depth=8, width=2, norm=False),
}
BLOCKS = (("stage_0", 0), ("stage_0", 1), "transition_1", ("stage_1", 0), "transition_2", ("stage_2", 0))


def _layers(name):
  model, x = MODELS[name], jnp.asarray(X)
  variables = initialized(model, x)
  return model.bind(variables).pursuit_layers(x), variables["params"], x


@pytest.mark.slow
@pytest.mark.parametrize("name", ["msd_csc", "ml_csc"])
def test_codes_follow_from_signals(name):
  """Without unfolding and norm, code = relu(D^T signal + bias) holds in each returned layer."""
  layers, params, x = _layers(name)
  assert len(layers) == len([key for key in params if key.startswith("layer_")])
  np.testing.assert_array_equal(layers[0][1], x)
  for i, (dictionary, signal, code) in enumerate(layers):
    bias, products = params[f"layer_{i}"]["bias"], dictionary.analysis(signal)
    if name == "msd_csc":
      np.testing.assert_array_equal(code[0], signal)
      code, products = code[1], products[1]
    np.testing.assert_allclose(code, jax.nn.relu(products + bias), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_codes_of_blocks_follow_from_signals(rule):
  """Checks both layers of every block, in a scan or not, against the parameters in the tree."""
  keep, correct = RULES[rule]
  c = -0.1 if correct else None
  model, x = ResCSC(num_classes=3, depth=14, width=2, rule=rule, c=c, norm=False), jnp.asarray(X)
  variables = initialized(model, x)
  params = variables["params"]
  (d, signal, code), *layers = jax.jit(lambda v: model.bind(v).pursuit_layers(x))(variables)
  np.testing.assert_array_equal(signal, x)
  np.testing.assert_allclose(code, jax.nn.relu(d.analysis(x) + params["norm"]["bias"]), atol=1e-5)
  for place, inner, outer in zip(BLOCKS, layers[::2], layers[1::2], strict=True):
    stride = 2 if isinstance(place, str) else 1
    block = params[place] if stride == 2 else jax.tree.map(lambda a, p=place: a[p[1]], params[place[0]])
    skip, (d1, signal, middle) = shortcut(code, inner[2].shape[-1], stride), inner
    np.testing.assert_array_equal(signal, code)
    np.testing.assert_array_equal(d1.filters, block["filters_1"])
    products = d1.analysis(signal) + block["norm_1"]["bias"]
    np.testing.assert_allclose(middle, jax.nn.relu(products), atol=1e-5)
    d2, signal, code = outer
    np.testing.assert_array_equal(signal, middle)
    np.testing.assert_array_equal(d2.filters, block["filters_2"])
    point = signal + c * d2.synthesis(skip) if correct else signal
    products = d2.analysis(point) + block["norm_2"]["bias"]
    np.testing.assert_allclose(code, jax.nn.relu(products + keep * skip), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["msd_csc", "ml_csc", pytest.param("res_csc", marks=pytest.mark.slow)])
def test_is_certified(name):
  layers, _, x = _layers(name)
  model = MODELS[name].bind(initialized(MODELS[name], x))
  assert isinstance(model, theory.Pursuable)
  certificate = theory.certify(model, x, 0.0)
  assert len(certificate.rows) == len(layers)
  for row, (dictionary, signal, code) in zip(certificate.rows, layers, strict=True):
    shape = signal.shape[1:]
    assert row.sparsity == np.max(theory.stripe_sparsity(dictionary, code, shape))
    assert 0 < row.coherence <= 1 + 1e-6
