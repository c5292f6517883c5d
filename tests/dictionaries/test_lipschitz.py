"""Compares every way to compute the Lipschitz constant with the norm of a dense matrix."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.dictionaries._lipschitz_constant import certified_bound, lanczos_steps
from cscjax.dictionaries._symbol import symbol_constant
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
  "strided": (_filters(3, 5, 1, 4), (6, 6), {"stride": (1, 2)}),
  "strided_and_dilated": (_filters(5, 2, 3), (24,), {"stride": 4, "dilation": 6}),
  "strided_with_coprime_dilation": (_filters(4, 3, 2), (12,), {"stride": 2, "dilation": 3}),
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


def test_large_matrix():
  """The result is exact, and with a tolerance an upper bound that takes less time."""
  atoms = np.float32(_filters(300, 400))
  dictionary = cscjax.MatrixDictionary(jnp.asarray(atoms))
  dense = references.lipschitz(atoms.astype(np.float64))
  np.testing.assert_allclose(cscjax.lipschitz(dictionary, (300,)), dense, rtol=1e-5)
  found = float(cscjax.lipschitz(dictionary, (300,), tolerance=0.01))
  assert dense <= found <= dense / 0.99 * (1 + 1e-5)


def test_few_coefficients_of_a_large_signal(x64):
  """The identity matrix of these signals would take 32 GiB."""
  filters = _filters(16, 16, 1, 2)
  dictionary = cscjax.ConvDictionary(jnp.asarray(filters), stride=32, padding="VALID")
  found = cscjax.lipschitz(dictionary, (256, 256, 1))
  np.testing.assert_allclose(found, references.lipschitz(filters.reshape(256, 2)), rtol=1e-12)


@pytest.mark.parametrize("name", CIRCULANT)
def test_circulant(x64, name):
  filters, spatial, geometry = CIRCULANT[name]
  dictionary, shape, dense = _conv(filters, spatial, {**geometry, "padding": "CIRCULAR"})
  np.testing.assert_allclose(cscjax.lipschitz(dictionary, shape), dense, rtol=1e-12)
  by_symbol = symbol_constant(dictionary, shape)
  np.testing.assert_allclose(by_symbol, dense, rtol=1e-12)


# name: filters, spatial sizes, geometry, and the largest ratio of the bound to L
LARGE = {
  "1d": (_filters(8, 1, 3), (300,), {}, 1.005),
  "1d_strided_dilated": (_filters(5, 2, 3), (190,), {"stride": 2, "dilation": 3}, 1.02),
  "2d": (_filters(3, 3, 1, 4), (18, 18), {}, 1.02),
  "2d_valid": (_filters(5, 5, 1, 2), (21, 21), {"padding": "VALID"}, 1.1),
  "2d_strided": (_filters(4, 4, 3, 16), (14, 14), {"stride": 2, "padding": ((1, 1), (1, 1))}, 1.06),
  "3d": (_filters(2, 2, 2, 1, 3), (7, 7, 7), {}, 1.06),
  "few_atoms": (_filters(3, 6, 2), (140,), {}, 1.01),
  "circular_with_a_remainder": (_filters(3, 1, 2), (515,), {"stride": 2, "padding": "CIRCULAR"}, 1.011),
}


@pytest.mark.parametrize(
  "name",
  [
    *("1d_strided_dilated", "few_atoms"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("1d", "2d", "2d_valid", "2d_strided")),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("3d", "circular_with_a_remainder")),
  ],
)
def test_bound_of_large_convolutions(name):
  """In float32, the bound is at least the dense constant in float64, and close to it."""
  filters, spatial, geometry, ratio = LARGE[name]
  dictionary, shape, dense = _conv(filters, spatial, geometry)
  assert dictionary.filters.dtype == jnp.float32
  assert dense <= float(cscjax.lipschitz(dictionary, shape)) <= ratio * dense


@pytest.mark.parametrize(
  "name", ["1d", *(pytest.param(n, marks=pytest.mark.slow) for n in ("2d_strided", "few_atoms"))]
)
def test_gradient_of_the_bound(x64, name):
  filters, spatial, geometry, _ = LARGE[name]
  shape, direction = (
    (*spatial, filters.shape[-2]),
    np.cos(np.arange(filters.size).reshape(filters.shape)),
  )
  found = jax.jit(lambda f: cscjax.lipschitz(cscjax.ConvDictionary(f, **geometry), shape))
  gradient = jax.grad(found)(jnp.asarray(filters))
  difference = (found(filters + 1e-6 * direction) - found(filters - 1e-6 * direction)) / 2e-6
  np.testing.assert_allclose(jnp.vdot(gradient, direction), difference, rtol=1e-5)
  for special in (jnp.zeros(filters.shape), jnp.zeros(filters.shape).at[0, ..., 0, 0].set(1.0)):
    assert jnp.isfinite(jax.grad(found)(special)).all()


def test_bound_of_a_batch_of_filters():
  filters = jnp.asarray(np.stack([_filters(8, 1, 3), 2 * _filters(8, 1, 3)]), jnp.float32)
  found = jax.vmap(lambda f: cscjax.lipschitz(cscjax.ConvDictionary(f), (300, 1)))(filters)
  np.testing.assert_allclose(found[1], 4 * found[0], rtol=1e-6)
  np.testing.assert_allclose(
    found[0], cscjax.lipschitz(cscjax.ConvDictionary(filters[0]), (300, 1)), 1e-6
  )


@pytest.mark.slow
def test_a_tolerance_makes_the_bound_tighter():
  """On a signal of 17x17, the symbol is too large by more than 5 %."""
  dictionary, shape, dense = _conv(_filters(8, 8, 1, 4), (17, 17), {})
  assert cscjax.lipschitz(dictionary, shape) > 1.05 * dense
  tight = cscjax.lipschitz(dictionary, shape, tolerance=0.01)
  assert dense <= float(tight) <= dense / 0.99 * (1 + 1e-5)


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("tolerance", [0.2, 0.01, pytest.param(1e-4, marks=pytest.mark.slow)])
def test_certified(x64, name, tolerance):
  dictionary, shape, dense = _conv(*OTHER[name])
  found = certified_bound(dictionary, shape, tolerance, None)
  assert dense <= found <= dense / (1 - tolerance) * (1 + 1e-12)
  np.testing.assert_allclose(cscjax.lipschitz(dictionary, shape), dense, rtol=1e-12)  # by its matrix


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@pytest.mark.parametrize(("spatial", "kernel"), [((40,), (5,)), ((12, 10), (3, 3))], ids=["1d", "2d"])
def test_never_below_in_float32(spatial, kernel, padding):
  """Compares with a dense matrix in float64, for random filters and many random starts."""
  stride, tolerance, shape = 1 + (padding == "CIRCULAR"), 0.05, (*spatial, 2)

  @jax.jit
  def bound(filters, key):
    dictionary = cscjax.ConvDictionary(filters, padding=padding, stride=stride)
    return certified_bound(dictionary, shape, tolerance, key)

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
  dictionary, shape, _ = _conv(_filters(3, 3, 2, 3), (12, 12), {"padding": "SAME"})
  keys = jax.random.split(jax.random.key(1), 2)
  one, other = (cscjax.lipschitz(dictionary, shape, tolerance=0.5, key=key) for key in keys)
  assert one != other


def test_tolerance_out_of_range():
  dictionary, shape, _ = _conv(*OTHER["same"])
  bad: list[Any] = [0, 1, -0.1, float("nan"), "small"]
  for tolerance in bad:
    with pytest.raises(ValueError, match="tolerance"):
      cscjax.lipschitz(dictionary, shape, tolerance=tolerance)


@pytest.mark.parametrize("padding", ["CIRCULAR", "SAME"])
def test_identity_augmented(x64, padding):
  """Compares with Lemma 2 and with the norm of the matrix [I, F^T]."""
  filters, spatial = _filters(3, 3, 2, 4), (5, 4)
  conv, shape, _ = _conv(filters, spatial, {"padding": padding, "dilation": 2})
  d = references.conv_matrix(filters, spatial, padding=padding, dilation=2)
  dense = references.lipschitz(np.hstack([np.eye(d.shape[0]), d]))
  found = cscjax.lipschitz(cscjax.IdentityAugmented(conv), shape)
  np.testing.assert_allclose(found, dense, rtol=1e-12)
  np.testing.assert_allclose(found, 1 + references.lipschitz(d), rtol=1e-12)


@pytest.mark.parametrize("padding", ["CIRCULAR", "SAME"])
def test_jit(padding):
  dictionary, shape, dense = _conv(_filters(3, 2, 3), (6,), {"padding": padding})
  found = jax.jit(lambda d: cscjax.lipschitz(d, shape))(dictionary)
  np.testing.assert_allclose(found, dense, rtol=1e-6)


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
  assert dense * (1 - 1e-6) <= found.astype(jnp.float64) <= dense * 1.01


def test_integer_atoms():
  assert cscjax.lipschitz(cscjax.MatrixDictionary(np.array([[3, 0], [0, 2]])), (2,)) == pytest.approx(9)
