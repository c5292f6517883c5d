"""Augmentation gives all shifts and flips of an image, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax.training import augment, normalize

KEYS = jax.random.split(jax.random.key(3), 64)


def images(count=64, size=5):
  return np.random.default_rng(0).integers(1, 255, (count, size, size, 2), dtype=np.uint8)


def crops(image, shift, flip):
  """Yields all images that augmentation can produce, computed with NumPy."""
  padded = np.pad(image, [(shift, shift), (shift, shift), (0, 0)])
  size = image.shape[0]
  for i in range(2 * shift + 1):
    for j in range(2 * shift + 1):
      crop = padded[i : i + size, j : j + size]
      yield (i, j, False), crop
      if flip:
        yield (i, j, True), crop[:, ::-1]


def test_every_result_is_a_shift_or_a_mirrored_shift_and_all_of_them_occur():
  source = np.repeat(images(1), 600, axis=0)
  result = np.asarray(augment(source, jax.random.split(jax.random.key(0), 600), shift=1, flip=True))
  assert result.dtype == np.uint8
  allowed = {crop.tobytes(): name for name, crop in crops(source[0], 1, True)}
  seen = [allowed[np.ascontiguousarray(image).tobytes()] for image in result]
  assert len(set(seen)) == 18
  flips = sum(name[2] for name in seen)
  assert 230 < flips < 370  # 300 +- 6 standard deviations


def test_without_shift_and_flip_nothing_changes():
  source = jnp.asarray(images())
  np.testing.assert_array_equal(augment(source, KEYS, shift=0, flip=False), source)


def test_an_image_depends_on_its_own_key_alone():
  source = images()
  whole = augment(source, KEYS, shift=2, flip=True)
  part = augment(source[16:32], KEYS[16:32], shift=2, flip=True)
  np.testing.assert_array_equal(whole[16:32], part)


def test_signals_of_one_dimension_are_shifted_too():
  signal = np.arange(1, 8, dtype=np.float32).reshape(1, 7, 1)
  result = np.asarray(
    augment(np.repeat(signal, 200, 0), jax.random.split(KEYS[0], 200), shift=1, flip=True)
  )
  padded = [0, 1, 2, 3, 4, 5, 6, 7, 0]
  allowed = {tuple(padded[i : i + 7][::o]) for i in range(3) for o in (1, -1)}
  assert {tuple(row) for row in result[..., 0].astype(int).tolist()} == allowed


def test_normalize_scales_bytes_but_not_floats():
  mean, std = np.float32([0.5, 0.25]), np.float32([0.1, 0.2])
  source = images()
  expected = (source / 255.0 - mean) / std
  np.testing.assert_allclose(normalize(jnp.asarray(source), mean, std), expected, rtol=1e-5, atol=1e-6)
  floats = np.float32(source)
  np.testing.assert_allclose(
    normalize(jnp.asarray(floats), mean, std), (floats - mean) / std, rtol=1e-5, atol=1e-4
  )


@pytest.mark.parametrize(
  ("name", "arguments"),
  [
    ("images", (np.zeros((2, 4, 4, 3), int), np.zeros(3), np.ones(3))),  # would not be scaled
    ("mean", (np.zeros((2, 4, 4, 1)), np.zeros(3), np.ones(1))),  # would make three channels
    ("std", (np.zeros((2, 4, 4, 3)), np.zeros(3), np.ones(()))),
  ],
)
def test_other_types_and_numbers_of_channels_are_not_normalized(name, arguments):
  with pytest.raises(ValueError, match=f"^{name}: expected "):
    normalize(*arguments)
