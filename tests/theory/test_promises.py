"""Exhaustive checks of a certificate's guarantees on small dictionaries.

The geometries are edge cases: atoms that do not overlap the signal, equal atoms, a single atom, filters
larger than the signal, strides that do not divide its size, dilated filters that wrap around it.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso

import cscjax
from cscjax import theory
from cscjax.dictionaries import CodedLayer
from tests import references

RULER = [1.0, 1, 0, 0, 1, 0, 1]  # a Golomb ruler: each distance occurs once, so mu = 1/4
CASES = {
  "atoms off the signal": ([[1.0, -2, 1]], 6, {"padding": ((5, 5),)}),
  "atoms off the signal, apart": ([[1.0, 1]], 7, {"padding": ((4, 3),), "stride": 3}),
  "a filter of zeros": ([[1.0, 0], [0, 0]], 4, {}),
  "equal filters": ([[1.0, 2], [1, 2]], 4, {"padding": "CIRCULAR"}),
  "equal filters, three taps": ([[1.0, 1, 1], [1, 1, 1]], 4, {}),
  "one atom": ([[1.0, 1, 1]], 3, {"padding": "VALID"}),
  "unit filter": ([[1.0]], 6, {}),
  "ruler": ([RULER], 13, {"padding": "CIRCULAR"}),
  "larger than the signal": ([[1.0, 2, 3]], 2, {}),
  "around the circle": ([[1.0, 0.5, 2]], 4, {"padding": "CIRCULAR", "dilation": 3}),
  "onto itself": ([[1.0, -1]], 3, {"padding": "CIRCULAR", "dilation": 3}),
  "stride 3 of 8": ([[1.0, 1], [1, -1]], 8, {"padding": "CIRCULAR", "stride": 3}),
  "stride 4 of 9": ([[1.0, 2, 1], [1, -1, 0]], 9, {"padding": "CIRCULAR", "stride": 4}),
  "gaps": ([[1.0]], 9, {"stride": 3}),
  "stride 2, dilation 2": ([[1.0, 0.3], [0.1, -1]], 7, {"stride": 2, "dilation": 2}),
}
QUICK = ("a filter of zeros", "equal filters", "ruler")
NAMES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CASES]


def _problem(case):
  """Returns the dictionary, its matrix, which atoms overlap and which sites each atom covers."""
  rows, size, geometry = CASES[case]
  filters = np.array(rows).T[:, None, :]
  matrix = references.conv_matrix(filters, (size,), **geometry)
  spatial = references.code_spatial(filters, (size,), **geometry)[0]
  geometry = {"stride": 1, "dilation": 1, "padding": "SAME", **geometry}
  stride, dilation, padding = (geometry[name] for name in ("stride", "dilation", "padding"))
  low, _ = references.leading_pad(size, len(filters), stride, dilation, padding, 0)
  covers = []
  for atom in range(spatial * len(rows)):
    first = atom // len(rows) * stride - low
    places = range(first, first + (len(filters) - 1) * dilation + 1)
    covers.append({place % size for place in places} if padding == "CIRCULAR" else set(places))
  overlaps = np.array([[bool(a & b) for a in covers] for b in covers])
  sites = np.array([[i in cover for i in range(size)] for cover in covers])
  return cscjax.ConvDictionary(jnp.asarray(filters), **geometry), matrix, overlaps, sites


def _certify(dictionary, matrix, code, noise, **options):
  x = jnp.asarray(matrix @ code).reshape(-1, 1)
  shaped = jnp.asarray(code).reshape(-1, dictionary.filters.shape[-1])
  return theory.certify([dictionary], x, noise, codes=[shaped], **options).rows[0]


def _supports(count, largest):
  sizes = range(largest + 1)
  return [s for size in sizes for s in itertools.combinations(range(count), size)]


def _some_supports(count):
  """The empty support, each single atom, and some pairs of atoms."""
  supports = _supports(count, 2)
  few, pairs = supports[: count + 1], supports[count + 1 :]
  return few + pairs[:: max(1, len(pairs) // 8)]


@pytest.mark.slow
@pytest.mark.parametrize("case", NAMES)
def test_a_unique_code_is_the_only_one(x64, case):
  """Tries all supports of nonzero atoms that are at least as sparse in their densest stripe."""
  dictionary, matrix, overlaps, _ = _problem(case)
  count = matrix.shape[1]
  used = np.flatnonzero(np.linalg.norm(matrix, axis=0))
  others = [[int(used[i]) for i in support] for support in _supports(len(used), 3)]
  stripes = [int(np.max(np.sum(overlaps[:, other], axis=1), initial=0)) for other in others]
  rng = np.random.default_rng(0)
  for support in _some_supports(count):
    code = np.zeros(count)
    code[list(support)] = rng.choice([-1.0, 1.0], len(support))
    row = _certify(dictionary, matrix, code, 0.0)
    stripe = int(np.max(np.sum(overlaps[:, list(support)], axis=1), initial=0))
    assert row.sparsity == stripe
    if not row.unique:
      continue
    assert set(support) <= set(used)
    x = matrix @ code
    for other, density in zip(others, stripes, strict=True):
      if density <= stripe:
        atoms = matrix[:, other]
        rest = x - atoms @ np.linalg.lstsq(atoms, x, rcond=None)[0] if other else x
        explains = np.linalg.norm(rest) < 1e-9
        independent = np.linalg.matrix_rank(atoms) == len(other) if other else True
        assert not explains or (set(support) <= set(other) and independent)


def _lasso(matrix, x, beta):
  """A solution of the Lasso; for beta = 0 the least-squares solution of minimum norm."""
  if beta == 0:
    return np.linalg.lstsq(matrix, x, rcond=None)[0]
  solver = Lasso(beta / len(x), fit_intercept=False, tol=1e-14, max_iter=100_000)
  return solver.fit(matrix, x).coef_


@pytest.mark.filterwarnings("ignore:Objective did not converge")  # only where nothing is guaranteed
@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("noise", [pytest.param(0.0, marks=pytest.mark.slow), 0.01])
def test_bounds_hold(x64, case, noise):
  """For default and other betas, including 0, with noise concentrated on the patch of one atom."""
  dictionary, matrix, _, sites = _problem(case)
  size, count = matrix.shape
  norms = np.linalg.norm(matrix, axis=0)
  unit = matrix / np.where(norms > 0, norms, 1)
  rng = np.random.default_rng(1)
  for support, beta in itertools.product(_some_supports(count), [None, 0.0, 0.03]):
    code = np.zeros(count)
    code[list(support)] = rng.choice([-1.0, 1.0], len(support)) * rng.uniform(0.8, 1.2, len(support))
    betas = None if beta is None else [beta]
    row = _certify(dictionary, matrix, code, noise, betas=betas)
    signal, worst = matrix @ code, unit[:, support[0] if support else 0]
    error = np.where(rng.random(size) < 0.5, worst, -worst) + 1e-3 * rng.normal(size=size)
    error *= noise / max(np.linalg.norm(np.where(cover, error, 0)) for cover in sites)
    if np.isfinite(row.bp_error):
      found = _lasso(unit, signal + error, 4 * noise if beta is None else beta)
      found = found / np.where(norms > 0, norms, 1)
      assert np.linalg.norm(found - code) <= row.bp_error + 1e-9
      assert set(np.flatnonzero(np.abs(found) > 1e-9)) <= set(support)
    if np.isfinite(row.thresholding_error) and beta is not None:
      found = references.soft(unit.T @ (signal + error), beta) / np.where(norms > 0, norms, 1)
      assert np.linalg.norm(found - code) <= row.thresholding_error + 1e-9
      assert set(np.flatnonzero(np.abs(found) > 1e-12)) == set(support)


@pytest.mark.parametrize("case", ["ruler", "stride 3 of 8"])
def test_some_guarantees_hold(x64, case):
  """Without any guarantee the tests above would pass vacuously."""
  dictionary, matrix, _, _ = _problem(case)
  code = np.zeros(matrix.shape[1])
  code[0] = 1
  row = _certify(dictionary, matrix, code, 0.01)
  assert row.unique
  assert np.isfinite([row.bp_error, row.thresholding_error]).all()
  assert row.conditions == ()


@pytest.mark.slow
def test_layered_bp_guarantees_nothing_without_a_penalty(x64):
  """For D = [I, Hadamard / 4], both halves represent e_3 exactly, so beta = 0 has many solutions."""
  hadamard = np.array([[1.0]])
  for _ in range(4):
    hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
  matrix = np.hstack([np.eye(16), hadamard / 4])
  code = np.zeros(32)
  code[3] = 2
  dictionary, x = cscjax.MatrixDictionary(jnp.asarray(matrix)), matrix @ code
  found = cscjax.layered_bp([dictionary], jnp.asarray(x), [0.0], iterations=2000).codes[0]
  assert np.linalg.norm(found - code) > 0.9
  for betas in ([0.0], None):
    row = theory.certify([dictionary], x, 0.0, betas=betas, codes=[jnp.asarray(code)]).rows[0]
    assert row.bp_error == np.inf
    assert [c.text for c in row.conditions if c.statement == "bp"] == ["0 < beta"]
  row = theory.certify([dictionary], x, 0.0, betas=[0.01], codes=[jnp.asarray(code)]).rows[0]
  np.testing.assert_allclose(row.bp_error, 0.015, rtol=1e-12)
  assert not theory.bp_recovery(0.0, 0, 0.0).holds


def test_equal_atoms_in_float32():
  """Rounding makes their coherence less than 1, which must not make a code of one atom unique."""
  for seed in range(5):
    atoms = np.random.default_rng(seed).normal(size=(7, 1)).astype(np.float32)
    dictionary = cscjax.MatrixDictionary(jnp.asarray(np.hstack([atoms, atoms])))
    mu = cscjax.mutual_coherence(dictionary)
    assert not theory.is_unique(1, mu)
    assert not theory.is_unique(1, np.float32(1 - 1e-6))
    assert theory.is_unique(0, mu)


@pytest.mark.slow
def test_a_code_between_the_patches_of_the_next_layer(x64):
  """In the patches of layer 2 the code has no nonzeros, so its error is zero or inf, never NaN."""
  first = cscjax.ConvDictionary(jnp.ones((1, 1, 1)))
  second = cscjax.ConvDictionary(jnp.ones((1, 1, 1)), stride=2, padding="VALID")
  code = jnp.zeros((4, 1)).at[1].set(1.0)
  layers = [CodedLayer(first, code, code), CodedLayer(second, code, jnp.zeros((2, 1)))]
  for noise, expected in [(0.01, 0.0), (1.0, np.inf)]:  # noise of 1.0 hides the coefficient
    found = theory.layered_stability(layers, noise)
    assert found[0].error == expected
    assert not np.isnan(found[1].error)
