"""Runs `check_conformance` for all dictionaries, for one of a user, and for dictionaries with faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.dictionaries import AbstractDictionary, CirculantEmbedding, check_conformance
from tests import references


def _normal(*shape):
  return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def _conv(*shape, **geometry):
  return cscjax.ConvDictionary(_normal(*shape), **geometry)


SIZES = [_conv(3, 1, 2), _conv(4, 1, 3, dilation=2), _conv(2, 1, 2, padding="VALID")]
DENSE = [cscjax.MatrixDictionary(_normal(4, 2)), cscjax.MatrixDictionary(_normal(4, 3))]
MIXED = [cscjax.IdentityAugmented(SIZES[0]), cscjax.ScaledDictionary(SIZES[1], 2.0)]
STRIDED = _conv(3, 1, 2, stride=2, padding="VALID")
SEPARABLE = cscjax.SeparableDictionary((_normal(3, 4), _normal(2, 4)), _normal(2, 4))
DICTIONARIES = {
  "dense": (cscjax.MatrixDictionary(_normal(4, 6)), (4,)),
  "tall": (cscjax.MatrixDictionary(_normal(6, 2)), (6,)),
  "same": (_conv(3, 2, 2, 3), (5, 4, 2)),
  "strided": (_conv(3, 2, 3, stride=2), (7, 2)),
  "circular": (_conv(3, 1, 2, padding="CIRCULAR"), (6, 1)),
  "few_atoms": (_conv(3, 3, 1, padding=((2, 1),)), (6, 3)),
  "augmented": (cscjax.IdentityAugmented(_conv(3, 1, 2)), (6, 1)),
  "scaled": (cscjax.ScaledDictionary(_conv(3, 1, 2), jnp.float32(-3)), (6, 1)),
  "scaled_by_zero": (cscjax.ScaledDictionary(_conv(3, 1, 2), 0.0), (5, 1)),
  "scaled_atoms": (cscjax.ScaledDictionary(_conv(3, 1, 2), jnp.array([2.0, 0.5])), (6, 1)),
  "scaled_parts": (
    cscjax.ScaledDictionary(cscjax.IdentityAugmented(_conv(3, 1, 2)), (2.0, jnp.array([1.0, 3.0]))),
    (5, 1),
  ),
  "stacked": (cscjax.StackedDictionary(SIZES), (9, 1)),
  "stacked_dense": (
    cscjax.StackedDictionary(DENSE),
    (4,),
  ),
  "stacked_mixed": (
    cscjax.StackedDictionary(
      [cscjax.IdentityAugmented(SIZES[0]), cscjax.ScaledDictionary(SIZES[1], 2.0)]
    ),
    (8, 1),
  ),
  "stacked_channels": (cscjax.StackedDictionary([_conv(3, 2, 1), _conv(2, 2, 1)]), (6, 2)),
  "stacked_strided": (cscjax.StackedDictionary([SIZES[0], _conv(4, 1, 2, stride=2)]), (8, 1)),
  "masked": (cscjax.MaskedDictionary(SIZES[0], jnp.array([[1.0], [0.0], [1.0], [0.5], [1.0]])), (5, 1)),
  "complex": (cscjax.dictionaries.ComplexDictionary(_conv(3, 1, 2), _conv(3, 1, 2)), (2, 6, 1)),
  "complex_stacked": (
    cscjax.dictionaries.ComplexDictionary(
      cscjax.StackedDictionary(SIZES), cscjax.StackedDictionary(SIZES)
    ),
    (2, 5, 1),
  ),
  "product": (cscjax.ProductDictionary(_conv(3, 1, 2, stride=2), _conv(3, 2, 4)), (9, 1)),
  "channelwise": (cscjax.ChannelwiseDictionary(_conv(3, 2, 1, 2)), (4, 5, 3)),
  "channelwise_strided": (
    cscjax.ChannelwiseDictionary(STRIDED),
    (6, 2),
  ),
  "channelwise_stacked": (cscjax.ChannelwiseDictionary(cscjax.StackedDictionary(SIZES)), (7, 2)),
  "separable": (SEPARABLE, (5, 4, 2)),
  "separable_strided": (
    cscjax.SeparableDictionary([_normal(3, 2), _normal(2, 2)], None, 2, (1, 2), "VALID"),
    (6, 7, 1),
  ),
  "separable_circular": (cscjax.SeparableDictionary((_normal(5, 2),), padding="CIRCULAR"), (7, 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DICTIONARIES)
def test_dictionary_of_the_package(name):
  check_conformance(*DICTIONARIES[name])


def test_every_class_of_the_package_is_tested():
  public = [value for value in vars(cscjax.dictionaries).values() if isinstance(value, type)]
  classes = {value for value in public if issubclass(value, AbstractDictionary)} - {AbstractDictionary}
  assert classes == {type(dictionary) for dictionary, _ in DICTIONARIES.values()}


@pytest.mark.slow
def test_double_precision(x64):
  filters = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, 2)))
  check_conformance(cscjax.StackedDictionary([cscjax.ConvDictionary(filters)] * 2), (6, 1))


class HaarPackets(AbstractDictionary):
  """A user's dictionary: an orthonormal Haar transform of one level, times a weight for each band.

  It uses public names only. D D^T = B diag(weights^2) B^T for an orthonormal B, so that the ridge
  inverse is cheap: B diag(1 / (ridge + weights^2)) B^T.
  """

  weights: jax.Array  # [2]
  signal_ndim = 1

  def analysis(self, x):
    return self._weighted(self._bands(x))

  def synthesis(self, code, signal_shape=None):
    return self._from_bands(self._weighted(code))

  def compute_lipschitz(self, shape, tolerance, key):
    return jnp.max(jnp.square(self.weights))

  def circulant_embedding(self, signal_shape, margins=None):
    def ridge_inverse(ridge):
      return jax.tree_util.Partial(HaarPackets._inverse, self, ridge)

    mean = jnp.mean(jnp.square(self.weights))
    return CirculantEmbedding(self, tuple(signal_shape), ridge_inverse, squared_norm=mean)

  def _inverse(self, ridge, x):
    bands = self._bands(x)
    bands = bands / jnp.broadcast_to(ridge + jnp.square(self.weights), bands.shape)
    return self._from_bands(bands), self._weighted(bands)

  def _weighted(self, bands):
    return bands * jnp.broadcast_to(self.weights, bands.shape)

  def _bands(self, x):
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even + odd, even - odd], axis=-1) / np.sqrt(np.float32(2)).astype(x.dtype)

  def _from_bands(self, bands):
    low, high = bands[..., 0], bands[..., 1]
    pairs = jnp.stack([low + high, low - high], axis=-1) / np.sqrt(np.float32(2)).astype(bands.dtype)
    return pairs.reshape(*pairs.shape[:-2], -1)


HAAR = HaarPackets(jnp.array([1.0, 2.0]))


def test_dictionary_of_a_user():
  check_conformance(HAAR, (6,))


def _haar_solution(x, beta):
  """Minimizes 1/2 ||x - D code||^2 + beta ||code||_1, which is separable for an orthogonal D."""
  weights = np.asarray(HAAR.weights)
  bands = np.asarray(HAAR._bands(x))
  return np.sign(bands) * np.maximum(weights * np.abs(bands) - beta, 0) / weights**2


@pytest.mark.slow
def test_solvers_with_the_dictionary_of_a_user():
  x, beta = _normal(2, 8), 0.7
  expected = _haar_solution(x, beta)
  for solve in (cscjax.ista, cscjax.fista, cscjax.admm):
    result = solve(HAAR, x, beta, tolerance=1e-6)
    assert result.converged.all()
    np.testing.assert_allclose(result.code, expected, atol=2e-5)
  largest = np.max(np.abs(HAAR.analysis(x)), axis=(1, 2))
  np.testing.assert_allclose(np.ravel(cscjax.beta_max(HAAR, x)), largest, rtol=1e-6)
  assert np.max(np.abs(cscjax.duality_gap(HAAR, x, jnp.asarray(expected), beta))) < 1e-4
  above = cscjax.MatrixDictionary(_normal(2, 3))
  (code, _) = cscjax.layered_thresholding([HAAR, above], x, [0.1, 0.1])
  assert code.shape == (2, 4, 2)
  layers = cscjax.layered_bp([HAAR], x, [beta], iterations=200)
  np.testing.assert_allclose(layers.codes[0], expected, atol=1e-5)


class WrongAdjoint(cscjax.MatrixDictionary):
  def analysis(self, x):
    return super().analysis(x) * 1.01


class NotLinear(cscjax.MatrixDictionary):
  def synthesis(self, code, signal_shape=None):
    return super().synthesis(code) + 0.1 * jnp.minimum(jnp.abs(code[..., :1]), jnp.abs(code[..., 1:2]))


class BatchIgnored(cscjax.MatrixDictionary):
  def analysis(self, x):
    return super().analysis(jnp.broadcast_to(x[(0,) * (x.ndim - 1)], x.shape))


class BatchDropped(cscjax.MatrixDictionary):
  def synthesis(self, code, signal_shape=None):
    return super().synthesis(code.reshape(-1, code.shape[-1])[0])


class WrongResidual(cscjax.MatrixDictionary):
  def residual(self, code, x):
    return x - self.synthesis(code)


class WrongType(cscjax.MatrixDictionary):
  def synthesis(self, code, signal_shape=None):
    return super().synthesis(code).astype(jnp.float16)


class NoGradient(cscjax.MatrixDictionary):
  def analysis(self, x):
    return super().analysis(jax.lax.stop_gradient(x))


class NaNGradient(cscjax.MatrixDictionary):
  def analysis(self, x):
    return super().analysis(x) + 0 * jnp.sqrt(jnp.sum(jnp.square(self.atoms - self.atoms)))


class TooSmallLipschitz(cscjax.MatrixDictionary):
  def compute_lipschitz(self, shape, tolerance, key):
    return 0.9 * super().compute_lipschitz(shape, tolerance, key)


class IgnoredTolerance(cscjax.MatrixDictionary):
  def compute_lipschitz(self, shape, tolerance, key):
    return 1.1 * super().compute_lipschitz(shape, tolerance, key)


class WrongNorms(cscjax.MatrixDictionary):
  def compute_atom_norms(self, shape):
    return jnp.ones(self.atoms.shape[1])


class WrongAtom(cscjax.MatrixDictionary):
  def atom(self, index, signal_shape=None):
    return self.atoms[:, index - 1]


class WrongEntries(cscjax.MatrixDictionary):
  def atom_entries(self, indices, signal_shape):
    values, rows, columns = super().atom_entries(indices, signal_shape)
    return 2 * values, rows, columns


class WrongRepresentatives(cscjax.MatrixDictionary):
  def representative_atoms(self, signal_shape):
    dictionary, shape, _ = super().representative_atoms(signal_shape)
    gram = self.atoms.T @ self.atoms
    cosines = jnp.abs(gram) / jnp.sqrt(jnp.outer(jnp.diag(gram), jnp.diag(gram)))
    return dictionary, shape, np.array([int(jnp.argmin(jnp.sum(cosines, axis=1)))])


class WrongCoherence(cscjax.MatrixDictionary):
  def compute_coherence(self, shape):
    return super().compute_coherence(shape) / 2


class WrongRidge(cscjax.MatrixDictionary):
  def circulant_embedding(self, signal_shape, margins=None):
    embedding = super().circulant_embedding(signal_shape, margins)
    return embedding._replace(ridge_inverse=lambda ridge: embedding.ridge_inverse(ridge + 1))


class WrongCrop(cscjax.ConvDictionary):
  def circulant_embedding(self, signal_shape, margins=None):
    embedding = super().circulant_embedding(signal_shape, margins)
    return embedding._replace(crop_signal=lambda x: x[..., : signal_shape[0], :])


class DiffersUnderJit(cscjax.MatrixDictionary):
  def analysis(self, x):
    return super().analysis(x) * (1 if isinstance(x, jax.core.Tracer) or x.ndim > 1 else 3)


FAULTS = {
  WrongAdjoint: "analysis is not the adjoint of synthesis",
  NotLinear: "not the adjoint|not linear",
  BatchIgnored: "analysis of a batch is not that of its signals",
  BatchDropped: "synthesis does not keep the batch axes",
  WrongResidual: "residual is not D code - x",
  WrongType: "synthesis returns float16",
  NoGradient: "the gradient with respect to x is wrong",
  NaNGradient: "the gradient with respect to a leaf is not finite",
  TooSmallLipschitz: "lipschitz is .* but L is",
  IgnoredTolerance: r"lipschitz\(tolerance=0.01\) is .* but L is",
  WrongNorms: "atom_norms are not those of the atoms",
  WrongAtom: "atom is not the signal of a unit code",
  WrongEntries: "atom_entries are not those of the atoms",
  WrongRepresentatives: "representative_atoms have other cosines than all atoms",
  WrongCoherence: "mutual_coherence is not that of the atoms",
  WrongRidge: "ridge_inverse does not solve the linear system",
  DiffersUnderJit: "jax.jit changes analysis",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_finds_a_planted_fault(fault):
  with pytest.raises(AssertionError, match=rf"^{fault.__name__}: .*({FAULTS[fault]})"):
    check_conformance(fault(_normal(4, 6)), (4,))


@pytest.mark.slow
def test_finds_a_wrong_window():
  with pytest.raises(AssertionError, match="the embedding does not reproduce D code"):
    check_conformance(WrongCrop(_normal(3, 1, 2)), (6, 1))


@pytest.mark.parametrize(
  "name",
  [
    "channelwise_stacked",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("stacked_mixed", "separable", "scaled")),
  ],
)
def test_admm_solves_the_problem_of_its_dense_matrix(name):
  dictionary, shape = DICTIONARIES[name]
  d = np.asarray(cscjax.to_matrix(dictionary, shape), np.float64)
  x = _normal(*shape)
  result = cscjax.admm(dictionary, x, 0.5, iterations=200)
  code = np.concatenate([np.ravel(part) for part in jax.tree.leaves(result.code)]).astype(np.float64)
  expected, _ = references.pursue(d, np.ravel(x), 0.5, 4000, accelerate=True)
  objectives = [references.lasso_objective(d, np.ravel(x), c, 0.5) for c in (code, expected)]
  np.testing.assert_allclose(*objectives, rtol=1e-5)
