"""Tests norms, coherence and L of atoms at any scale, of zero atoms and of equal atoms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.dictionaries import atom_norms
from tests import references


def _normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


FILTERS, ATOMS, SHAPE = _normal(0, 3, 2, 4), _normal(1, 4, 6), (9, 2)


def _conv(padding):
  return lambda filters: cscjax.ConvDictionary(filters, padding=padding)


# name: (parameters, function that returns the dictionary, shape of a signal)
DICTIONARIES = {
  "dense": (ATOMS, cscjax.MatrixDictionary, (4,)),
  "circular": (FILTERS, _conv("CIRCULAR"), SHAPE),
  "few_atoms": (FILTERS[..., :1], _conv("CIRCULAR"), SHAPE),
  "same": (FILTERS, _conv("SAME"), SHAPE),
}
FUNCTIONS = {  # name: (degree of homogeneity, scales that float32 allows, function)
  "lipschitz": (2, (1e-15, 1e15), cscjax.lipschitz),
  "coherence": (0, (1e-30, 1e30), cscjax.mutual_coherence),
  "norms": (1, (1e-30, 1e30), lambda d, shape: _weighted(jnp.ravel(atom_norms(d, shape)))),
}


def _weighted(values):
  return jnp.vdot(jnp.sin(jnp.arange(values.size)), values)


@pytest.mark.parametrize("name", DICTIONARIES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_value_and_gradient_at_any_scale(function, name):
  parameters, make, shape = DICTIONARIES[name]
  degree, scales, evaluate = FUNCTIONS[function]
  found = jax.jit(jax.value_and_grad(lambda p: evaluate(make(p), shape)))
  parameters = jnp.asarray(parameters, jnp.float32)
  value, gradient = found(parameters)
  for scale in map(np.float32, scales):
    scaled_value, scaled_gradient = found(scale * parameters)
    unscaled = scaled_value if degree == 0 else scaled_value / scale / (scale if degree == 2 else 1)
    np.testing.assert_allclose(unscaled, value, rtol=1e-5)
    unscaled = (
      scaled_gradient * scale if degree == 0 else scaled_gradient / (scale if degree == 2 else 1)
    )
    np.testing.assert_allclose(unscaled, gradient, rtol=1e-3, atol=1e-5)


def test_scale_in_double_precision(x64):
  for scale in (1e-140, 1e140):
    found = cscjax.lipschitz(cscjax.MatrixDictionary(jnp.asarray(scale * ATOMS)), (4,))
    np.testing.assert_allclose(found / scale / scale, references.lipschitz(ATOMS), rtol=1e-12)
    found = cscjax.mutual_coherence(cscjax.MatrixDictionary(jnp.asarray(scale**1.4 * ATOMS)))
    np.testing.assert_allclose(found, references.coherence(ATOMS), rtol=1e-12)


@pytest.mark.parametrize("name", DICTIONARIES)
def test_gradient_of_lipschitz_against_differences(x64, name):
  parameters, make, shape = DICTIONARIES[name]
  parameters, direction = jnp.asarray(parameters), jnp.asarray(_normal(2, *parameters.shape))
  found = jax.jit(lambda p: cscjax.lipschitz(make(p), shape))
  gradient = jax.grad(found)(parameters)
  difference = (found(parameters + 1e-5 * direction) - found(parameters - 1e-5 * direction)) / 2e-5
  np.testing.assert_allclose(jnp.vdot(gradient, direction), difference, rtol=1e-5)


@pytest.mark.parametrize("name", ["dense", "circular", "same"])
@pytest.mark.parametrize("kind", ["zero", "identity"])
def test_repeated_eigenvalues_have_a_subgradient(name, kind):
  """lambda_max(D^T D) = ||D||^2 is convex, so it is nowhere below the plane of a subgradient."""
  parameters, make, shape = DICTIONARIES[name]
  start = np.zeros(parameters.shape, np.float32)
  if kind == "identity":  # the first atoms are unit vectors, so D D^T = I; the other atoms are zero
    if name == "dense":
      start[:, :4] = np.eye(4)
    else:
      start[1, :, :2] = np.eye(2)
  found = jax.jit(jax.value_and_grad(lambda p: cscjax.lipschitz(make(p), shape)))
  value, gradient = found(jnp.asarray(start))
  np.testing.assert_allclose(value, float(kind == "identity"), rtol=1e-5)
  assert np.isfinite(gradient).all()
  for seed in range(5):
    direction = 0.1 * _normal(3 + seed, *start.shape).astype(np.float32)
    assert found(start + direction)[0] >= value + np.vdot(gradient, direction) - 1e-5


@pytest.mark.parametrize("name", DICTIONARIES)
def test_zero_atoms_have_finite_gradients(x64, name):
  """The gradients of the other atoms agree with finite differences."""
  parameters, make, shape = DICTIONARIES[name]
  start = np.array(parameters)
  start[..., -1] = 0
  direction = _normal(9, *start.shape)
  direction[..., -1] = 0
  for evaluate in (cscjax.mutual_coherence, FUNCTIONS["norms"][2]):
    found = jax.jit(lambda p, evaluate=evaluate: evaluate(make(p), shape))
    gradient = jax.grad(found)(jnp.asarray(start))
    assert np.isfinite(gradient).all()
    difference = (found(start + 1e-6 * direction) - found(start - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(np.vdot(gradient, direction), difference, rtol=1e-6, atol=1e-9)


def test_coherence_is_at_most_1():
  """The atoms are copies of one atom, for which rounding alone would give 1.0000001."""
  found = jax.jit(lambda atoms: cscjax.mutual_coherence(cscjax.MatrixDictionary(atoms)))
  for seed in range(20):
    mu = found(jnp.asarray(np.tile(_normal(seed, 7, 1), 3) * [1, -2, 3], jnp.float32))
    assert 1 - 1e-6 < mu <= 1


def test_memory_of_many_channels():
  """A signal of 4.7 MiB (204 sensors, 6,000 samples) must not need gigabytes of memory.

  The spectra of the responses to all unit impulses would take 2.8 and 1.9 GiB.
  """
  shapes = (
    jax.ShapeDtypeStruct((32, 204, 16), jnp.float32),
    jax.ShapeDtypeStruct((6000, 204), jnp.float32),
  )

  def planned(solve, padding):
    run = jax.jit(lambda f, x: solve(_conv(padding)(f), x, 0.1, iterations=2, record=()).code)
    return run.lower(*shapes).compile().memory_analysis().temp_size_in_bytes / 2**20

  assert planned(cscjax.fista, "CIRCULAR") < 40
  assert planned(cscjax.admm, "SAME") < 100
