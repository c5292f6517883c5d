"""A network as its layers' dictionaries, signals and codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax import theory
from cscjax.models.ml_csc import MLCSC
from cscjax.models.msd_csc import MSDCSC
from tests.models.networks import initialized

X = np.random.default_rng(0).normal(size=(2, 8, 8, 1))
MODELS = {
  "msd_csc": MSDCSC(num_classes=3, depth=3, width=2, dilations=(1, 2), norm=False),
  "ml_csc": MLCSC(num_classes=3, width=2, norm=False),
}


def _layers(name):
  model, x = MODELS[name], jnp.asarray(X)
  variables = initialized(model, x)
  return model.bind(variables).pursuit_layers(x), variables["params"], x


@pytest.mark.parametrize("name", MODELS)
def test_codes_follow_from_signals(name):
  """Feed-forward without norm: code = relu(D^T signal + bias) in each layer, from what is returned."""
  layers, params, x = _layers(name)
  assert len(layers) == len([key for key in params if key.startswith("layer_")])
  np.testing.assert_array_equal(layers[0][1], x)
  for i, (dictionary, signal, code) in enumerate(layers):
    bias, products = params[f"layer_{i}"]["bias"], dictionary.analysis(signal)
    if name == "msd_csc":
      np.testing.assert_array_equal(code[0], signal)
      code, products = code[1], products[1]
    np.testing.assert_allclose(code, jax.nn.relu(products + bias), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
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
