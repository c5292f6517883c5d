"""Recovery of planted codes: against dense formulas, and never violated by scikit-learn's solutions."""

import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import sklearn.linear_model

import cscjax
from cscjax import dictionaries, theory
from tests.dictionaries.test_conformance import DICTIONARIES
from tests.theory.lasso_reference import SMALL, DenseLasso
from tests.theory.stability_cases import TwoParts

TRIALS = 500
SHAPES = ((8, 5), (8, 12), (12, 30), (28, 40))  # of random matrices; few, because JAX compiles each


def _unit_matrix(dictionary, shape):
  """The atoms of a dictionary and the same, divided by their norms, in float64."""
  with jax.enable_x64(True):
    dictionary = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), dictionary)
    d = np.asarray(dictionaries.to_matrix(dictionary, shape))
  norms = np.linalg.norm(d, axis=0)
  return d / np.where(norms > 0, norms, 1), norms


def _brute_babel(u, k):
  """Tropp's definition: over all sets of k atoms, and all atoms outside of the set."""
  count = u.shape[1]
  gram = np.abs(u.T @ u)
  return max(
    gram[j, list(chosen)].sum()
    for chosen in itertools.combinations(range(count), k)
    for j in set(range(count)) - set(chosen)
  )


def _sorted_babel(u, k):
  gram = np.abs(u.T @ u)
  np.fill_diagonal(gram, 0)
  return np.max(np.sum(np.sort(gram)[:, ::-1][:, :k], axis=1))


def _planted(rng, u, k):
  """A code of k nonzeros over unit atoms."""
  code = np.zeros(u.shape[1])
  code[rng.choice(u.shape[1], k, replace=False)] = rng.choice([-1, 1], k) * rng.uniform(0.5, 2, k)
  return code


def _coefficients(u, code):
  """max ||U_S^+ u_j||_1 and max |u_j^T (U_S^+)^T s|."""
  inside = code != 0
  inverse = np.linalg.pinv(u[:, inside])
  others = u[:, ~inside]
  exact = np.abs(inverse @ others).sum(axis=0)
  return exact.max(initial=0), np.abs(others.T @ inverse.T @ np.sign(code[inside])).max(initial=0)


def _hadamard(n):
  matrix = np.array([[1.0]])
  while len(matrix) < n:
    matrix = np.block([[matrix, matrix], [matrix, -matrix]])
  return np.hstack([np.eye(n), matrix / math.sqrt(n)])


def _random(rng):
  """Unit atoms, from coherent ones to pairs of orthonormal bases, and a code."""
  if rng.random() < 0.4:
    n = int(rng.choice([16, 64]))
    u = _hadamard(n) + 0.02 * rng.normal(size=(n, 2 * n)) / math.sqrt(n)
    k = int(rng.integers(1, 5))
  else:
    shape = SHAPES[rng.integers(len(SHAPES))]
    u, k = rng.normal(size=shape), int(rng.integers(1, 5))
  u = u / np.linalg.norm(u, axis=0)
  return u, _planted(rng, u, k)


def _dictionary(rng, u, code):
  """The same problem with atoms of any norm."""
  norms = rng.uniform(0.2, 5, len(code))
  return cscjax.MatrixDictionary(jnp.asarray(u * norms)), jnp.asarray(code / norms)


def _lasso(u, beta):
  """The dense Lasso over unit atoms."""
  count = u.shape[1]
  return DenseLasso(u, np.full(count, beta), np.zeros(count, bool), np.ones(len(u)), np.zeros(count))


def _solve(u, beta, x):
  """The solution of the Lasso over unit atoms, or None if the reference is not precise."""
  solution, violation = _lasso(u, beta).solve(x)
  return solution if violation <= SMALL else None


def _worst_noises(rng, u, code):
  """Directions that activate an atom or move a coefficient, with both signs, and a random one."""
  inside = u[:, code != 0]
  inverse = np.linalg.pinv(inside)
  outside = u[:, code == 0] - inside @ inverse @ u[:, code == 0]
  dual = np.abs(outside.T @ outside).sum(axis=0)
  weakest = inverse[np.argmin(np.abs(code[code != 0]))]
  found = [
    v / np.linalg.norm(v) for v in (outside[:, np.argmax(dual)], weakest) if np.linalg.norm(v) > 1e-9
  ]
  drawn = rng.normal(size=len(u))
  return [*found, *(-v for v in found), drawn / np.linalg.norm(drawn)]


