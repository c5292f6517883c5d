"""The Lipschitz constant against the spectral norm of a dense matrix, branch by branch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from tests import references


def _filters(*shape):
  return np.random.default_rng(sum(shape)).normal(size=shape)


CIRCULANT = {
  "1d": (_filters(3, 1, 4), (7,), {}),
  "1d_channels_dilated": (_filters(4, 3, 2), (8,), {"dilation": 2}),
  "2d": (_filters(3, 3, 1, 2), (5, 4), {}),
  "2d_channels": (_filters(3, 2, 3, 5), (4, 5), {}),
  "2d_channels_dilated": (_filters(2, 3, 3, 2), (5, 6), {"dilation": (2, 3)}),
  "longer_than_the_signal": (_filters(5, 2, 2), (3,), {"dilation": 2}),
}
OTHER = {
  "same": (_filters(3, 3, 2, 3), (5, 4), {"padding": "SAME"}),
  "valid": (_filters(2, 3, 2, 3), (5, 6), {"padding": "VALID", "dilation": 2}),
  "same_strided": (_filters(4, 2, 3), (7,), {"padding": "SAME", "stride": 2}),
  "circular_strided": (_filters(3, 3, 1, 4), (6, 6), {"padding": "CIRCULAR", "stride": (1, 2)}),
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
def test_power_method(x64, name):
  dictionary, shape, dense = _conv(*OTHER[name])
  found = cscjax.lipschitz(dictionary, shape)
  assert 0.99 * dense <= found <= dense * (1 + 1e-12)


def test_power_method_converges_from_a_key(x64):
  dictionary, shape, dense = _conv(*OTHER["same_strided"])
  keys = jax.random.split(jax.random.key(1), 2)
  few, other = (cscjax.lipschitz(dictionary, shape, iterations=3, key=key) for key in keys)
  assert few != other
  many = cscjax.lipschitz(dictionary, shape, iterations=3000, key=keys[0])
  np.testing.assert_allclose(many, dense, rtol=1e-9)


@pytest.mark.parametrize("padding", ["CIRCULAR", "SAME"])
def test_identity_augmented(x64, padding):
  """Lemma 2, and the norm of the explicit [I, F^T]."""
  filters, spatial = _filters(3, 3, 2, 4), (5, 4)
  conv, shape, _ = _conv(filters, spatial, {"padding": padding, "dilation": 2})
  d = references.conv_matrix(filters, spatial, padding=padding, dilation=2)
  dense = references.lipschitz(np.hstack([np.eye(d.shape[0]), d]))
  found = cscjax.lipschitz(cscjax.IdentityAugmented(conv), shape, iterations=3000)
  np.testing.assert_allclose(found, dense, rtol=1e-6)
  np.testing.assert_allclose(found, 1 + references.lipschitz(d), rtol=1e-6)


@pytest.mark.parametrize("padding", ["CIRCULAR", "SAME"])
def test_jit(padding):
  dictionary, shape, dense = _conv(_filters(3, 2, 3), (6,), {"padding": padding})
  found = jax.jit(lambda d: cscjax.lipschitz(d, shape))(dictionary)
  np.testing.assert_allclose(found, dense, rtol=1e-2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", ["matrix", "CIRCULAR", "SAME"])
def test_types(x64, kind, dtype):
  filters = _filters(3, 2, 3)
  if kind == "matrix":
    dictionary, shape = cscjax.MatrixDictionary(jnp.asarray(filters[0], dtype)), (2,)
    dense = references.lipschitz(filters[0])
  else:
    dictionary, shape, dense = _conv(filters, (6,), {"padding": kind})
    dictionary = dictionary.replace(filters=jnp.asarray(filters, dtype))
  found = cscjax.lipschitz(dictionary, shape)
  assert found.dtype == dtype
  np.testing.assert_allclose(float(found), dense, rtol=2e-2)


def test_integer_atoms():
  assert cscjax.lipschitz(cscjax.MatrixDictionary(np.array([[3, 0], [0, 2]])), (2,)) == pytest.approx(9)
