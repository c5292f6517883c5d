"""Compares `tikhonov_lowpass` with a dense solve, and checks its gain and its invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax.ops._lowpass import tikhonov_lowpass

STRENGTH = 3.0


def _difference(size):
  """Returns the matrix of circular differences along one axis."""
  return np.roll(np.eye(size), 1, axis=1) - np.eye(size)


def _dense_lowpass(image):
  """Computes the minimizer for one channel [H, W] from the normal equations."""
  h, w = image.shape
  rows = np.kron(_difference(h), np.eye(w))
  columns = np.kron(np.eye(h), _difference(w))
  normal = np.eye(h * w) + STRENGTH * (rows.T @ rows + columns.T @ columns)
  return np.linalg.solve(normal, image.ravel()).reshape(h, w)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(6, 5), (5, 6), (1, 4)])
def test_against_a_dense_solve(shape):
  x = np.random.default_rng(0).normal(size=(2, *shape, 3))
  low = np.asarray(tikhonov_lowpass(x, STRENGTH, pad=0))
  for i in range(2):
    for c in range(3):
      np.testing.assert_allclose(low[i, ..., c], _dense_lowpass(x[i, ..., c]), atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("pad", [2, 20])
def test_padding_continues_the_image_by_its_mirror_image(pad):
  x = np.random.default_rng(1).normal(size=(6, 5, 1))
  padded = np.pad(x[..., 0], pad, mode="symmetric")
  expected = _dense_lowpass(padded)[pad:-pad, pad:-pad]
  np.testing.assert_allclose(tikhonov_lowpass(x, STRENGTH, pad=pad)[..., 0], expected, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_one_dimensional_signals():
  x = np.random.default_rng(2).normal(size=(3, 7, 2))
  d = _difference(7)
  expected = np.linalg.solve(np.eye(7) + STRENGTH * d.T @ d, x)
  got = tikhonov_lowpass(x, STRENGTH, pad=0, spatial_axes=1)
  np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_volumes():
  """A volume that does not change along an axis is filtered like each of its slices."""
  image = np.random.default_rng(3).normal(size=(6, 5))
  low = tikhonov_lowpass(np.stack([image] * 4)[..., None], STRENGTH, pad=0, spatial_axes=3)
  for piece in low[..., 0]:
    np.testing.assert_allclose(piece, _dense_lowpass(image), atol=1e-12)


def test_a_wave_is_divided_by_the_stated_gain():
  w = 2 * np.pi * 3 / 16
  wave = np.cos(w * np.arange(16))[:, None] * np.ones((16, 4))
  low = tikhonov_lowpass(wave[..., None], STRENGTH, pad=0)[..., 0]
  np.testing.assert_allclose(low, wave / (1 + STRENGTH * (2 - 2 * np.cos(w))), atol=1e-6)


def test_borders_do_not_meet():
  ramp = np.broadcast_to(np.linspace(0, 1, 40)[:, None, None], (40, 8, 1))
  high = np.abs(ramp - np.asarray(tikhonov_lowpass(ramp, 5.0)))
  assert high.max() < 0.05
  assert np.abs(ramp - np.asarray(tikhonov_lowpass(ramp, 5.0, pad=0))).max() > 0.2


def test_types_and_transformations():
  image = jnp.arange(32, dtype=jnp.uint8).reshape(4, 8, 1)
  low = jax.jit(tikhonov_lowpass)(image, 1.0)
  assert low.dtype == jnp.float32
  np.testing.assert_allclose(tikhonov_lowpass(image.astype(jnp.bfloat16), 1.0), low, rtol=0.01)
  np.testing.assert_allclose(tikhonov_lowpass(image, 0.0), image, atol=1e-4)
  # The map is linear and symmetric, so the gradient of its squared norm is twice the map applied twice.
  x = image.astype(jnp.float32)
  gradient = jax.grad(lambda x: jnp.sum(jnp.square(tikhonov_lowpass(x, 1.0, pad=0))))(x)
  twice = tikhonov_lowpass(tikhonov_lowpass(x, 1.0, pad=0), 1.0, pad=0)
  np.testing.assert_allclose(gradient, 2 * twice, rtol=1e-4)


@pytest.mark.parametrize(
  ("name", "arguments"),
  [
    ("x", {"x": np.zeros((4, 4))}),
    ("x", {"x": np.zeros((0, 4, 1))}),
    ("strength", {"strength": -1.0}),
    ("strength", {"strength": np.ones(2)}),
    ("pad", {"pad": -1}),
    ("pad", {"pad": 1.5}),
    ("spatial_axes", {"spatial_axes": 4}),
  ],
)
def test_bad_input_names_the_argument(name, arguments):
  with pytest.raises(ValueError, match=f"^{name}: "):
    tikhonov_lowpass(**{"x": np.zeros((4, 4, 1)), "strength": 1.0, **arguments})