def test_against_dense_formulas(x64):
  rng = np.random.default_rng(0)
  u, code = _random(rng)
  inside, noise = code != 0, 0.003
  found = theory.recovery(*_dictionary(rng, u, code), noise=noise)
  exact, dual = _coefficients(u, code)
  rows = found.conditions
  np.testing.assert_allclose(
    [rows["exact recovery"].value, rows["dual certificate"].value], [exact, dual]
  )
  k = int(inside.sum())
  sums = [_sorted_babel(u, k - 1), _sorted_babel(u, k)]
  np.testing.assert_allclose(rows["Babel function"].value, sum(sums))
  np.testing.assert_allclose(rows["coherence"].limit, (1 + 1 / _sorted_babel(u, 1)) / 2)
  assert theory.exact_recovery_coefficient(*_dictionary(rng, u, code)) == pytest.approx(exact)
  assert "dual certificate" in repr(found)


@pytest.mark.slow
@pytest.mark.parametrize("k", [0, 1, 3, 6, 9])
def test_babel_function_against_all_subsets(x64, k):
  rng = np.random.default_rng(k)
  u = rng.normal(size=(5, 7))
  found = theory.babel_function(cscjax.MatrixDictionary(jnp.asarray(u)), k)
  u /= np.linalg.norm(u, axis=0)
  np.testing.assert_allclose(found, _brute_babel(u, min(k, 6)))


@pytest.mark.slow
def test_orthonormal_atoms(x64):
  """Recovery is soft thresholding: each penalty above the noise and below the coefficients minus it."""
  rng = np.random.default_rng(0)
  q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
  dictionary, code = _dictionary(rng, q, np.array([0, 2.0, 0, -1.5, 0, 0]))
  found = theory.recovery(dictionary, code, noise=0.1)
  for row in found.conditions.values():
    assert row.holds
  for name in ("exact recovery", "Babel function", "encoder gap"):
    assert found.conditions[name].value == pytest.approx(0, abs=1e-12)
  assert found.conditions["dual certificate"].betas == pytest.approx((0.1, 1.4))
  assert found.error == pytest.approx(0.1 + 0.1 * math.sqrt(2))
  assert theory.recovery(dictionary, code, noise=0.8).conditions["dual certificate"].betas == (
    math.inf,
    0,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("u", "code"),
  [
    ([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [1.0, 2.0, 0.0]),  # equal atoms
    ([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]], [1.0, 2.0, 3.0]),  # more atoms than samples
    ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [1.0, 0.0, 2.0]),  # a zero atom
  ],
)
def test_nothing_holds_for_dependent_atoms(u, code):
  dictionary, code = cscjax.MatrixDictionary(jnp.array(u)), jnp.array(code)
  for options in ({}, {"noise": 0.1}, {"noise": 0.1, "beta": 0.5}):
    found = theory.recovery(dictionary, code, **options)
    assert found.strongest is None
    assert found.error == math.inf
    assert all(row.betas == (math.inf, 0) for row in found.conditions.values())
    assert not any(math.isnan(row.value) for row in found.conditions.values())
    assert "none holds" in repr(found)
  assert theory.exact_recovery_coefficient(dictionary, code) == math.inf


@pytest.mark.slow
def test_zero_atoms_outside_the_support_are_ignored():
  u = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
  assert theory.recovery(cscjax.MatrixDictionary(u), jnp.array([1.0, 0.0, 2.0])).error == 0


@pytest.mark.slow
def test_errors():
  dictionary = cscjax.MatrixDictionary(jnp.eye(3))
  with pytest.raises(ValueError, match=r"code: expected the code of one signal, without batch axes"):
    theory.recovery(dictionary, jnp.ones((2, 3)))
  with pytest.raises(ValueError, match=r"code: expected"):
    theory.exact_recovery_coefficient(dictionary, jnp.ones(2))
  with pytest.raises(ValueError, match=r"code: expected finite values"):
    theory.recovery(dictionary, jnp.array([1.0, jnp.nan, 0.0]))
  with pytest.raises(ValueError, match=r"beta: expected a finite number > 0"):
    theory.recovery(dictionary, jnp.ones(3), beta=0)
  with pytest.raises(ValueError, match=r"outside of jax.jit"):
    jax.jit(lambda code: theory.recovery(dictionary, code).error)(jnp.ones(3))
  scaled = cscjax.ScaledDictionary(cscjax.ConvDictionary(jnp.ones((3, 1, 2))), jnp.float32(2))
  with pytest.raises(ValueError, match=r"signal_shape: expected the shape .* ScaledDictionary requires"):
    theory.babel_function(scaled, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*sorted(DICTIONARIES.keys() - {"scaled_by_zero"}), "user's"])
