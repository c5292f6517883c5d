"""Measures of reconstructions against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax.metrics import psnr, snr

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(size=(2, 6, 5, 3)).astype(np.float32)
OTHER = np.clip(IMAGE + 0.1 * RNG.normal(size=IMAGE.shape), 0, 1).astype(np.float32)


def _psnr(a, b, data_range):
  error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
  return 10 * np.log10(data_range**2 / error)


def test_against_the_formula():
  assert float(psnr(OTHER, IMAGE)) == pytest.approx(_psnr(OTHER, IMAGE, 1), rel=1e-5)
  scaled = psnr(255 * OTHER, 255 * IMAGE, data_range=255)
  assert float(scaled) == pytest.approx(_psnr(OTHER, IMAGE, 1), rel=1e-5)
  assert psnr(IMAGE, IMAGE) == np.inf


@pytest.mark.parametrize("scale", [1e-30, 1e30])  # whose squares are outside the range of float32
def test_any_scale(scale):
  images = np.float32(scale) * OTHER, np.float32(scale) * IMAGE
  assert float(psnr(*images)) == pytest.approx(_psnr(*images, 1), rel=1e-5)


def test_integers_do_not_wrap_around():
  a, b = (np.uint8(255 * image) for image in (IMAGE, OTHER))
  assert float(psnr(a, b, data_range=255)) == pytest.approx(_psnr(a, b, 255), rel=1e-5)


def test_half_precision_and_float64(x64):
  half = (jnp.asarray(image, jnp.bfloat16) for image in (OTHER, IMAGE))
  assert float(psnr(*half)) == pytest.approx(_psnr(OTHER, IMAGE, 1), rel=1e-2)
  exact = psnr(np.float64(OTHER), np.float64(IMAGE))
  assert exact.dtype == np.float64
  assert float(exact) == pytest.approx(_psnr(OTHER, IMAGE, 1), rel=1e-12)


def test_one_value_per_image_under_jit():
  values = jax.jit(jax.vmap(psnr))(OTHER, IMAGE)
  expected = [_psnr(a, b, 1) for a, b in zip(OTHER, IMAGE, strict=True)]
  np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("name", "arguments", "options"),
  [
    ("data_range", (np.uint8(IMAGE), np.uint8(IMAGE)), {}),
    ("data_range", (IMAGE, np.uint8(IMAGE)), {}),
    ("data_range", (IMAGE > 0.5, IMAGE), {}),
    ("data_range", (IMAGE, OTHER), {"data_range": 0}),
    ("data_range", (IMAGE, OTHER), {"data_range": jnp.ones(3)}),
    ("image", (IMAGE[0], OTHER), {}),
    ("image", (IMAGE[:0], OTHER[:0]), {}),
    ("image", (1j * IMAGE, OTHER), {}),
    ("reference", (IMAGE, "image"), {}),
  ],
)
def test_bad_input_names_the_argument(name, arguments, options):
  with pytest.raises(ValueError, match=f"^{name}: expected"):
    psnr(*arguments, **options)


def test_snr():
  noise = np.float64(OTHER) - np.float64(IMAGE)
  expected = 10 * np.log10(np.sum(np.float64(IMAGE) ** 2) / np.sum(noise**2))
  assert float(snr(OTHER, IMAGE)) == pytest.approx(expected, rel=1e-5)
  assert float(snr(1e-30 * OTHER, 1e-30 * IMAGE)) == pytest.approx(expected, rel=1e-5)  # no underflow
  assert snr(IMAGE, IMAGE) == np.inf
  with pytest.raises(ValueError, match=r"^signal: expected the shape"):
    snr(IMAGE[0], OTHER)
