"""Batch norm of data whose mean is large compared with its standard deviation, against float64 NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax.models import CSCLayer
from cscjax.models._batch_norm import EPSILON as BATCH_EPSILON
from cscjax.models._batch_norm import batch_norm
from cscjax.models._norms import Norm

MEAN, EPSILON = 1e4, 1e-5
ROUNDING = 20 * MEAN * 2.0**-24  # rounding error of a mean of values of this size in float32


def _normalized(z):
  z = np.asarray(z, np.float64).reshape(-1, z.shape[-1])
  return (z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + EPSILON)


def _values(scale=1.0, shape=(8, 6, 6, 3)):
  return (MEAN + scale * np.random.default_rng(0).normal(size=shape)).astype(np.float32)


def _apply(norm, variables, z):
  return norm.apply(variables, z, train=True, mutable=["batch_stats"])


def test_a_mean_of_ten_thousand_deviations():
  z, norm = _values(), Norm()
  variables = norm.init(jax.random.key(0), z, train=False)
  found, updates = _apply(norm, variables, z)
  np.testing.assert_allclose(found.reshape(-1, z.shape[-1]), _normalized(z), atol=ROUNDING)
  variance = updates["batch_stats"]["norm_0"]["var"]  # a tenth of it comes from this batch
  exact = 0.9 + 0.1 * z.astype(np.float64).var(axis=(0, 1, 2))
  np.testing.assert_allclose(variance, exact, rtol=1e-4)


def test_gradient_with_a_large_mean():
  """The gradient of a weighted sum; with E[z^2] - E[z]^2 no digit of it would be correct."""
  z, norm = _values(), Norm()
  variables = norm.init(jax.random.key(0), z, train=False)
  weights = np.random.default_rng(1).normal(size=z.shape)
  found = jax.grad(lambda z: jnp.sum(jnp.asarray(weights, z.dtype) * _apply(norm, variables, z)[0]))(z)
  y, w = _normalized(z), weights.reshape(-1, z.shape[-1])
  deviation = np.sqrt(z.astype(np.float64).var(axis=(0, 1, 2)) + EPSILON)
  expected = (w - w.mean(axis=0) - y * (w * y).mean(axis=0)) / deviation
  np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=ROUNDING)


def _formula(z, scale, bias):
  """Computes what `batch_norm` does, with automatic differentiation."""
  mean, variance = (f(z, axis=tuple(range(z.ndim - 1)), keepdims=True) for f in (jnp.mean, jnp.var))
  return scale * (z - mean) / jnp.sqrt(variance + BATCH_EPSILON) + bias, mean, variance


def test_derivatives_are_those_of_the_formula():
  """Covers all three outputs, forward and reverse mode, second derivatives and `vmap`."""

  @partial(jax.jit, static_argnums=0)
  def derivatives(norm, weights, primals, tangents):
    def loss(*arguments):
      return sum(jnp.vdot(w, jnp.sin(a)) for w, a in zip(weights, call(*arguments), strict=True))

    call, gradient = jax.vmap(norm), jax.grad(loss, (0, 1, 2))
    return jax.jvp(call, primals, tangents), jax.jvp(gradient, primals, tangents)

  rng = np.random.default_rng(0)
  shapes = [(2, 4, 3, 2, 5), (2, 1, 1, 1, 5), (2, 1, 1, 1, 5)]
  with jax.enable_x64():
    arguments = [tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes) for _ in range(3)]
    found, expected = (derivatives(norm, *arguments) for norm in (batch_norm, _formula))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), found, expected)


def test_variance_where_the_first_value_is_far_away():
  """Four digits are correct even if the first value is 100 standard deviations from the mean."""
  z = np.random.default_rng(0).normal(size=(8, 16, 16, 2)).astype(np.float32)
  z[0, 0, 0] = [100, -100]
  _, mean, variance = batch_norm(jnp.asarray(z), jnp.ones((1, 1, 1, 2)), jnp.zeros((1, 1, 1, 2)))
  exact = z.astype(np.float64)
  np.testing.assert_allclose(mean.ravel(), exact.mean(axis=(0, 1, 2)), atol=1e-4)
  np.testing.assert_allclose(variance.ravel(), exact.var(axis=(0, 1, 2)), rtol=1e-4)


def test_bfloat16_keeps_what_its_values_have():
  """Near 1e4, bfloat16 numbers are 64 apart: they resolve a standard deviation of 500, but not of 1."""
  z = jnp.asarray(_values(500.0), jnp.bfloat16)
  variables = Norm(dtype=jnp.bfloat16).init(jax.random.key(0), z, train=False)
  found, _ = _apply(Norm(dtype=jnp.bfloat16), variables, z)
  assert found.dtype == jnp.bfloat16
  expected = _normalized(z.astype(jnp.float32))
  np.testing.assert_allclose(
    np.float64(found).reshape(expected.shape), expected, rtol=2.0**-8, atol=1e-3
  )


@pytest.mark.slow
@pytest.mark.parametrize("unfolding", [0, 1])
@pytest.mark.parametrize("mean", [0.0, 1e3, 1e4])
def test_layer_on_images_with_a_large_mean(unfolding, mean):
  """The reference is the layer in float64, whose rounding errors are 1e-9 of those in float32."""
  x = np.random.default_rng(0).normal(size=(4, 12, 12, 1)) + mean
  found = []
  for dtype in (jnp.float32, jnp.float64):
    with jax.enable_x64(dtype == jnp.float64):
      layer = CSCLayer(width=4, unfolding=unfolding, padding="VALID", dtype=dtype)
      x = jnp.asarray(x.astype(np.float32), dtype)
      if not found:
        variables = jax.device_get(layer.init(jax.random.key(0), x))
      code, _ = layer.apply(variables, x, train=True, mutable=["batch_stats"])
      found.append(np.asarray(code))
      x = np.asarray(x)
  assert np.mean(found[1] > 0) > 0.2
  np.testing.assert_allclose(found[0], found[1], atol=1e-5 + 2e-6 * mean)
