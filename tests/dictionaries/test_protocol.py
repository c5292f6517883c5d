"""Tests dictionaries that implement the protocol outside the package, against their matrix."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from tests import references


def _register(**static):
  """Returns a decorator for a frozen dataclass that is a pytree; `static` names its static fields."""

  def decorate(cls):
    cls = dataclasses.dataclass(frozen=True)(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    leaves = [name for name in names if name not in static]
    return jax.tree_util.register_dataclass(cls, leaves, [name for name in names if name in static])

  return decorate


@_register()
class Kronecker:
  """Images [H, W] without channels; D code = left @ code @ right^T."""

  left: Any
  right: Any
  signal_ndim = 2

  def analysis(self, x):
    return self.left.T @ x @ self.right

  def synthesis(self, code, signal_shape=None):
    return self.left @ code @ self.right.T

  def residual(self, code, x):
    return self.synthesis(code) - x


@_register(size=True)
class Cosines:
  """The orthonormal DCT-II of vectors, without leaves; its matrix has the type of the signal."""

  size: int
  signal_ndim = 1

  def _matrix(self, dtype):
    n = np.arange(self.size)
    matrix = np.sqrt(2 / self.size) * np.cos(np.pi * (n[:, None] + 0.5) * n / self.size)
    matrix[:, 0] /= np.sqrt(2)
    return jnp.asarray(matrix, dtype)

  def analysis(self, x):
    return x @ self._matrix(x.dtype)

  def synthesis(self, code, signal_shape=None):
    return code @ self._matrix(code.dtype).T

  def residual(self, code, x):
    return self.synthesis(code) - x


@_register()
class SpikesAndAtoms:
  """Spikes at given sites and dense atoms, with codes that are a dict and an integer leaf."""

  sites: Any
  atoms: Any
  signal_ndim = 1

  def analysis(self, x):
    return {"spikes": x[..., self.sites], "atoms": x @ self.atoms}

  def synthesis(self, code, signal_shape=None):
    return (code["atoms"] @ self.atoms.T).at[..., self.sites].add(code["spikes"])

  def residual(self, code, x):
    return self.synthesis(code) - x


def _normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


def _dense(dtype):
  return Kronecker(jnp.asarray(_normal(1, 4, 5), dtype), jnp.asarray(_normal(2, 3, 2), dtype))


FOREIGN = {
  "kronecker": (_dense(jnp.float32), (4, 3)),
  "half_precision": (_dense(jnp.bfloat16), (4, 3)),
  "no_leaves": (Cosines(6), (6,)),
  "dict_code": (SpikesAndAtoms(jnp.array([0, 2, 5]), jnp.asarray(_normal(3, 6, 8), jnp.float32)), (6,)),
}


def _matrix(name):
  """Returns the matrix of the dictionary in float64, from the synthesis of each unit vector."""
  dictionary, shape = FOREIGN[name]
  code = jax.eval_shape(dictionary.analysis, jax.ShapeDtypeStruct(shape, jnp.float32))
  leaves, structure = jax.tree.flatten(code)
  columns = []
  for i, leaf in enumerate(leaves):
    for j in range(leaf.size):
      parts = [np.zeros(other.shape, np.float32) for other in leaves]
      parts[i].flat[j] = 1
      columns.append(np.ravel(dictionary.synthesis(structure.unflatten(map(jnp.asarray, parts)), shape)))
  return np.stack(columns, 1).astype(np.float64)


def _flat(code, batch=()):
  parts = [np.reshape(np.asarray(part, np.float64), (*batch, -1)) for part in jax.tree.leaves(code)]
  return np.concatenate(parts, -1)


@pytest.mark.parametrize("name", FOREIGN)
def test_properties(name):
  dictionary, shape = FOREIGN[name]
  d = _matrix(name)
  np.testing.assert_allclose(cscjax.to_matrix(dictionary, shape), d, rtol=1e-2, atol=1e-6)
  largest = references.lipschitz(d)
  assert largest * (1 - 1e-6) <= float(cscjax.lipschitz(dictionary, shape)) <= largest * 1.02
  mu = cscjax.mutual_coherence(dictionary, shape)
  np.testing.assert_allclose(np.asarray(mu, float), references.coherence(d), rtol=1e-2, atol=1e-6)
  norms = _flat(cscjax.dictionaries.atom_norms(dictionary, shape))
  np.testing.assert_allclose(norms, np.linalg.norm(d, axis=0), rtol=1e-2)


OPTIONS = {
  "default step": {"iterations": 300},
  "tolerance": {"tolerance": 1e-4},
  "adaptive": {"iterations": 300, "step": "adaptive"},
  "backtracking": {"tolerance": 1e-4, "step": "backtracking"},
}


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("kronecker", "tolerance"),
    ("half_precision", "default step"),
    ("no_leaves", "default step"),
    ("no_leaves", "backtracking"),
    ("dict_code", "default step"),
    ("dict_code", "adaptive"),
  ],
)
def test_fista_reaches_the_optimum_of_the_dense_problem(name, options):
  """Compares the objective with that of many iterations on the matrix, for two signals and a mask."""
  dictionary, shape = FOREIGN[name]
  x = jnp.asarray(_normal(4, 2, *shape), jnp.float32)
  mask = jnp.ones(shape).at[(0,) * len(shape)].set(0)
  d = _matrix(name)[1:]
  result = cscjax.fista(dictionary, x, 0.3, mask=mask, **OPTIONS[options])
  for code, signal in zip(_flat(result.code, (2,)), np.reshape(x, (2, -1))[:, 1:], strict=True):
    best = references.pursue(d, np.asarray(signal, np.float64), 0.3, 3000, accelerate=True)[1][-1]
    found = references.lasso_objective(d, np.asarray(signal, np.float64), code, 0.3)
    assert best * (1 - 1e-6) <= found <= best * 1.03


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kronecker", "dict_code"])
def test_implicit_derivative(x64, name):
  """Compares the derivative of the code along a direction of the signal with a finite difference."""
  dictionary, shape = FOREIGN[name]
  x, direction = jnp.asarray(_normal(5, *shape)), jnp.asarray(_normal(6, *shape))

  def total(t):
    code = cscjax.fista(dictionary, x + t * direction, 0.3, tolerance=1e-12, max_iterations=5000).code
    return sum(jnp.sum(jnp.sin(part)) for part in jax.tree.leaves(code))

  found = jax.grad(total)(0.0)
  np.testing.assert_allclose(found, (total(1e-6) - total(-1e-6)) / 2e-6, rtol=1e-3)


@pytest.mark.slow
def test_certificates_and_layers():
  dictionary, shape = FOREIGN["dict_code"]
  x = jnp.asarray(_normal(7, *shape), jnp.float32)
  d = _matrix("dict_code")
  np.testing.assert_allclose(
    cscjax.beta_max(dictionary, x), np.abs(d.T @ np.asarray(x)).max(), rtol=1e-5
  )
  code = cscjax.fista(dictionary, x, 0.1, iterations=3000).code
  assert 0 <= cscjax.duality_gap(dictionary, x, code, 0.1) < 1e-3
  above = cscjax.MatrixDictionary(jnp.asarray(_normal(8, 4, 5), jnp.float32))
  first = FOREIGN["no_leaves"][0]
  codes = cscjax.layered_thresholding([Cosines(4), above], x[:4], [0.1, 0.1])
  assert [part.shape for part in jax.tree.leaves(codes)] == [(4,), (5,)]
  result = cscjax.ml_fista([first, dictionary], x, [0.1, 0.1], iterations=5)
  assert np.isfinite(_flat(result.codes)).all()


def test_types_follow_the_dictionary(x64):
  """The code has the common type of signal and leaves, or that of the signal if there are no leaves."""
  x = jnp.ones((4, 3), jnp.float32)
  assert cscjax.fista(_dense(jnp.float64), x, 0.1, iterations=2).code.dtype == jnp.float64
  assert cscjax.fista(Cosines(6), jnp.ones(6, jnp.float32), 0.1, iterations=2).code.dtype == jnp.float32
  assert cscjax.lipschitz(_dense(jnp.bfloat16), (4, 3)).dtype == jnp.bfloat16


def test_admm_says_what_it_needs():
  dictionary, shape = FOREIGN["kronecker"]
  with pytest.raises(ValueError, match=r"^dictionary: .* a method circulant_embedding"):
    cscjax.admm(dictionary, jnp.ones(shape), 0.1)


def test_other_objects_are_refused():
  """A dictionary must be a pytree with hashable static fields."""

  class Plain:
    signal_ndim = 1
    analysis = synthesis = staticmethod(lambda x, signal_shape=None: x)
    residual = staticmethod(lambda code, x: code - x)

  with pytest.raises(ValueError, match=r"^dictionary: expected a pytree"):
    cscjax.fista(Plain(), jnp.ones(3), 0.1)
  with pytest.raises(ValueError, match=r"^dictionary: expected hashable static fields"):
    cscjax.fista(Cosines(np.array(6)), jnp.ones(6), 0.1)