def test_every_dictionary(name):  # without one that has no atom for a code to be planted on
  rng = np.random.default_rng(0)
  if name == "user's":
    dictionary, shape = TwoParts(jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)), (8,)
  else:
    dictionary, shape = DICTIONARIES[name]
  u, norms = _unit_matrix(dictionary, shape)
  used = np.flatnonzero(norms)
  flat = np.zeros(len(norms))
  flat[rng.choice(used, 2, replace=False)] = [1, -2]
  leaves, structure = jax.tree.flatten(jax.eval_shape(dictionary.analysis, jnp.zeros(shape)))
  ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
  parts = [
    part.reshape(leaf.shape).astype(np.float32)
    for part, leaf in zip(np.split(flat, ends), leaves, strict=True)
  ]
  found = theory.recovery(dictionary, jax.tree.unflatten(structure, parts), shape, noise=0.01)
  exact, dual = _coefficients(u[:, used], flat[used])
  rows = found.conditions
  if math.isfinite(rows["exact recovery"].value):
    values = [rows["exact recovery"].value, rows["dual certificate"].value]
    np.testing.assert_allclose(values, [exact, dual], rtol=1e-9, atol=1e-12)
  else:
    assert np.linalg.matrix_rank(u[:, flat != 0], tol=1e-6) < 2
  for k in (1, 2, 4):
    np.testing.assert_allclose(
      theory.babel_function(dictionary, k, shape), _sorted_babel(u, k), rtol=1e-9
    )


