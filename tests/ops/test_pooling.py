"""Compares max-pooling with loops over the windows, and its gradient with that of Flax."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax.ops import max_pool

SHAPES = [(2, 4, 6, 3), (1, 5, 3, 2), (3, 1, 1, 1), (2, 7, 4), (2, 1, 3), (0, 4, 4, 2)]


def windows(x):
  """Computes the maximum of one window after another."""
  sizes = [-(-n // 2) for n in x.shape[1:-1]]
  out = np.empty((x.shape[0], *sizes, x.shape[-1]), x.dtype)
  for place in itertools.product(*map(range, sizes)):
    window = x[:, *(slice(2 * i, 2 * i + 2) for i in place)]
    out[:, *place] = window.max(axis=tuple(range(1, x.ndim - 1)))
  return out


def untied(shape):
  """Returns distinct negative values, so that a zero beyond the border would be the maximum."""
  order = np.random.default_rng(0).permutation(int(np.prod(shape)))
  return jnp.asarray(-1.0 - order.reshape(shape), jnp.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_values(shape):
  x = untied(shape)
  got = jax.jit(max_pool)(x)
  assert got.dtype == x.dtype
  np.testing.assert_array_equal(got, windows(np.asarray(x)))


@pytest.mark.parametrize("shape", [s for s in SHAPES if 0 not in s])
def test_gradient_without_ties(shape):
  x = untied(shape)
  window = (2,) * (x.ndim - 2)

  def gradient(pool):
    out, vjp = jax.vjp(pool, x)
    return vjp(jnp.arange(1.0, out.size + 1).reshape(out.shape))[0]

  expected = gradient(lambda x: nn.max_pool(x, window, strides=window, padding="SAME"))
  np.testing.assert_array_equal(gradient(max_pool), expected)


def test_the_first_of_equal_values_gets_the_gradient():
  x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, 6, 8, 2)), jnp.float32)
  expected = jax.grad(lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)).sum())(x)
  np.testing.assert_array_equal(jax.grad(lambda x: max_pool(x).sum())(x), expected)


def test_nan_is_kept():
  x = jnp.array([[jnp.nan, 1.0], [2.0, jnp.nan], [3.0, 4.0]]).reshape(1, 6, 1)
  np.testing.assert_array_equal(max_pool(x).ravel(), [np.nan, np.nan, 4.0])


def test_bfloat16():
  x = untied((1, 3, 3, 1)).astype(jnp.bfloat16)
  assert max_pool(x).dtype == jnp.bfloat16
  np.testing.assert_array_equal(max_pool(x).astype(jnp.float32), windows(np.asarray(x, np.float32)))
