"""Certified radii and Lipschitz constants of networks against Jacobians, attacks and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

import cscjax
from cscjax.models import MLCSC, MSDCSC, ResCSC
from cscjax.models._gains import layer_gains, slopes
from cscjax.theory import certify_labels
from tests import references
from tests.models.networks import initialized

MSD = {"num_classes": 3, "depth": 3, "width": 2, "dilations": (1, 2)}
NETWORKS = {
  "res_csc": ResCSC(num_classes=3, depth=8, width=2),
  "resnet": ResCSC(num_classes=3, depth=8, width=2, rule="resnet"),
  "simplified": ResCSC(num_classes=3, depth=8, width=2, rule="simplified", c=-0.2),
  "plain": ResCSC(num_classes=3, depth=8, width=2, rule="plain", norm=False),
  "msdnet": MSDCSC(**MSD),
  "msd_csc": MSDCSC(**MSD, unfolding=2, solver="fista"),
  "msd_csc, free step": MSDCSC(**MSD, unfolding=1, step="free"),
  "msd_csc, all layers": MSDCSC(**MSD, unfolding=2, solver="fista", pursuit="multilayer"),
  "feed-forward": MLCSC(num_classes=3, width=2),
  "ml_csc": MLCSC(num_classes=3, width=2, unfolding=2, solver="fista"),
  "layered": MLCSC(num_classes=3, width=2, unfolding=1, pursuit="layer", norm=False),
  "lista": MLCSC(num_classes=3, width=2, unfolding=1, pursuit="lista"),
}


def bound(name):
  """Returns a network with random parameters, and four images."""
  x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 9, 8, 2)))
  model = NETWORKS[name]
  return model.bind(initialized(model, x)), x


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_no_jacobian_exceeds_the_gains(x64, name):
  network, x = bound(name)
  gains = np.asarray(network.margin_gains(x.shape[1:]))
  model, variables = network.unbind()
  jacobian = jax.jit(jax.vmap(jax.jacrev(lambda image: model.apply(variables, image[None])[0])))
  largest = np.zeros_like(gains)
  for scale in (0.1, 1, 10):
    rows = np.asarray(jacobian(scale * x)).reshape(len(x), 3, -1)
    differences = np.linalg.norm(rows[:, :, None] - rows[:, None], axis=-1)
    largest = np.maximum(largest, differences.max(axis=0))
  assert np.all(largest[~np.eye(3, dtype=bool)] > 0)
  assert np.all(largest <= gains)


@pytest.mark.parametrize("augmented", [False, True])
def test_gains_of_a_layer_are_norms_of_its_matrices(x64, augmented):
  """They exceed them by the slack of `lipschitz_bound` alone, at most 35 % of the square."""
  rng = np.random.default_rng(0)
  filters, slope = rng.normal(size=(3, 3, 2, 3)), rng.uniform(0.5, 1.5, size=3)
  matrix = references.conv_matrix(filters, (8, 7))
  diagonal = np.tile(slope, 8 * 7)
  if augmented:
    matrix, diagonal = (
      np.hstack([np.eye(len(matrix)), matrix]),
      np.append(np.ones(len(matrix)), diagonal),
    )
  step = 1.5 / references.lipschitz(matrix)
  conv = cscjax.ConvDictionary(jnp.asarray(filters))
  gains = layer_gains(conv, augmented, [jnp.asarray(slope)], jnp.asarray(step), (8, 7, 2))
  kept = diagonal[:, None] * (np.eye(len(diagonal)) - step * matrix.T @ matrix)
  for gain, map_ in (
    (gains.analysis[0], diagonal[:, None] * matrix.T),
    (gains.synthesis, matrix),
    (gains.kept[0], kept),
  ):
    norm = np.linalg.norm(map_, 2)
    assert norm <= float(gain) < 1.35**0.5 * norm + 1e-9


def test_slopes_are_those_of_the_batch_norm(x64):
  params = {"scale": jnp.array([2.0, -3.0]), "bias": jnp.zeros(2)}
  stats = {"norm_1": {"var": jnp.array([4.0, 0.25]), "mean": jnp.ones(2)}}
  np.testing.assert_allclose(slopes(params, stats, 1), [1, 6], rtol=1e-4)
  np.testing.assert_array_equal(slopes({"bias": jnp.zeros(2)}, None), [1, 1])


class Linear:
  """A linear classifier, whose nearest image with another label is known."""

  kernel = np.random.default_rng(0).normal(size=(4, 6))

  def __call__(self, x):
    return x @ jnp.asarray(self.kernel.T)

  def margin_gains(self, signal_shape):
    del signal_shape
    return jnp.linalg.norm(jnp.asarray(self.kernel[:, None] - self.kernel[None]), axis=-1)


def test_a_linear_classifier(x64):
  """The certified radius is the distance to the nearest boundary, and the attack reaches it."""
  x = jnp.asarray(np.random.default_rng(2).normal(size=(5, 6)))
  result = certify_labels(Linear(), x)
  logits = np.asarray(Linear()(x))
  np.testing.assert_array_equal(result.label, np.argmax(logits, axis=1))
  for i, label in enumerate(np.argmax(logits, axis=1)):
    others = np.delete(np.arange(4), label)
    norms = np.linalg.norm(Linear.kernel[label] - Linear.kernel[others], axis=1)
    distances = (logits[i, label] - logits[i, others]) / norms
    np.testing.assert_allclose(result.certified_radius[i], distances.min(), rtol=1e-9)
    assert distances.min() <= result.attack_radius[i] < (1 + 1e-6) * distances.min()
  np.testing.assert_allclose(result.jacobian_norm, np.linalg.norm(Linear.kernel, 2), rtol=1e-2)


class InEllipse:
  """Label 0 inside of an ellipse with the semi-axes 2 and 1, label 1 outside."""

  def __call__(self, x):
    value = jnp.square(x[:, 0] / 2) + jnp.square(x[:, 1]) - 1
    return jnp.stack([-value, value], axis=-1)

  def margin_gains(self, signal_shape):
    del signal_shape
    return jnp.full((2, 2), 20.0)  # for points at a norm of at most 4


def test_the_attack_finds_the_nearest_point_of_a_curved_boundary(x64):
  """DeepFool alone ends up to 14 % farther away from these points."""
  angle = np.linspace(0, 2 * np.pi, 100_001)
  boundary = np.stack([2 * np.cos(angle), np.sin(angle)], axis=-1)
  x = np.array([[0.9, 0.2], [-1.2, 0.1], [0.3, -0.4], [2.5, 1.5], [1.0, -2.0]])
  result = certify_labels(InEllipse(), jnp.asarray(x))
  nearest = np.linalg.norm(boundary - x[:, None], axis=-1).min(axis=1)
  np.testing.assert_array_equal(result.label, [0, 0, 0, 1, 1])
  assert np.all(result.certified_radius <= nearest)
  np.testing.assert_allclose(result.attack_radius, nearest, rtol=1e-3)
  assert np.all(result.attack_radius > (1 - 1e-8) * nearest)


def test_without_another_label_the_attack_finds_nothing():
  class Constant(Linear):
    kernel = np.zeros((4, 6))

    def __call__(self, x):
      return super().__call__(x) + jnp.arange(4, dtype=x.dtype)[None]

  result = certify_labels(Constant(), jnp.ones((1, 6)))
  assert np.isposinf(result.certified_radius).all()
  assert np.isposinf(result.attack_radius).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["res_csc", "msd_csc", "ml_csc"])
def test_no_attack_is_within_the_certified_radius(x64, name):
  network, x = bound(name)
  result = certify_labels(network, x)
  assert np.all(result.certified_radius > 0)
  assert np.all(result.certified_radius <= result.attack_radius)
  assert np.isfinite(result.attack_radius).any()
  model, variables = network.unbind()
  np.testing.assert_array_equal(result.label, np.argmax(model.apply(variables, x), axis=-1))


@pytest.mark.slow
def test_a_trained_network():
  network = cscjax.load_pretrained("digits").network
  images = (15 * load_digits().images[:3, ..., None]).astype(np.uint8)
  result = network.certify_labels(images, steps=20)
  np.testing.assert_array_equal(result.label, network.predict(images).labels)
  assert np.all(0 < result.certified_radius)
  assert np.all(result.certified_radius <= result.attack_radius)
  assert np.all(result.attack_radius < np.inf)


def test_errors():
  with pytest.raises(ValueError, match=r"^network: "):
    certify_labels(lambda x: x, jnp.ones((1, 3)))
  with pytest.raises(ValueError, match=r"^steps: "):
    certify_labels(Linear(), jnp.ones((1, 6)), steps=0)
