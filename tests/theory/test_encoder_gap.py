"""Bounds by the encoder gap and certified labels, against dense references and adversarial noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax import theory
from tests.theory.lasso_reference import SMALL, DenseLasso

TRIALS = 50  # of ten signals each


def _incoherent(rng, n, p):
  """Returns a matrix of atoms whose norms differ and whose cosines are small."""
  d = np.linalg.qr(rng.normal(size=(n, n)))[0]
  d = np.hstack([d, d @ rng.choice([-1, 1], size=(n, p - n)) / np.sqrt(n)])
  d = d + 0.01 * rng.normal(size=d.shape)
  return d / np.linalg.norm(d, axis=0) * rng.uniform(0.8, 1.25, p)


def _problem(rng, count=10, n=16, p=18):
  """Returns a dense problem, signals with sparse codes, and the dictionary."""
  d = _incoherent(rng, n, p)
  codes = rng.normal(size=(count, p)) * (rng.random((count, p)) < 0.15)
  x = codes @ d.T + 0.02 * rng.normal(size=(count, n))
  beta, one_sided = rng.uniform(0.2, 0.3, p), rng.random() < 0.3
  dense = DenseLasso(d, beta, np.full(p, one_sided), np.ones(n), np.zeros(p))
  return dense, x, cscjax.MatrixDictionary(jnp.asarray(d)), {"nonnegative": bool(one_sided)}


def _reference(dense, x):
  """Returns tau_s and 1 / (smallest norm * sqrt(1 - mu_1(s - 1))) for s = 0..n."""
  d, norms = dense.d, np.linalg.norm(dense.d, axis=0)
  code, violation = dense.solve(x)
  assert violation <= SMALL
  correlation = d.T @ (x - d @ code)
  size = np.where(dense.one_sided, correlation, np.abs(correlation))
  gaps = np.sort((dense.beta - size) / norms)[: len(x) + 1]
  cosines = np.abs((d / norms).T @ (d / norms)) - np.eye(len(norms))
  sums = np.max(np.cumsum(-np.sort(-cosines, axis=1), axis=1), axis=0)
  mu_1 = np.concatenate([[0, 0], sums])[: len(x) + 1]  # of s - 1 atoms
  with np.errstate(divide="ignore"):
    return gaps, mu_1, 1 / (np.min(norms) * np.sqrt(np.maximum(1 - mu_1, 0)))


def test_gaps_and_bounds_are_those_of_the_definition(x64):
  dense, x, dictionary, options = _problem(np.random.default_rng(0), count=4)
  found = theory.encoder_gap(dictionary, x, dense.beta, **options)
  levels = np.array([0.0, 0.003, 0.03, 0.1, 0.3])
  bounds, finite = found.bound(levels), 0
  for i, signal in enumerate(x):
    gaps, mu_1, slopes = _reference(dense, signal)
    assert np.all(found.gaps[:, i] <= gaps + 1e-9)  # reduced by the radius of the dual point
    np.testing.assert_allclose(found.gaps[:, i], gaps, atol=1e-6)
    np.testing.assert_allclose(found.isometry, mu_1, atol=1e-12)
    np.testing.assert_allclose(found.stability.encoder_gap(3)[i], gaps[3], atol=1e-6)
    for level, bound in zip(levels, bounds[:, i], strict=True):
      expected = min(slopes[gaps > max(level, 1e-6)], default=np.inf)
      np.testing.assert_allclose(bound, level * expected if expected < np.inf else np.inf, rtol=1e-9)
      finite += np.isfinite(bound) and level > 0
  assert finite >= 6
  assert np.all(found.stability.bound(levels) <= bounds * (1 + 1e-9))


@pytest.mark.slow
def test_one_signal_and_zero_atoms():
  """A zero atom without a penalty can have any coefficient, so that nothing is known."""
  dictionary, x = (
    cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])),
    jnp.array([2.0, 0.1]),
  )
  for last, expected in ((0.5, 0.1), (0.0, np.inf)):
    found = theory.encoder_gap(dictionary, x, jnp.array([0.5, 0.5, last]))
    bound = found.bound(0.1)
    assert np.shape(bound) == ()
    np.testing.assert_allclose(bound, expected)
    for result in (found, found.stability):
      with pytest.raises(ValueError, match=r"distance: expected a shape that broadcasts to \(\)"):
        result.radius([1.0, 2.0])


def test_radius_is_the_inverse_of_the_bound(x64):
  dense, x, dictionary, options = _problem(np.random.default_rng(1), count=4)
  found = theory.encoder_gap(dictionary, x, dense.beta, **options)
  for bounds in (found, found.stability):
    for distance in (1e-4, 0.02, 10.0):
      radii = bounds.radius(distance)
      assert np.any(radii > 0)
      below = np.diagonal(bounds.bound(0.9999 * radii))
      assert np.all((below < distance) | (radii == 0))
      beyond = np.diagonal(bounds.bound(1.002 * radii))
      limits = bounds is found.stability and found.stability.largest_noise <= 1.002 * radii
      assert np.all((beyond >= distance) | limits)
    assert not np.any(bounds.radius(0.0))
    assert not np.any(bounds.radius([-1.0, 0, 0, 0]))


@pytest.mark.slow
def test_a_convolution_has_the_bound_of_its_matrix(x64):
  rng = np.random.default_rng(2)
  filters = np.zeros((2, 1, 2))
  filters[0, 0] = 1
  filters[1, 0] = rng.normal(size=2) / 8
  conv = cscjax.ConvDictionary(jnp.asarray(filters), padding="CIRCULAR", stride=2)
  x = rng.normal(size=(12, 1))
  matrix = np.stack(
    [np.ravel(conv.synthesis(jnp.eye(12)[k].reshape(6, 2), (12, 1))) for k in range(12)], axis=1
  )
  found = theory.encoder_gap(conv, x, 0.3)
  dense = theory.encoder_gap(cscjax.MatrixDictionary(jnp.asarray(matrix)), x.ravel(), 0.3)
  np.testing.assert_allclose(found.gaps, dense.gaps, atol=1e-6)
  np.testing.assert_allclose(found.isometry, dense.isometry, atol=1e-9)


@pytest.mark.slow
def test_no_noise_exceeds_the_bound(x64):
  """500 signals, noise in the worst directions and by gradient ascent, up to the limits tau_s."""
  tried = 0
  for seed in range(TRIALS):
    rng = np.random.default_rng(seed)
    dense, x, dictionary, options = _problem(rng)
    found = theory.encoder_gap(dictionary, x, dense.beta, **options)
    usable = np.isfinite(found._slopes)
    for i, signal in enumerate(x):
      code, violation = dense.solve(signal)
      limit = np.max(found.gaps[usable, i], initial=0)
      if violation > SMALL or limit == 0 or np.isinf(limit):
        continue
      level = limit * rng.choice([0.1, 0.5, 0.999])
      bound = found.bound(level)[i]
      assert np.isfinite(bound)
      worst = dense.worst_direction(code)
      for direction in (worst, -worst, rng.normal(size=len(signal)), *dense.d.T[:2]):
        if np.any(direction):
          e = level * direction / np.linalg.norm(direction)
          for moved in dense.ascent(signal, code, e):
            assert np.linalg.norm(moved - code) <= bound + 1e-8
      tried += 1
  assert tried >= 400


@pytest.mark.slow
def test_the_radius_of_orthonormal_atoms_is_the_distance(x64):
  """Orthonormal atoms have singular values 1, and all of them may be active."""
  rng = np.random.default_rng(3)
  d = np.linalg.qr(rng.normal(size=(6, 6)))[0]
  x, weights, biases = rng.normal(size=(5, 6)), rng.normal(size=(3, 6)), rng.normal(size=3)
  code = np.sign(x @ d) * np.maximum(np.abs(x @ d) - 0.2, 0)
  scores = code @ weights.T + biases
  labels = np.argmax(scores, axis=1)
  distances = [
    min((s[k] - s[j]) / np.linalg.norm(weights[k] - weights[j]) for j in range(3) if j != k)
    for s, k in zip(scores, labels, strict=True)
  ]
  found = theory.encoder_gap(cscjax.MatrixDictionary(jnp.asarray(d)), x, 0.2)
  for bounds in (found, found.stability):
    result = theory.certify_classifier(bounds, weights, biases)
    np.testing.assert_array_equal(result.label, labels)
    np.testing.assert_allclose(result.distance, distances, rtol=1e-9)
    np.testing.assert_allclose(result.certified_radius, distances, rtol=2e-3)


@pytest.mark.slow
def test_the_error_of_the_code_reduces_the_radius(x64):
  """In float32 rounding may have moved the code, and a label that is not certain has radius 0."""
  dictionary = cscjax.MatrixDictionary(jnp.asarray([[1.0, 0.6], [0.0, 0.8]]))
  found = theory.stability(dictionary, jnp.asarray([1.0, 1.0]), 0.1)
  tie = np.array([[1.0, 0.0], [1.0, 0.0]])
  assert theory.certify_classifier(found, tie).certified_radius == 0
  fixed = theory.certify_classifier(found, tie, [1.0, 0.0])
  assert (int(fixed.label), float(fixed.certified_radius)) == (0, np.inf)
  dependent = cscjax.MatrixDictionary(jnp.asarray([[1.0, 1.0], [0.0, 0.0]]))
  unknown = theory.stability(dependent, jnp.asarray([1.0, 0.0]), 0.1)
  assert theory.certify_classifier(unknown, np.eye(2)).certified_radius == 0


@pytest.mark.slow
def test_no_attack_changes_a_certified_label(x64):
  """Gradient attacks on classifiers of random Lasso codes end outside the certified radii."""

  class Network:
    def __init__(self, dictionary, weights):
      self.dictionary, self.weights = dictionary, weights

    def __call__(self, x):
      code = cscjax.fista(self.dictionary, x, 0.1, tolerance=1e-10, max_iterations=20_000).code
      return code @ self.weights.T

    def margin_gains(self, signal_shape):
      del signal_shape
      return jnp.full((3, 3), jnp.inf)

  positive = 0
  for seed in range(5):
    rng = np.random.default_rng(seed)
    _, x, dictionary, _ = _problem(rng)
    weights = jnp.asarray(rng.normal(size=(3, 18)))
    found = theory.encoder_gap(dictionary, x, 0.1)
    attack = theory.certify_labels(Network(dictionary, weights), jnp.asarray(x), steps=20)
    for bounds in (found, found.stability):
      result = theory.certify_classifier(bounds, weights)
      np.testing.assert_array_equal(result.label, attack.label)
      assert np.all(result.certified_radius <= attack.attack_radius)
      positive += np.count_nonzero(result.certified_radius)
  assert positive >= 30


def test_bad_input(x64):
  dense, x, dictionary, options = _problem(np.random.default_rng(0), count=4)
  found = theory.encoder_gap(dictionary, x, dense.beta, **options)
  for name, weights, biases in (
    ("weights", jnp.ones((1, 18)), 0.0),
    ("weights", jnp.ones((2, 4)), 0.0),
    ("weights", jnp.full((2, 18), jnp.nan), 0.0),
    ("biases", jnp.ones((2, 18)), jnp.ones(3)),
  ):
    with pytest.raises(ValueError, match=name):
      theory.certify_classifier(found, weights, biases)
  for bounds in (found, found.stability):
    with pytest.raises(ValueError, match="noise"):
      bounds.bound(-1.0)
    with pytest.raises(ValueError, match="distance"):
      bounds.radius(float("nan"))
  with pytest.raises(ValueError, match="sparsity"):
    found.stability.encoder_gap(-1)
  with pytest.raises(ValueError, match=r"jax\.jit"):
    jax.jit(lambda s: theory.encoder_gap(dictionary, s, 0.1).gaps)(x)
