"""Compares the upper bound of L with dense matrices, and with the symbol in float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.dictionaries import lipschitz_bound
from tests import references

# (shape of the filters, spatial sizes, geometry), with more atoms than channels and vice versa.
CASES = {
  "1d": ((3, 2, 4), (9,), {}),
  "1d_circular": ((3, 3, 2), (8,), {"padding": "CIRCULAR"}),
  "1d_one_sample": ((3, 2, 2), (1,), {}),
  "1d_long_filter": ((5, 4, 2), (3,), {"padding": "CIRCULAR", "dilation": 2}),
  "1d_many_samples": ((2, 1, 3), (60,), {"padding": "VALID"}),
  "1d_strided": ((5, 2, 3), (11,), {"stride": 2, "padding": ((3, 0),)}),
  "1d_stride_and_dilation": ((4, 2, 3), (17,), {"stride": 4, "dilation": 6}),
  "1d_both_padded": ((5, 1, 2), (13,), {"stride": 3, "dilation": 2, "padding": ((5, 4),)}),
  "1d_coprime": ((4, 1, 3), (23,), {"stride": 2, "dilation": 3, "padding": "VALID"}),
  "1d_far_padding": ((3, 2, 1), (4,), {"dilation": 2, "padding": ((9, 7),)}),
  "1d_circular_uneven": ((2, 1, 1), (3,), {"stride": 2, "padding": "CIRCULAR"}),
  "1d_circular_common": ((3, 1, 2), (10,), {"stride": 4, "dilation": 2, "padding": "CIRCULAR"}),
  "2d": ((3, 3, 2, 4), (6, 5), {}),
  "2d_small": ((3, 3, 2, 1), (3, 4), {}),
  "2d_single": ((1, 1, 3, 2), (4, 4), {}),
  "2d_valid": ((3, 2, 3, 2), (6, 5), {"padding": "VALID"}),
  "2d_circular": ((3, 3, 3, 2), (5, 6), {"padding": "CIRCULAR"}),
  "2d_circular_strided": ((3, 3, 1, 4), (6, 6), {"padding": "CIRCULAR", "stride": (1, 2)}),
  "2d_strided": ((4, 4, 2, 5), (8, 8), {"stride": 2, "padding": ((1, 1), (1, 1))}),
  "2d_dilated": ((3, 3, 3, 2), (7, 9), {"dilation": (2, 3)}),
  "3d": ((2, 3, 2, 2, 3), (3, 4, 3), {"stride": (1, 2, 1), "dilation": (2, 1, 1)}),
  "2d_dilated_circular": ((2, 3, 2, 2), (4, 6), {"dilation": 3, "padding": "CIRCULAR"}),
}


def _kinds(shape, seed=0):
  """Returns filters [kinds, ...] whose largest eigenvalues are at different frequencies, and zeros."""
  rng = np.random.default_rng(seed)
  signs = (-1.0) ** np.add.reduce(np.indices(shape[:-2]))[..., None, None]
  first = np.zeros(shape)
  first[(0,) * (len(shape) - 2)] = np.eye(*shape[-2:])
  of_rank_one = rng.normal(size=(*shape[:-2], 1, 1)) * rng.normal(size=shape[-2:])
  random = rng.normal(size=(4, *shape))
  return np.stack([*random, np.ones(shape), signs * np.ones(shape), first, of_rank_one, np.zeros(shape)])


def _bounds(filters, spatial, geometry, *, identity=False):
  """Computes the bounds of several filters at once."""

  def bound(filters):
    dictionary = cscjax.ConvDictionary(filters, **geometry)
    dictionary = cscjax.IdentityAugmented(dictionary) if identity else dictionary
    return lipschitz_bound(dictionary, (*spatial, filters.shape[-2]))

  return np.asarray(jax.jit(jax.vmap(bound))(filters), np.float64)


def _dense(filters, spatial, geometry, *, identity=False):
  d = references.conv_matrix(filters, spatial, **geometry)
  return references.lipschitz(np.hstack([np.eye(len(d)), d]) if identity else d)


@pytest.mark.parametrize("name", CASES)
def test_at_least_the_dense_constant(name):
  shape, spatial, geometry = CASES[name]
  filters = jnp.asarray(_kinds(shape), jnp.float32)
  bounds = _bounds(filters, spatial, geometry)
  for own, bound in zip(np.asarray(filters), bounds, strict=True):
    assert bound >= _dense(own, spatial, geometry)
  assert bounds[-1] == 0


@pytest.mark.parametrize("name", ["1d", "1d_circular", "2d_small"])
@pytest.mark.parametrize("identity", [False, True])
def test_at_any_scale_and_beside_the_identity(name, identity):
  shape, spatial, geometry = CASES[name]
  kinds = [scale * kind for scale in (1e-10, 1.0, 1e10) for kind in _kinds(shape, 1)]
  filters = jnp.asarray(np.stack(kinds), jnp.float32)
  bounds = _bounds(filters, spatial, geometry, identity=identity)
  for own, bound in zip(np.asarray(filters), bounds, strict=True):
    dense = _dense(own, spatial, geometry, identity=identity)
    assert dense <= bound <= 1.5 * dense


@pytest.mark.parametrize("name", ["2d", "2d_circular_strided", "1d_coprime"])
def test_bfloat16_filters(name):
  shape, spatial, geometry = CASES[name]
  filters = jnp.asarray(_kinds(shape, 2), jnp.bfloat16)
  in_float32 = _bounds(filters.astype(jnp.float32), spatial, geometry)
  np.testing.assert_array_equal(_bounds(filters, spatial, geometry), in_float32)
  for own, bound in zip(np.asarray(filters, np.float64), in_float32, strict=True):
    assert bound >= _dense(own, spatial, geometry)


def test_float64(x64):
  """For a single tap the bound is exact up to its margin, which is that of float64."""
  filters = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1)))[None]
  bound = lipschitz_bound(cscjax.ConvDictionary(filters), (5, 1))
  assert filters[0, 0, 0] ** 2 <= bound <= filters[0, 0, 0] ** 2 * (1 + 1e-14)


def _largest_of_symbol(filters, stride, points=48):
  """Returns the maximum of ||S||^2 over a fine grid, for 2-D filters without dilation."""
  parts = [filters[a::stride, b::stride] for a, b in itertools.product(range(stride), repeat=2)]
  symbol = np.concatenate([np.fft.fft2(part, (points, points), (0, 1)) for part in parts], axis=2)
  return np.max(np.linalg.norm(symbol, 2, axis=(2, 3))) ** 2


@pytest.mark.parametrize(("kernel", "stride", "degree"), [(3, 1, 2), (3, 2, 1), (4, 2, 1), (5, 1, 4)])
def test_close_to_the_largest_value_of_the_symbol(kernel, stride, degree):
  """On a large image, the bound is within s^(1/32) and a factor of 1 / cos^2(pi / 16) per axis."""
  filters = jnp.asarray(_kinds((kernel, kernel, 3, 7), 3)[:-1], jnp.float32)
  bounds = _bounds(filters, (64, 64), {"stride": stride})
  most = min(7, 3 * stride**2) ** (1 / 32) / np.cos(np.pi / 16) ** 4
  assert 8 * degree < 64
  for own, bound in zip(np.asarray(filters, np.float64), bounds, strict=True):
    largest = _largest_of_symbol(own, stride)
    assert largest <= bound <= 1.001 * most * largest


def test_exact_for_a_small_circular_convolution_with_one_atom(x64):
  """The grid is that of the Fourier transform, and for 1x1 matrices the trace is the eigenvalue."""
  filters = np.random.default_rng(0).normal(size=(3, 3, 4, 1))  # [1, 1] matrices at each frequency
  dictionary = cscjax.ConvDictionary(jnp.asarray(filters), padding="CIRCULAR")
  dense = _dense(filters, (6, 5), {"padding": "CIRCULAR"})
  np.testing.assert_allclose(lipschitz_bound(dictionary, (6, 5, 4)), dense, rtol=1e-13)


PAPER = {  # (size, dilation, channels, atoms, whether the identity is added)
  "res_csc_1": (32, 1, 16, 16, False),
  "res_csc_2": (16, 1, 32, 32, False),
  "res_csc_3": (8, 1, 64, 64, False),
  "msd_csc_0": (32, 1, 3, 32, True),
  "msd_csc_1": (32, 2, 35, 32, True),
  "msd_csc_5": (16, 3, 163, 32, True),
  "msd_csc_11": (8, 3, 355, 32, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_at_most_1_3_times_the_constant_of_the_papers_layers(name):
  """Checks random filters and low-pass filters; `lipschitz` itself is at most 1 % too large."""
  size, dilation, channels, atoms, identity = PAPER[name]
  rng = np.random.default_rng(0)
  random = rng.normal(size=(3, 3, channels, atoms)) * np.sqrt(2 / (9 * channels))
  moved = random + 0.5 * np.ones((3, 3, 1, 1)) * random[1, 1]
  shape = (size, size, channels)

  @jax.jit
  def both(filters):
    conv = cscjax.ConvDictionary(filters, dilation=dilation)
    dictionary = cscjax.IdentityAugmented(conv) if identity else conv
    return lipschitz_bound(dictionary, shape), cscjax.lipschitz(dictionary, shape)

  for filters in (random, moved):
    bound, constant = both(jnp.asarray(filters, jnp.float32))
    assert 0.99 * constant <= bound <= 1.3 * 0.99 * constant


@pytest.mark.parametrize(("size", "count"), [(32, 16), (32, 32), (16, 64), (8, 64)])
def test_orthogonal_filters(size, count):
  """If all eigenvalues are equal, the bound by the trace is least tight."""
  filters = jnp.zeros((3, 3, count, count)).at[1, 1].set(jnp.eye(count))
  assert 1 <= lipschitz_bound(cscjax.ConvDictionary(filters), (size, size, count)) <= 1.3


def test_no_gradient():
  filters = jnp.asarray(_kinds((3, 2, 3))[0], jnp.float32)
  gradient = jax.grad(lambda f: lipschitz_bound(cscjax.ConvDictionary(f), (6, 2)))(filters)
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_filters_that_are_not_finite_have_no_bound(value):
  filters = jnp.ones((3, 2, 3)).at[1, 1, 1].set(value)
  assert not jnp.isfinite(lipschitz_bound(cscjax.ConvDictionary(filters), (6, 2)))


def test_bad_arguments():
  conv = cscjax.ConvDictionary(jnp.ones((3, 2, 3)))
  for shape in [(6, 3), (6,), (0, 2), None]:
    with pytest.raises(ValueError, match="signal_shape"):
      lipschitz_bound(conv, shape)
  with pytest.raises(ValueError, match="dictionary"):
    lipschitz_bound(cscjax.MatrixDictionary(jnp.eye(3)), (3,))