GEOMETRIES = [
  {},
  {"stride": 2},
  {"stride": 3, "dilation": 2},
  {"padding": "VALID"},
  {"padding": "VALID", "stride": 2},
  {"padding": "CIRCULAR"},
  {"padding": "CIRCULAR", "stride": 2},
  {"padding": ((4, 1),), "dilation": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", [6, 9, 23, 24, 25])
def test_babel_function_of_convolutions(geometry, size):
  """Of the smaller signal with the same neighborhoods, against all atoms."""
  rng = np.random.default_rng(size)
  conv = cscjax.ConvDictionary(jnp.asarray(rng.normal(size=(3, 1, 2)), jnp.float32), **geometry)
  keeps_size = geometry in ({}, {"padding": "CIRCULAR"})
  for dictionary in (conv, *([cscjax.IdentityAugmented(conv)] if keeps_size else [])):
    u, _ = _unit_matrix(dictionary, (size, 1))
    for k in (1, 2, 3, 5, 11, 30):
      np.testing.assert_allclose(
        theory.babel_function(dictionary, k, (size, 1)), _sorted_babel(u, k), rtol=1e-9
      )
  if "padding" not in geometry:
    large, _ = _unit_matrix(conv.replace(padding="VALID"), (60, 1))
    np.testing.assert_allclose(theory.babel_function(conv, 4), _sorted_babel(large, 4), rtol=1e-9)


def _check_values(rows, u, code, beta, noise, clean):
  """Compares the values of the conditions with dense formulas."""
  k = np.count_nonzero(code)
  exact, dual = _coefficients(u, code)
  expected = {
    "coherence": k,
    "Babel function": _sorted_babel(u, k - 1) + _sorted_babel(u, k),
    "exact recovery": exact,
    "dual certificate": dual,
  }
  if clean is not None and np.all(np.sign(clean) == np.sign(code)):
    gaps = beta - np.abs(u.T @ (u @ (code - clean)))  # zero, up to rounding, on the support
    width = k + np.count_nonzero(gaps[code == 0] <= noise)
    expected["encoder gap"] = _sorted_babel(u, width - 1)
  for name, value in expected.items():
    np.testing.assert_allclose(rows[name].value, value, rtol=1e-7, atol=1e-10)


@pytest.mark.slow
def test_conclusions_hold(x64):
  """For penalties inside the intervals, and noise in the worst directions and by gradient ascent."""
  held, tight = collections.Counter(), 0
  for seed in range(TRIALS):
    rng = np.random.default_rng(seed)
    u, code = _random(rng)
    noise = float(rng.choice([0, 1e-3, 1e-2, 0.05]))
    dictionary, planted = _dictionary(rng, u, code)
    limits = theory.recovery(dictionary, planted, noise=noise).conditions
    intervals = [row.betas for row in limits.values() if row.betas[0] < row.betas[1]]
    low, high = intervals[rng.integers(len(intervals))] if intervals else (noise, 1.0)
    low = max(low, 1e-3)
    width = min(high, 2 * low + 1) - low
    beta = low + width * rng.choice([1e-3, rng.uniform(1e-3, 1)])
    rows = theory.recovery(dictionary, planted, noise=noise, beta=beta).conditions
    for name, row in rows.items():
      inside = row.betas[0] < beta < row.betas[1]
      assert row.holds == inside
      held[name] += inside
    lasso, clean = _lasso(u, beta), _solve(u, beta, u @ code)
    _check_values(rows, u, code, beta, noise, clean)
    solutions = [
      moved
      for direction in _worst_noises(rng, u, code)
      for moved in lasso.ascent(u @ code, code, noise * direction, steps=2)
    ]
    for name, row in rows.items():
      for solution in solutions if row.holds else ():
        assert np.linalg.norm(solution - code) <= row.error + 1e-8
        tight += np.linalg.norm(solution - code) > 0.9 * row.error + 1e-6
        if name == "dual certificate":
          np.testing.assert_array_equal(np.sign(solution), np.sign(code))
        elif name == "encoder gap":
          isometry = noise / math.sqrt(1 - row.value)
          assert clean is None or np.linalg.norm(solution - clean) <= isometry + 1e-8
        else:
          assert not np.any(solution[code == 0])
  assert min(held.values()) >= 30
  assert tight >= 100


@pytest.mark.slow
def test_the_interval_of_the_dual_certificate_is_sharp(x64):
  """Just beyond its ends, some noise of this norm changes the signs or the support."""
  reached = 0
  for seed in range(20):
    rng = np.random.default_rng(seed)
    u, code = _random(rng)
    noise = 0.01
    low, high = (
      theory.recovery(*_dictionary(rng, u, code), noise=noise).conditions["dual certificate"].betas
    )
    if not low < high:
      continue
    inside = u[:, code != 0]
    inverse = np.linalg.pinv(inside)
    outside = u[:, code == 0] - inside @ inverse @ u[:, code == 0]
    directions = [*inverse, *outside.T]
    directions = [v / np.linalg.norm(v) for v in directions if np.linalg.norm(v) > 1e-9]
    for beta in (0.98 * low, 1.02 * high):
      solutions = [_solve(u, beta, u @ code + sign * noise * v) for v in directions for sign in (-1, 1)]
      assert any(s is not None and np.any(np.sign(s) != np.sign(code)) for s in solutions)
      reached += 1
  assert reached >= 10


def _tight(rng, coefficient):
  """Atoms with a given exact recovery coefficient, and a code of the signs for which it is reached.

  The last two atoms u have U_S^+ u = weights, of this 1-norm, and opposite parts outside the span of S,
  whose direction is the last array. Their mean costs less than the atoms in S if the 1-norm exceeds 1.
  """
  inside = rng.normal(size=(8, 3))
  inside /= np.linalg.norm(inside, axis=0)
  weights = rng.choice([-1, 1], 3) * rng.uniform(0.5, 1, 3)
  weights *= coefficient / np.sum(np.abs(weights))
  outside = rng.normal(size=8)
  outside -= inside @ np.linalg.lstsq(inside, outside, rcond=None)[0]
  outside /= np.linalg.norm(outside)
  mean = inside @ weights
  part = math.sqrt(1 - mean @ mean) * outside
  code = np.append(np.sign(weights) * rng.uniform(0.5, 2, 3), [0, 0])
  return np.column_stack([inside, mean + part, mean - part]), code, outside


@pytest.mark.slow
def test_the_exact_recovery_condition_is_sharp(x64):
  """With the coefficient multiplied by 0.9, codes would count as recovered that are not."""
  for seed in range(20):
    rng = np.random.default_rng(seed)
    for coefficient in (0.98, 1.02, 1.1):
      u, code, _ = _tight(rng, coefficient)
      found = theory.recovery(cscjax.MatrixDictionary(jnp.asarray(u)), jnp.asarray(code))
      rows = [found.conditions[name] for name in ("exact recovery", "dual certificate")]
      np.testing.assert_allclose([row.value for row in rows], coefficient)
      assert {row.holds for row in rows} == {coefficient < 1}
      x, magnitudes = u @ code, np.ones(2 * len(code))
      found = scipy.optimize.linprog(magnitudes, A_eq=np.hstack([u, -u]), b_eq=x).x
      found = found[: len(code)] - found[len(code) :]
      assert (np.max(np.abs(found - code)) < 1e-6) == (coefficient < 1)
      assert np.any(_solve(u, 1e-3, x)[3:]) == (coefficient > 1)


@pytest.mark.slow
def test_the_interval_of_the_exact_recovery_condition_is_sharp(x64):
  """For 0.9 times its lower end, noise outside the span of the support makes another atom active."""
  for seed in range(20):
    u, code, outside = _tight(np.random.default_rng(seed), 0.8)
    dictionary, noise = cscjax.MatrixDictionary(jnp.asarray(u)), 1e-3
    found = theory.recovery(dictionary, jnp.asarray(code), noise=noise).conditions
    for name in ("exact recovery", "dual certificate"):
      low, _ = found[name].betas
      x = u @ code + noise * outside
      active = [bool(np.any(_solve(u, factor * low, x)[3:])) for factor in (0.9, 1.01)]
      assert active == [True, False]


@pytest.mark.slow
def test_errors_are_reached(x64):
  """By two atoms with a cosine of 0.3 and opposite signs: 0.9 times an error would be exceeded."""
  cosine, noise, beta = 0.3, 0.01, 0.1
  u = np.array([[1, cosine, 0], [0, math.sqrt(1 - cosine**2), 0], [0, 0, 1]])
  code, signs = np.array([2.0, -1, 0]), np.array([1.0, -1, 0])
  worst = -u @ signs / np.linalg.norm(u @ signs)
  dictionary = cscjax.MatrixDictionary(jnp.asarray(u))
  rows = theory.recovery(dictionary, jnp.asarray(code), noise=noise, beta=beta).conditions
  change = np.linalg.norm(_solve(u, beta, u @ code + noise * worst) - code)
  assert rows.pop("stripe coherence").error > change
  for row in rows.values():
    np.testing.assert_allclose(row.error, change, rtol=1e-9)


@pytest.mark.slow
def test_omp_recovers_below_the_exact_recovery_condition(x64):
  recovered = 0
  for seed in range(TRIALS):
    rng = np.random.default_rng(seed)
    u, code = _random(rng)
    if theory.exact_recovery_coefficient(*_dictionary(rng, u, code)) < 1:
      k = np.count_nonzero(code)
      found = sklearn.linear_model.orthogonal_mp(u, u @ code, n_nonzero_coefs=k)
      np.testing.assert_allclose(found, code, atol=1e-9)
      recovered += 1
  assert recovered >= 20


@pytest.mark.slow
def test_each_condition_implies_the_next(x64):
  held = 0
  for seed in range(TRIALS):
    rng = np.random.default_rng(seed)
    found = theory.recovery(*_dictionary(rng, *_random(rng))).conditions
    order = ("coherence", "Babel function", "exact recovery", "dual certificate")
    holds = [found[name].holds for name in order]
    assert holds == sorted(holds)
    held += holds[0]
  assert held >= 5


@pytest.mark.slow
def test_stripes_as_in_layered_stability(x64):
  """The same condition and, per coefficient, the same error as `bp_recovery`."""
  dictionary, code = cscjax.MatrixDictionary(jnp.asarray(_hadamard(64))), jnp.zeros(128).at[3].set(2.0)
  row = theory.recovery(dictionary, code, noise=0.01, beta=0.05).conditions["stripe coherence"]
  other = theory.bp_recovery(dictionary.mutual_coherence(), 1, 0.01, 0.05)
  assert row.holds
  assert other.holds
  assert row.error == pytest.approx(float(other.error))
  assert (
    not theory.recovery(dictionary, code, noise=0.01, beta=0.03).conditions["stripe coherence"].holds
  )


@pytest.mark.slow
def test_float32_is_as_float64():
  rng = np.random.default_rng(0)
  u, code = _random(rng)
  u32, code32 = u.astype(np.float32), code.astype(np.float32)
  found = theory.recovery(cscjax.MatrixDictionary(jnp.asarray(u32)), code32, noise=0.01)
  with jax.enable_x64(True):
    dictionary = cscjax.MatrixDictionary(jnp.asarray(u32.astype(np.float64)))
    assert theory.recovery(dictionary, code32.astype(np.float64), noise=0.01) == found
