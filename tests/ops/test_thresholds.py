"""Compares thresholds with a grid search, and checks their derivatives at the kinks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax import ops

PENALTIES = {
  "soft": (ops.soft_threshold, lambda g, b: b * np.abs(g)),
  "nonnegative": (ops.nonnegative_soft_threshold, lambda g, b: np.where(g < 0, np.inf, b * g)),
  "hard": (ops.hard_threshold, lambda g, b: 0.5 * b**2 * (g != 0)),
}
THRESHOLDS = {
  "scalar": 0.7,
  "zero": 0.0,
  "per_channel": np.array([0.0, 0.3, 1.1, 2.5]),
  "per_coefficient": np.linspace(0, 2, 24).reshape(6, 4),
}


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("kind", PENALTIES)
def test_is_the_proximal_operator(x64, kind, threshold):
  operator, penalty = PENALTIES[kind]
  z = np.random.default_rng(0).normal(0, 1.5, (6, 4))
  b = np.broadcast_to(THRESHOLDS[threshold], z.shape)
  spacing = 1e-3
  grid = np.arange(-6, 6 + spacing, spacing)
  grid[np.abs(grid) < spacing / 2] = 0
  found = np.asarray(operator(z, THRESHOLDS[threshold]))
  assert found.shape == z.shape
  for i in np.ndindex(z.shape):
    values = 0.5 * (grid - z[i]) ** 2 + penalty(grid, b[i])
    assert 0.5 * (found[i] - z[i]) ** 2 + penalty(found[i], b[i]) <= values.min() + 1e-12
    assert found[i] == pytest.approx(grid[values.argmin()], abs=spacing)


@pytest.mark.parametrize("sign", [1, -1])
def test_hard_threshold_keeps_nothing_at_the_threshold(sign):
  assert ops.hard_threshold(sign * 0.5, 0.5) == 0
  assert ops.hard_threshold(sign * 0.75, 0.5) == sign * 0.75


@pytest.mark.parametrize("operator", [ops.soft_threshold, ops.nonnegative_soft_threshold])
@pytest.mark.parametrize(
  ("z", "by_z", "by_threshold"), [(0.5, 0, 0), (0.0, 0, 0), (0.25, 0, 0), (1.0, 1, -1)]
)
def test_gradient(operator, z, by_z, by_threshold):
  gradient = jax.grad(operator, argnums=(0, 1))(jnp.float32(z), jnp.float32(0.5))
  assert tuple(map(float, gradient)) == (by_z, by_threshold)


def test_relu_is_flat_at_zero():
  assert jax.grad(ops.nonnegative_soft_threshold)(0.0, 0.0) == 0


def test_gradient_of_a_negative_coefficient():
  gradient = jax.grad(ops.soft_threshold, argnums=(0, 1))(jnp.float32(-2.0), jnp.float32(0.5))
  assert tuple(map(float, gradient)) == (1, 1)


@pytest.mark.parametrize("operator", [entry[0] for entry in PENALTIES.values()])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_keeps_the_type(x64, operator, dtype):
  assert operator(jnp.ones(3, dtype), 0.5).dtype == dtype
