"""Atoms of rank 1: the projection against NumPy's SVD, and the recovery of planted atoms."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cscjax.learning import learn_dictionary, rank1_factors
from cscjax.learning._kernels import project, support_mask
from cscjax.solvers import relative

RNG = np.random.default_rng(0)


def _nearest(atom):
  """Returns the nearest matrix of rank 1 and norm 1 to an atom [..., C]."""
  left, _, right = np.linalg.svd(atom.reshape(-1, atom.shape[-1]), full_matrices=False)
  return np.outer(left[:, 0], right[0]).reshape(atom.shape)


@pytest.mark.parametrize("kernel", [(7,), (3, 2), (2, 3, 2)])
@pytest.mark.parametrize("channels", [1, 3, 20])  # fewer and more than taps
def test_factors_are_those_of_the_svd(x64, kernel, channels):
  filters = RNG.normal(size=(*kernel, channels, 4))
  pattern, weights = rank1_factors(filters)
  assert (pattern.shape, weights.shape) == ((*kernel, 4), (channels, 4))
  np.testing.assert_allclose(np.sum(np.square(weights), axis=0), 1)
  largest = np.argmax(np.abs(weights), axis=0)
  assert np.all(np.asarray(weights)[largest, range(4)] > 0)
  for j in range(4):
    atom = filters[..., j]
    product = np.multiply.outer(pattern[..., j], weights[:, j])
    norm = np.linalg.norm(atom.reshape(-1, channels), 2)
    np.testing.assert_allclose(product, norm * _nearest(atom), atol=1e-12)


def test_factors_of_half_precision_and_of_other_shapes():
  assert rank1_factors(jnp.ones((3, 2, 1), jnp.bfloat16)).pattern.dtype == jnp.bfloat16
  with pytest.raises(ValueError, match=r"^filters: expected"):
    rank1_factors(np.ones((3, 2)))


def test_projection_keeps_supports_and_replaces_atoms_that_are_zero(x64):
  mask = support_mask((((3,), 2), ((5,), 1)))
  filters = RNG.normal(size=(5, 4, 3))
  filters[1:4, :, 1] = 0  # the support of this atom
  previous = RNG.normal(size=(5, 4, 3))
  found = np.asarray(project(jnp.asarray(filters), mask, jnp.asarray(previous), rank1=True))
  np.testing.assert_allclose(found[..., 0], _nearest(filters[..., 0] * mask[..., 0]), atol=1e-12)
  np.testing.assert_array_equal(found[..., 1], previous[..., 1])
  np.testing.assert_allclose(found[..., 2], _nearest(filters[..., 2]), atol=1e-12)


@pytest.mark.slow
def test_each_step_decreases_the_objective():
  """The codes are nearly optimal, and a rate of 0.3 without momentum is below 1 / curvature here."""
  signals = np.float32(RNG.normal(size=(3, 60, 4)))
  result = learn_dictionary(
    signals,
    1.0,
    kernel=[(8, 3)],
    steps=12,
    coding_iterations=300,
    rank1=True,
    optimizer=optax.sgd(0.3),
    init="patches",
  )
  assert np.all(np.diff(result.objective) < 0)
  pattern, weights = rank1_factors(result.dictionary.filters)
  product = np.asarray(pattern)[:, None] * np.asarray(weights)
  np.testing.assert_allclose(result.dictionary.filters, product, atol=1e-6)


@pytest.mark.slow
def test_planted_atoms_are_recovered_from_noise_that_hides_them_without_the_constraint():
  """Noise of 5 dB above the signal. Scores are correlations with the true atoms over all shifts."""
  rng = np.random.default_rng(2)
  planted = np.hanning(16)[:, None, None] * rng.normal(size=(16, 1, 2)) * rng.normal(size=(8, 2))
  planted /= np.sqrt(np.sum(planted**2, axis=(0, 1)))
  code = rng.uniform(1, 2, size=(3, 400, 2)) * (rng.uniform(size=(3, 400, 2)) < 0.02)
  signals = np.zeros((3, 400, 8))
  for n, channel, atom in np.ndindex(3, 8, 2):
    signals[n, :, channel] += np.convolve(code[n, :, atom], planted[:, channel, atom], "same")
  noisy = signals + np.sqrt(np.mean(signals**2) * 10**0.5) * rng.normal(size=signals.shape)

  def scores(rank1):
    result = learn_dictionary(
      np.float32(noisy), relative(0.4), kernel=[(16, 3)], steps=80, padding="SAME", rank1=rank1
    )
    learned = np.asarray(result.dictionary.filters, np.float64)
    return [
      max(
        np.abs(sum(np.correlate(a[:, c], b[:, c], "full") for c in range(8))).max()
        for b in np.moveaxis(learned, -1, 0)
      )
      for a in np.moveaxis(planted, -1, 0)
    ]

  assert min(scores(True)) > 0.9
  assert max(scores(False)) < 0.8
