"""Local sparsity, compared with counts from the sites that each atom covers."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax import theory
from tests import references

GEOMETRIES = [
  {"padding": "SAME"},
  {"padding": "CIRCULAR", "dilation": 2},
  {"padding": "CIRCULAR", "stride": 3},  # 3 divides neither size
  {"padding": "CIRCULAR", "stride": 3, "dilation": 2},
  {"padding": "CIRCULAR", "stride": 2, "dilation": 4},  # wraps once or twice
  {"padding": "CIRCULAR", "stride": 5},  # leaves sites uncovered
  {"padding": "SAME", "dilation": 4, "stride": 2},
  {"padding": ((5, 5),)},  # some atoms do not overlap the signal
  {"padding": "VALID", "stride": 2},
  {"padding": ((1, 0),), "dilation": 2, "stride": 2},
]


def _extents(taps, spatial, geometry):
  """Per axis, booleans [positions, sites]: whether a site lies between an atom's first and last tap.

  Without circular padding, the sites include those before and after the signal. Returns each array with
  the index of the first site of the signal.
  """
  axes, kernel = [], (taps,) * len(spatial)
  geometry = {"stride": 1, "dilation": 1, **geometry}
  for i, n in enumerate(spatial):
    stride, dilation = geometry["stride"], geometry["dilation"]
    pad, count = references.leading_pad(n, taps, stride, dilation, _padding(geometry, kernel), i)
    covered = np.zeros((count, 3 * n + 60), bool)
    for p in range(count):
      for site in range((taps - 1) * dilation + 1):
        place = p * stride - pad + site
        covered[p, place % n if geometry["padding"] == "CIRCULAR" else place + 30] = True
    axes.append((covered, 0 if geometry["padding"] == "CIRCULAR" else 30))
  return axes


def _padding(geometry, kernel):
  padding = geometry["padding"]
  return padding if isinstance(padding, str) else tuple(padding) * len(kernel)


def _counts(code, signal, taps, spatial, geometry):
  """Counts by brute force the nonzeros in the stripe and in the patch of each atom."""
  axes = _extents(taps, spatial, geometry)
  positions = list(itertools.product(*(range(len(covered)) for covered, _ in axes)))
  stripes, patches = [], []
  for p in positions:
    stripe = patch = 0
    for q in positions:
      if all(np.any(c[i] & c[j]) for (c, _), i, j in zip(axes, p, q, strict=True)):
        stripe += np.count_nonzero(code[q])
    for site in itertools.product(*map(range, spatial)):
      if all(c[i, s + low] for (c, low), i, s in zip(axes, p, site, strict=True)):
        patch += np.count_nonzero(signal[site])
    stripes.append(stripe)
    patches.append(patch)
  return np.array(stripes), np.array(patches)


def _problem(rank, geometry, seed=0, density=0.3):
  rng = np.random.default_rng(seed)
  taps, spatial = 3, ((13,) if rank == 1 else (5, 7))
  geometry = {**geometry, "padding": _padding(geometry, spatial)}
  filters = rng.normal(size=(*(taps,) * rank, 2, 3))
  dictionary = cscjax.ConvDictionary(jnp.asarray(filters), **geometry)
  positions = references.code_spatial(filters, spatial, **geometry)
  code, signal = (
    rng.normal(size=(2, *s)) * (rng.random((2, *s)) < density) for s in ((*positions, 3), (*spatial, 2))
  )
  return dictionary, code, signal, taps, spatial, geometry


@pytest.mark.parametrize("rank", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_conv(x64, rank, geometry):
  dictionary, code, signal, taps, spatial, geometry = _problem(rank, geometry)
  stripe = theory.stripe_sparsity(dictionary, jnp.asarray(code), (*spatial, 2))
  patch = theory.patch_sparsity(dictionary, jnp.asarray(signal))
  norm = theory.patch_norm(dictionary, jnp.asarray(signal))
  for i in range(2):
    stripes, patches = _counts(code[i], signal[i], taps, spatial, geometry)
    assert stripe[i] == max(stripes)
    assert patch[i] == max(patches)
    assert 0 < norm[i] <= np.linalg.norm(signal[i]) * (1 + 1e-12)


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
def test_patch_norm(x64, padding):
  signal = np.random.default_rng(1).normal(size=(9, 2))
  dictionary = cscjax.ConvDictionary(jnp.ones((2, 2, 3)), dilation=2, padding=padding)
  mode = "wrap" if padding == "CIRCULAR" else "constant"
  padded = np.pad(signal, ((1, 1), (0, 0)), mode=mode)
  expected = max(np.linalg.norm(padded[i : i + 3]) for i in range(9))
  np.testing.assert_allclose(theory.patch_norm(dictionary, jnp.asarray(signal)), expected, rtol=1e-12)


def test_the_last_step_of_a_circle_can_be_shorter():
  """Atoms of 2 taps at the sites 0, 3, 6 and 9 of a circle of 10: only those at 9 and 0 overlap."""
  dictionary = cscjax.ConvDictionary(jnp.ones((2, 1, 1)), stride=3, padding="CIRCULAR")
  for support, expected in [([0, 1, 2], 1), ([0, 3], 2), ([1, 2, 3], 1)]:
    code = jnp.zeros((4, 1)).at[jnp.array(support)].set(1)
    assert theory.stripe_sparsity(dictionary, code, (10, 1)) == expected


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30, 6e37])
def test_patch_norm_at_any_scale(scale):
  """The squares under- or overflow in float32; a norm of zero would make every bound hold."""
  signal = jnp.stack([jnp.array([[3.0], [4], [0]]) * scale, jnp.ones((3, 1))])
  dictionary = cscjax.ConvDictionary(jnp.ones((2, 1, 1)))
  np.testing.assert_allclose(theory.patch_norm(dictionary, signal), [5 * scale, 2**0.5], rtol=1e-6)


@pytest.mark.parametrize(
  "wrap", [lambda d: d, pytest.param(cscjax.ChannelwiseDictionary, marks=pytest.mark.slow)]
)
def test_empty_batches(wrap):
  dictionary, x = wrap(cscjax.ConvDictionary(jnp.ones((2, 1, 1)))), jnp.zeros((0, 5, 1))
  code = dictionary.analysis(x)
  for function, array in (
    (theory.patch_norm, x),
    (theory.patch_sparsity, x),
    (theory.stripe_sparsity, code),
  ):
    assert function(dictionary, array).shape == (0,)
  (layer,) = theory.layered_stability([cscjax.CodedLayer(dictionary, x, code)], 0.1)
  assert layer.error.shape == (0,)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_patch_norm_of_nonfinite_values(value):
  dictionary = cscjax.ConvDictionary(jnp.ones((2, 1, 1)))
  assert not np.isfinite(theory.patch_norm(dictionary, jnp.array([[1.0], [value]])))


def test_identity_augmented():
  """Compares with stripes from the sites that each atom covers; an identity atom covers one site."""
  rng = np.random.default_rng(2)
  conv = cscjax.ConvDictionary(jnp.ones((3, 2, 3)), dilation=2)
  a, z = (rng.normal(size=(11, k)) * (rng.random((11, k)) < 0.3) for k in (2, 3))
  covers = [{i} for i in range(11)] + [set(range(i - 2, i + 3)) for i in range(11)]
  nonzeros = [np.count_nonzero(row) for row in (*a, *z)]
  stripes = [sum(n for c, n in zip(covers, nonzeros, strict=True) if c & cover) for cover in covers[11:]]
  found = theory.stripe_sparsity(cscjax.IdentityAugmented(conv), (jnp.asarray(a), jnp.asarray(z)))
  assert found == max(stripes)
  size = theory.support_size(cscjax.IdentityAugmented(conv), (jnp.asarray(a), jnp.asarray(z)))
  assert size == sum(nonzeros)


def test_dense_is_global():
  dictionary = cscjax.MatrixDictionary(jnp.ones((4, 6)))
  code = jnp.array([[0, 1, 0, -2, 0, 0], [1, 1, 1, 1, 0, 3]], float)
  for count in (theory.support_size, theory.stripe_sparsity):
    np.testing.assert_array_equal(count(dictionary, code), [2, 5])
  np.testing.assert_array_equal(theory.patch_sparsity(dictionary, jnp.array([0, 1.0, 2, 0])), 2)


def test_a_filter_longer_than_the_circle_counts_each_site_once():
  dictionary = cscjax.ConvDictionary(jnp.ones((4, 1, 1)), dilation=3, padding="CIRCULAR")
  assert theory.stripe_sparsity(dictionary, jnp.ones((5, 1))) == 5
  assert theory.patch_sparsity(dictionary, jnp.ones((5, 1))) == 5


@pytest.mark.parametrize(
  ("name", "call"),
  [
    ("signal_shape", lambda d: theory.patch_sparsity(d, jnp.ones((5, 3)))),
    ("code", lambda d: theory.stripe_sparsity(d, jnp.ones((5, 1)), (6, 2))),
    ("code", lambda d: theory.stripe_sparsity(d, (jnp.ones((5, 2)), jnp.ones((5, 1))))),
    ("code", lambda d: theory.support_size(d, (jnp.ones((5, 2)), jnp.ones((5, 1))))),
    ("code", lambda d: theory.support_size(d, jnp.ones((5, 2)))),
    ("code", lambda d: theory.support_size(cscjax.IdentityAugmented(d), jnp.ones((5, 1)))),
    ("code", lambda d: theory.support_size(cscjax.MatrixDictionary(jnp.eye(4)), jnp.ones(7))),
    ("code", lambda d: theory.failed_dimensions(d, [0.0], jnp.ones((5, 2)), 0.1)),
    ("beta", lambda d: theory.failed_dimensions(d, jnp.ones((5, 1)), jnp.ones((5, 2)), jnp.ones(3))),
    ("sparsity", lambda _: theory.is_unique(jnp.ones(2), jnp.full(3, 0.1))),
    ("dictionary", lambda d: theory.patch_norm(None, jnp.ones((5, 2)))),
    ("dictionary", lambda d: theory.stripe_sparsity(object(), jnp.ones((5, 1)))),
    ("signal", lambda d: theory.patch_norm(d, jnp.ones((5, 2), complex))),
  ],
)
def test_bad_input(name, call):
  with pytest.raises(ValueError, match=name):
    call(cscjax.ConvDictionary(jnp.ones((3, 2, 1))))
