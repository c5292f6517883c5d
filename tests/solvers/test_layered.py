"""Tests of layered thresholding against networks written with explicit matrices."""

import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from tests import references
from tests.solvers.problems import flat_batch

BATCH = 2


def _network(layers, spatial, channels):
  """Returns dictionaries and dense matrices of layers (kernel, m, geometry) for [*spatial, channels]."""
  rng = np.random.default_rng(0)
  dictionaries, matrices = [], []
  for kernel, m, geometry in layers:
    filters = rng.normal(size=(*kernel, channels, m)) / np.sqrt(np.prod(kernel) * channels)
    dictionaries.append(cscjax.ConvDictionary(jnp.asarray(filters), **geometry))
    matrices.append(references.conv_matrix(filters, spatial, **geometry))
    spatial, channels = references.code_spatial(filters, spatial, **geometry), m
  return dictionaries, matrices


LAYERS = [
  ((3, 3), 3, {"padding": "SAME", "stride": 2}),
  ((2, 2), 4, {"padding": "CIRCULAR", "dilation": 2}),
  ((2, 3), 2, {"padding": "VALID"}),
]


@pytest.mark.parametrize("nonnegative", [True, False])
def test_plain_network(x64, nonnegative):
  """With steps of 1, it is relu(W x + b) in each layer, with filters D_i and biases -beta_i."""
  dictionaries, matrices = _network(LAYERS, (7, 6), 2)
  x = np.random.default_rng(1).normal(size=(BATCH, 7, 6, 2))
  betas = [0.1, np.array([0.0, 0.2, 0.1, 0.3]), 0.05]
  codes = cscjax.layered_thresholding(dictionaries, x, betas, steps=[1, 1, 1], nonnegative=nonnegative)
  h = x.reshape(BATCH, -1)
  for code, d, beta in zip(codes, matrices, betas, strict=True):
    beta = np.resize(beta, d.shape[1])  # channels are the last axis of a code
    h = references.soft(h @ d, beta, nonnegative)
    np.testing.assert_allclose(flat_batch(code), h, atol=1e-12)
  assert np.any(h != 0)


def test_a_bias_of_a_relu_is_free(x64):
  dictionaries, (d,) = _network(LAYERS[:1], (7, 6), 2)
  x = np.random.default_rng(1).normal(size=(7, 6, 2))
  bias = np.array([0.3, -0.2, 0.0])
  (code,) = cscjax.layered_thresholding(dictionaries, x, [-bias], steps=[1], nonnegative=True)
  expected = np.maximum(x.ravel() @ d + np.resize(bias, d.shape[1]), 0)
  np.testing.assert_allclose(np.ravel(code), expected, atol=1e-12)


def test_default_steps(x64):
  """Each layer is an ISTA iteration from zero: code = S_{beta/L}(D^T x / L)."""
  dictionaries, matrices = _network([((3,), 3, {"padding": "CIRCULAR"})] * 2, (6,), 3)
  x = np.random.default_rng(2).normal(size=(6, 3))
  codes = cscjax.layered_thresholding(dictionaries, x, [0.1, 0.02], nonnegative=True)
  h = x.ravel()
  for code, d, beta in zip(codes, matrices, (0.1, 0.02), strict=True):
    h, _ = references.pursue(d, h, beta, 1, nonnegative=True)
    np.testing.assert_allclose(np.ravel(code), h, atol=1e-12)
  assert np.any(h > 0)


@pytest.mark.parametrize("kept_threshold", [0.0, 0.15])
def test_msdnet(x64, kept_threshold):
  """Thresholding with [I, F^T] is a dense connection with dilated filters (Proposition 1)."""
  spatial, channels, width = (5, 4), 2, 3
  rng = np.random.default_rng(3)
  x = np.abs(rng.normal(size=(BATCH, *spatial, channels)))
  dictionaries, bases, betas = [], [], []
  for i in range(3):
    filters = rng.normal(size=(3, 3, channels + i * width, width)) / 4
    dictionaries.append(
      cscjax.IdentityAugmented(cscjax.ConvDictionary(jnp.asarray(filters), dilation=i + 1))
    )
    f = references.conv_matrix(filters, spatial, dilation=i + 1)
    bases.append(np.hstack([np.eye(f.shape[0]), f]))
    betas.append((kept_threshold, rng.uniform(-0.2, 0.2, width)))
  codes = cscjax.layered_thresholding(dictionaries, x, betas, steps=[1, 1, 1], nonnegative=True)
  h = x
  for code, d, (kept, new) in zip(codes, bases, betas, strict=True):
    size = h[0].size
    threshold = np.concatenate([np.full(size, kept), np.resize(new, d.shape[1] - size)])
    expected = references.soft(h.reshape(BATCH, -1) @ d, threshold, nonnegative=True)
    np.testing.assert_allclose(flat_batch(code), expected, atol=1e-12)
    parts = expected[:, :size], expected[:, size:]
    h = np.concatenate([part.reshape(BATCH, *spatial, -1) for part in parts], axis=-1)
  assert h.shape[-1] == channels + 3 * width


def test_one_penalty_for_both_parts(x64):
  dictionary = cscjax.IdentityAugmented(cscjax.ConvDictionary(jnp.ones((3, 1, 2))))
  x = np.linspace(0, 1, 5)[:, None]
  (one,) = cscjax.layered_thresholding([dictionary], x, [0.1], steps=[1])
  (two,) = cscjax.layered_thresholding([dictionary], x, [(0.1, 0.1)], steps=[1])
  np.testing.assert_array_equal(one[0], two[0])
  np.testing.assert_array_equal(one[1], two[1])
  np.testing.assert_allclose(one[0], np.maximum(x - 0.1, 0), atol=1e-15)


def test_types_are_kept(x64):
  dictionary = cscjax.ConvDictionary(jnp.ones((3, 1, 2), jnp.float32))
  codes = cscjax.layered_thresholding(
    [dictionary], jnp.ones((5, 1), jnp.float32), [np.full(2, 0.1)], steps=[np.float64(0.5)]
  )
  assert codes[0].dtype == jnp.float32


def test_integer_signals_are_converted():
  dictionary = cscjax.MatrixDictionary(np.array([[1, 2], [3, 4]]))
  (code,) = cscjax.layered_thresholding([dictionary], [1, 1], [1], steps=[1])
  np.testing.assert_array_equal(code, [3.0, 5.0])
  assert code.dtype == jnp.float32
