"""Compares every way to compute the Lipschitz constant with the norm of a dense matrix."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.dictionaries._lipschitz import lanczos_steps
from tests import references


def _filters(*shape):
  return np.random.default_rng(sum(shape)).normal(size=shape)


CIRCULANT = {
  "1d": (_filters(3, 1, 4), (7,), {}),
  "1d_channels_dilated": (_filters(4, 3, 2), (8,), {"dilation": 2}),
  "2d": (_filters(3, 3, 1, 2), (5, 4), {}),
  "2d_channels": (_filters(3, 2, 3, 5), (4, 5), {}),
  "2d_channels_dilated": (_filters(2, 3, 3, 2), (5, 6), {"dilation": (2, 3)}),
  "3d_channels_dilated": (_filters(2, 3, 2, 3, 2), (3, 4, 5), {"dilation": (1, 1, 2)}),
  "longer_than_the_signal": (_filters(5, 2, 2), (3,), {"dilation": 2}),
}
OTHER = {
  "same": (_filters(3, 3, 2, 3), (5, 4), {"padding": "SAME"}),
  "valid": (_filters(2, 3, 2, 3), (5, 6), {"padding": "VALID", "dilation": 2}),
  "same_strided": (_filters(4, 2, 3), (7,), {"padding": "SAME", "stride": 2}),
  "circular_strided": (_filters(3, 3, 1, 4), (6, 6), {"padding": "CIRCULAR", "stride": (1, 2)}),
  "same_3d_strided": (_filters(2, 3, 2, 2, 3), (4, 3, 4), {"padding": "SAME", "stride": (1, 2, 1)}),
  "explicit": (_filters(4, 4, 1, 3), (6, 6), {"padding": ((1, 1), (1, 1)), "stride": 2}),
}


def _conv(filters, spatial, geometry):
  dictionary = cscjax.ConvDictionary(jnp.asarray(filters), **geometry)
  dense = references.lipschitz(references.conv_matrix(filters, spatial, **geometry))
  return dictionary, (*spatial, filters.shape[-2]), dense


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5)])
def test_matrix(x64, shape):
  atoms = _filters(*shape)
  found = cscjax.lipschitz(cscjax.MatrixDictionary(jnp.asarray(atoms)), shape[:1])
  np.testing.assert_allclose(found, references.lipschitz(atoms), rtol=1e-12)


@pytest.mark.parametrize("name", CIRCULANT)
def test_circulant(x64, name):
  filters, spatial, geometry = CIRCULANT[name]
  dictionary, shape, dense = _conv(filters, spatial, {**geometry, "padding": "CIRCULAR"})
  np.testing.assert_allclose(cscjax.lipschitz(dictionary, shape), dense, rtol=1e-12)


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("tolerance", [0.2, 0.01, pytest.param(1e-4, marks=pytest.mark.slow)])
def test_certified(x64, name, tolerance):
  dictionary, shape, dense = _conv(*OTHER[name])
  found = cscjax.lipschitz(dictionary, shape, tolerance=tolerance)
  assert dense <= found <= dense / (1 - tolerance) * (1 + 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@pytest.mark.parametrize(("spatial", "kernel"), [((40,), (5,)), ((12, 10), (3, 3))], ids=["1d", "2d"])
def test_never_below_in_float32(spatial, kernel, padding):
  """Compares with a dense matrix in float64, for random filters and many random starts."""
  stride, tolerance, shape = 1 + (padding == "CIRCULAR"), 0.05, (*spatial, 2)

  @jax.jit
  def bound(filters, key):
    dictionary = cscjax.ConvDictionary(filters, padding=padding, stride=stride)
    return cscjax.lipschitz(dictionary, shape, tolerance=tolerance, key=key)

  for seed in range(10):
    filters = np.random.default_rng(seed).normal(size=(*kernel, 2, 3))
    d = references.conv_matrix(filters, spatial, padding=padding, stride=stride)
    dense = references.lipschitz(d)
    found = float(bound(jnp.asarray(filters, jnp.float32), jax.random.key(seed)))
    assert dense <= found <= dense / (1 - tolerance) * (1 + 1e-5)


def test_number_of_steps():
  """k is the smallest number for which Theorem 4.2 of Kuczynski & Wozniakowski gives 1e-6."""
  for n, tolerance in [(65_536, 0.01), (300, 0.1), (3_000_000, 0.03), (7, 0.01)]:
    k = lanczos_steps(n, tolerance)
    probability = [1.648 * n**0.5 * np.exp(-(tolerance**0.5) * (2 * j - 1)) for j in (k - 1, k)]
    assert probability[1] <= 1e-6 < probability[0]


def test_different_keys_give_different_bounds(x64):
  dictionary, shape, _ = _conv(_filters(3, 3, 2, 3), (9, 9), {"padding": "SAME"})
  keys = jax.random.split(jax.random.key(1), 2)
  one, other = (cscjax.lipschitz(dictionary, shape, tolerance=0.5, key=key) for key in keys)
  assert one != other


def test_tolerance_out_of_range():
  dictionary, shape, _ = _conv(*OTHER["same"])
  bad: list[Any] = [0, 1, -0.1, float("nan"), "small"]
  for tolerance in bad:
    with pytest.raises(ValueError, match="tolerance"):
      cscjax.lipschitz(dictionary, shape, tolerance=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["CIRCULAR", "SAME"])
def test_identity_augmented(x64, padding):
  """Compares with Lemma 2 and with the norm of the matrix [I, F^T]."""
  filters, spatial = _filters(3, 3, 2, 4), (5, 4)
  conv, shape, _ = _conv(filters, spatial, {"padding": padding, "dilation": 2})
  d = references.conv_matrix(filters, spatial, padding=padding, dilation=2)
  dense = references.lipschitz(np.hstack([np.eye(d.shape[0]), d]))
  found = cscjax.lipschitz(cscjax.IdentityAugmented(conv), shape, tolerance=1e-5)
  np.testing.assert_allclose(found, dense, rtol=2e-5)
  np.testing.assert_allclose(found, 1 + references.lipschitz(d), rtol=2e-5)


@pytest.mark.parametrize("padding", ["CIRCULAR", "SAME"])
def test_jit(padding):
  dictionary, shape, dense = _conv(_filters(3, 2, 3), (6,), {"padding": padding})
  found = jax.jit(lambda d: cscjax.lipschitz(d, shape))(dictionary)
  np.testing.assert_allclose(found, dense, rtol=1.1e-2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", ["matrix", "CIRCULAR", "SAME"])
def test_types(x64, kind, dtype):
  filters = _filters(3, 2, 3)
  if kind == "matrix":
    dictionary, shape = cscjax.MatrixDictionary(jnp.asarray(filters[0], dtype)), (2,)
    dense = references.lipschitz(np.asarray(dictionary.atoms, np.float64))
  else:
    dictionary, shape, _ = _conv(filters, (6,), {"padding": kind})
    dictionary = dictionary.replace(filters=jnp.asarray(filters, dtype))
    d = references.conv_matrix(np.asarray(dictionary.filters, np.float64), (6,), padding=kind)
    dense = references.lipschitz(d)
  found = cscjax.lipschitz(dictionary, shape)
  assert found.dtype == dtype
  assert dense * (1 - 1e-6) <= found.astype(jnp.float64) <= dense * 1.02


def test_integer_atoms():
  assert cscjax.lipschitz(cscjax.MatrixDictionary(np.array([[3, 0], [0, 2]])), (2,)) == pytest.approx(9)
