"""Compares the maps of every dictionary, `to_matrix` and the coherence with explicit matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from tests import references

RNG = np.random.default_rng(0)
FILTERS_2D = RNG.normal(size=(3, 2, 2, 3))
FILTERS_1D = RNG.normal(size=(4, 2, 3))
ATOMS = RNG.normal(size=(5, 9))

# name: (dictionary, signal shape, matrix D)
CASES = {
  "matrix": lambda: (cscjax.MatrixDictionary(jnp.asarray(ATOMS)), (5,), ATOMS),
  "circular": lambda: _conv(FILTERS_2D, (4, 3), padding="CIRCULAR", dilation=2),
  "same_strided": lambda: _conv(FILTERS_2D, (5, 4), padding="SAME", stride=2),
  "valid_1d": lambda: _conv(FILTERS_1D, (7,), padding="VALID"),
  "explicit_1d": lambda: _conv(FILTERS_1D, (6,), padding=((1, 2),), stride=2),
  "identity_2d": lambda: _identity(FILTERS_2D, (4, 3), padding="SAME"),
  "identity_1d": lambda: _identity(FILTERS_1D, (6,), padding="CIRCULAR", dilation=3),
}


def _conv(filters, spatial, **geometry):
  d = references.conv_matrix(filters, spatial, **geometry)
  return cscjax.ConvDictionary(jnp.asarray(filters), **geometry), (*spatial, filters.shape[-2]), d


def _identity(filters, spatial, **geometry):
  conv, shape, d = _conv(filters, spatial, **geometry)
  return cscjax.IdentityAugmented(conv), shape, np.hstack([np.eye(d.shape[0]), d])


@pytest.fixture(params=CASES)
def case(x64, request):
  return CASES[request.param]()


def _flat(code, batch):
  return np.concatenate([np.reshape(part, (batch, -1)) for part in jax.tree.leaves(code)], axis=1)


def test_to_matrix(case):
  dictionary, shape, d = case
  np.testing.assert_allclose(cscjax.to_matrix(dictionary, shape), d, atol=1e-12)


def test_analysis_synthesis_and_residual(case):
  dictionary, shape, d = case
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.normal(size=(2, *shape)))
  analysis = dictionary.analysis(x)
  np.testing.assert_allclose(_flat(analysis, 2), x.reshape(2, -1) @ d, atol=1e-12)
  code = jax.tree.map(lambda part: jnp.asarray(rng.normal(size=part.shape)), analysis)
  rebuilt = (_flat(code, 2) @ d.T).reshape(x.shape)
  np.testing.assert_allclose(dictionary.synthesis(code, x.shape), rebuilt, atol=1e-12)
  np.testing.assert_allclose(dictionary.residual(code, x), rebuilt - x, atol=1e-12)


def test_residual_if_a_is_the_signal(x64):
  dictionary, shape, d = _identity(FILTERS_2D, (4, 3), padding="SAME")
  rng = np.random.default_rng(2)
  x, z = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=(4, 3, 3)))
  expected = d[:, x.size :] @ z.ravel()
  np.testing.assert_allclose(dictionary.residual((x, z), x).ravel(), expected, atol=1e-12)
  np.testing.assert_allclose(dictionary.residual((x + 0, z), x).ravel(), expected, atol=1e-12)


def test_signal_ndim(case):
  dictionary, shape, _ = case
  assert dictionary.signal_ndim == len(shape)
  assert isinstance(dictionary, cscjax.Dictionary)


def test_synthesis_without_a_shape():
  code = jnp.ones((2, 3, 2, 3))
  same = cscjax.ConvDictionary(jnp.ones((3, 2, 2, 3)), stride=2)
  assert same.synthesis(code).shape == (2, 6, 4, 2)
  assert same.synthesis(code, (2, 5, 3, 2)).shape == (2, 5, 3, 2)
  assert cscjax.ConvDictionary(jnp.ones((3, 2, 2, 3)), padding="VALID").synthesis(code).shape == (
    2,
    5,
    3,
    2,
  )


def test_is_a_pytree_under_jit_vmap_and_grad(x64):
  filters = jnp.asarray(np.random.default_rng(3).normal(size=(4, 3, 1, 2)))
  x = jnp.asarray(np.random.default_rng(4).normal(size=(5, 1)))

  @jax.jit
  def energy(dictionary):
    return jnp.sum(dictionary.analysis(x) ** 2)

  stacked = cscjax.ConvDictionary(filters, stride=[2], padding=[(1, 0)])  # lists are converted
  alone = [energy(stacked.replace(filters=f)) for f in filters]
  np.testing.assert_allclose(jax.vmap(energy)(stacked), alone, rtol=1e-12)
  gradient = jax.grad(energy)(stacked.replace(filters=filters[0]))
  assert gradient.stride == (2,)
  d = references.conv_matrix(filters[0], (5,), stride=2, padding=((1, 0),))
  np.testing.assert_allclose(np.sum(gradient.filters * filters[0]) / 2, np.sum((x[:, 0] @ d) ** 2))


def test_coherence(case):
  dictionary, shape, d = case
  found = cscjax.mutual_coherence(dictionary, shape)
  np.testing.assert_allclose(found, references.coherence(d), rtol=1e-10)
  assert 0 <= found <= 1 + 1e-12


def test_coherence_ignores_scale_and_zero_atoms(x64):
  atoms = jnp.array([[1.0, 10.0, 0.0, 1.0], [0.0, 0.0, 0.0, -1.0]])
  np.testing.assert_allclose(cscjax.mutual_coherence(cscjax.MatrixDictionary(atoms), (2,)), 1)
  atoms = atoms[:, 1:]
  np.testing.assert_allclose(cscjax.mutual_coherence(cscjax.MatrixDictionary(atoms), (2,)), 0.5**0.5)


def test_coherence_of_orthogonal_atoms(x64):
  assert cscjax.mutual_coherence(cscjax.MatrixDictionary(jnp.eye(4)), (4,)) == 0
