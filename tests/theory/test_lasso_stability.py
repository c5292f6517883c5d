"""The certificates of `stability` against dense references, with random and with adversarial noise."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

import cscjax
from cscjax import theory
from cscjax.theory import _groups, _restricted, _screening, _signal_stability
from cscjax.theory._screening import FlatProblems
from cscjax.theory._signal_stability import SignalStability
from tests.dictionaries.test_conformance import DICTIONARIES
from tests.theory.lasso_reference import SMALL, DenseLasso
from tests.theory.stability_cases import CASES, make_case

SIGNALS = 12  # signals per case of the slow tests


QUICK = ("valid, weights",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in CASES] + list(QUICK))
def test_statements_hold(name, x64, request):
  """For random and adversarial noise: reconstructions, active atoms, bounds, and errors of codes."""
  slow = request.node.get_closest_marker("slow") is not None
  rng = np.random.default_rng(CASES.index(name))
  case, count = make_case(name, rng), SIGNALS if slow else 4
  x = case.signals(rng, count)
  signals = jnp.asarray(x.reshape(count, *case.shape))
  rough = cscjax.fista(case.dictionary, signals, case.beta, iterations=100, **case.options).code
  result = theory.stability(case.dictionary, signals, case.beta, rough, **case.options)
  problems = FlatProblems.of(cscjax.Lasso(case.dictionary, signals, case.beta, **case.options))
  tight, checked, rough_known = [], 0, 0  # `tight`: the changes where the bound is known to be reached
  sharp = case.groups is None and np.ptp(case.ridge) == 0  # else the bound is wider
  for i in range(count):
    problem, signal = case.problem(x[i]), result._signals[i]
    code, violation = problem.solve(x[i])
    assert violation <= SMALL
    error = np.linalg.norm(_flat(rough, i) - code)
    if result.unique[i]:  # D
      assert np.linalg.norm(_flat(result.code, i) - code) <= result.code_error[i] + 1e-9
      assert result.code_error[i] < 1e-8
      assert error <= result.error[i] + 1e-9
      np.testing.assert_allclose(result.error[i], error, atol=1e-6)
    unpolished = SignalStability(problems, i, _flat(rough, i), 0.0)  # its dual point has a radius
    assert error <= unpolished.code_error + 1e-9  # D
    rough_known += 1e-9 < unpolished.code_error < np.inf
    gain = np.linalg.norm(problem.response(code), 2) if np.any(code) else 0.0
    if result.differentiable[i] and np.any(code):
      direction = np.sqrt(case.weights) * np.ravel(result.worst_direction()[i])
      np.testing.assert_allclose(np.linalg.norm(direction), 1, rtol=1e-9)
      change = np.linalg.norm(problem.response(code) @ direction)
      np.testing.assert_allclose(change, gain, rtol=1e-3)
    scale = np.linalg.norm(np.sqrt(case.weights) * x[i])
    for noise in scale * np.array([1e-6, 1e-3, 1e-2, 0.1]):
      active = signal._order[: signal.size(noise)]
      possible = unpolished._order[: unpolished.size(noise)]
      s, bound = signal.restriction(noise).value, result.bound(noise)[i]
      smallest = problem.smallest_singular_value(active)
      assert s <= smallest * (1 + 1e-12)
      if smallest > 1e-5:
        assert s >= 0.999 * smallest
        assert bound <= noise / s * (1 + 1e-12)
      changes = []
      for moved in noises(rng, problem, x[i], code, noise):
        assert np.linalg.norm(problem.augmented @ (moved - code)) <= noise + 1e-9  # A
        assert set(np.flatnonzero(moved)) <= set(active) & set(possible)  # B
        changes.append(np.linalg.norm(moved - code))
      checked += len(changes)
      assert not _exceeds(changes, bound)  # C
      if noise < 1e-5 * scale and bound < 1.001 * noise * gain:
        tight.append((changes, bound))
  assert checked >= 10 * count
  assert np.any(result.unique) == (name != "groups, nonnegative, equal atoms")
  part = 8 if name == "groups, more atoms than samples" else 6
  assert rough_known >= min(count // part, np.count_nonzero(result.unique))
  assert case.groups is not None or len(tight) >= (count // 2 if sharp else 1)
  assert all(_exceeds(changes, 0.9 * bound) for changes, bound in tight)


def _exceeds(changes, bound):
  """Whether a change is larger than a bound, beyond rounding."""
  return max(changes) > bound * (1 + 1e-6) + 1e-9


def noises(rng, problem, x, code, noise):
  """Yields the solutions with random and with adversarial noise of a given norm."""
  visible = problem.weights > 0
  drawn = visible * rng.normal(size=(2, len(x)))
  worst = problem.worst_direction(code)
  for e in (*drawn, worst, -worst):
    if np.any(e):
      e = noise * e / np.linalg.norm(e)
      moved, violation = problem.moved(x, e)
      if violation <= SMALL:
        yield moved
  yield from problem.ascent(x, code, noise * drawn[0] / np.linalg.norm(drawn[0]))


def _flat(code, i):
  return np.concatenate([np.ravel(part[i]) for part in jax.tree.leaves(code)])


def _small(atoms, x, beta, ridge=None):
  """Calls `stability` with three atoms and two samples: arguments of the same shapes compile once."""
  dictionary = cscjax.MatrixDictionary(jnp.array(atoms))
  beta = jnp.broadcast_to(jnp.asarray(beta), (3,))
  return theory.stability(dictionary, jnp.array(x), beta, ridge=ridge)


@pytest.mark.parametrize(
  ("atoms", "beta", "reason"),
  [
    ([[1.0, 1.0, 0.1], [0.5, 0.5, 1.0]], 0.1, "3 of the atoms may be active, more than the 2 samples"),
    ([[1.0, 1.0, 0.1], [0.5, 0.5, 1.0]], [0.1, 0.1, 3.0], "2 of .* linearly dependent"),
    ([[1.0, 0.0, 0.1], [0.5, 0.0, 1.0]], [0.1, 0.0, 3.0], "2 of .* linearly dependent"),
    ([[1.0, 0.3, 0.1], [0.5, 0.8, 1.0]], 0.0, "3 of .* more than the 2 samples"),
  ],
  ids=["equal atoms", "only equal atoms", "a zero atom without a penalty", "no penalty"],
)
def test_is_infinite_and_says_why(atoms, beta, reason):
  result = _small(atoms, [1.0, 0.6], beta)
  assert np.all(np.isinf(result.bound([0.0, 0.1])))
  assert not result.unique
  assert math.isinf(result.error)
  assert result.largest_noise == 0
  assert re.match(f"no bound for noise up to 0: {reason}", result.explain())


def test_codes_of_zeros_and_zero_atoms():
  atoms = [[1.0, 0.0, 0.0], [0.0, 0.0, 0.5]]
  zero = _small(atoms, [0.5, 0.0], 1.0)
  assert zero.active_set().smallest_singular_value == np.inf
  np.testing.assert_allclose(zero.slack, 0.5)
  assert zero.bound(0.4) == 0
  assert 0.1 < zero.bound(0.6) < 0.6  # 0.1 is the change for noise along the first atom
  used = _small(atoms, [3.0, 0.0], 1.0)
  np.testing.assert_allclose(used.bound([1.0, 1.9]), [1.0, 1.9])
  np.testing.assert_allclose(used.largest_noise, np.inf)
  assert used.unique
  assert used.differentiable


def test_ridge_in_closed_form():
  """For orthonormal atoms, each coefficient is soft(x, beta) / (1 + ridge)."""
  atoms = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
  for ridge, gain in ((1.0, 0.5), (0.25, 0.8), (3.0, 0.5 / math.sqrt(3))):  # the last one is not reached
    result = _small(atoms, [3.0, 0.0], 1.0, jnp.full(3, ridge))
    np.testing.assert_allclose(result.code, [2 / (1 + ridge), 0, 0])
    np.testing.assert_allclose(result.active_set().smallest_singular_value, math.sqrt(1 + ridge))
    np.testing.assert_allclose(result.bound([0.5, 5.0]), [0.5 * gain, 5 * gain], rtol=1e-6)
    np.testing.assert_allclose(result.slack, 1, rtol=1e-6)
    assert result.largest_noise == np.inf
    assert "with the ridge" in result.explain(0.5)


def test_ridge_makes_equal_atoms_stable():
  result = _small([[1.0, 1.0, 0.1], [0.5, 0.5, 1.0]], [1.0, 0.6], 0.1, jnp.full(3, 0.04))
  assert result.active_set().atoms == 3  # more than samples
  np.testing.assert_allclose(result.active_set().smallest_singular_value, 0.2)
  np.testing.assert_allclose(result.bound(0.1), 0.1 * 0.5 / 0.2)
  assert result.unique


def test_ridge_of_one_atom_makes_more_atoms_than_samples_stable(monkeypatch):
  atoms, ridge = np.array([[1.0, 1.0, 0.1], [0.5, 0.5, 1.0]]), np.array([0.0, 0.04, 0.0])
  result = _small(atoms, [1.0, 0.6], 0.1, jnp.asarray(ridge))
  s = np.linalg.svd(np.vstack([atoms, np.diag(np.sqrt(ridge))]), compute_uv=False)[-1]
  np.testing.assert_allclose(result.active_set().smallest_singular_value, s)
  np.testing.assert_allclose(result.bound(0.1), 0.1 / s)
  assert result.largest_noise == np.inf
  monkeypatch.setattr(_signal_stability, "DENSE_VECTOR", 0)  # as with very many atoms
  known = _small(atoms, [1.0, 0.6], 0.1, jnp.asarray(ridge)).active_set()
  assert 0.3 * s < known.proved_singular_value == known.smallest_singular_value < s


def test_ridge_proves_a_bound_where_s_is_estimated(monkeypatch):
  monkeypatch.setattr(_restricted, "DENSE", 0)
  monkeypatch.setattr(_restricted, "BAND", -1)
  atoms = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
  result = _small(atoms, [3.0, 0.0], 1.0, jnp.full(3, 0.25))
  active = result.active_set()
  assert active.proved == 0
  np.testing.assert_allclose(active.smallest_singular_value, math.sqrt(1.25))  # an estimate
  assert active.proved_singular_value == 0.5
  np.testing.assert_allclose(result.bound(0.2), 0.8 * 0.2)
  np.testing.assert_allclose(result.bound(0.2, proved=True), 0.2 / (2 * 0.5))
  np.testing.assert_allclose(result.radius(0.2), 0.2, rtol=2e-3)
  assert "estimated for 100% of them, at least 0.5 by the ridge" in result.explain(0.2)
  without = _small(atoms, [3.0, 0.0], 1.0)
  assert without.bound(0.2) < without.bound(0.2, proved=True) == np.inf
  assert without.radius(1.0) == 0


def test_value_by_ridge():
  rng = np.random.default_rng(0)
  for _ in range(100):
    free, rest = rng.normal(size=(6, 3)), rng.uniform(0.01, 2) * rng.normal(size=(6, 5))
    ridge = rng.uniform(0.01, 3)
    augmented = np.block([[free, rest], [np.zeros((5, 3)), math.sqrt(ridge) * np.eye(5)]])
    s, norm = np.linalg.svd(free, compute_uv=False)[-1], np.linalg.norm(rest, 2)
    value = _signal_stability.value_by_ridge(s, norm, ridge)
    assert 0 < value <= np.linalg.svd(augmented, compute_uv=False)[-1]
    # Reached by one atom of each kind, of opposite directions.
    pair = np.array([[s, -norm], [0, math.sqrt(ridge)]])
    np.testing.assert_allclose(value, np.linalg.svd(pair, compute_uv=False)[-1])


@pytest.mark.slow
def test_complex_code_in_closed_form():
  """The modulus of each coefficient is soft(|d x|, beta) / |d|^2; noise of its phase moves it most."""
  atoms = np.diag([2.0j, 1.0, 0.5])
  dictionary = cscjax.dictionaries.ComplexDictionary(
    cscjax.MatrixDictionary(atoms.real), cscjax.MatrixDictionary(atoms.imag)
  )
  x = np.array([1.2 + 1.6j, -3.0j, 0.1])
  result = theory.stability(dictionary, np.stack([x.real, x.imag]), np.ones((1, 3)), joint_axes=-2)
  np.testing.assert_allclose(result.code[0] + 1j * result.code[1], [0.6 - 0.45j, -2j, 0], atol=1e-12)
  np.testing.assert_allclose(result.slack, 1 / 0.5 - 0.1, rtol=1e-6)  # the bounds allow for rounding
  np.testing.assert_allclose(result.active_set().smallest_singular_value, 1)
  np.testing.assert_allclose(result.bound([0.5, 1.5]), [0.5, 1.5])
  assert result.differentiable
  worst = result.worst_direction()
  np.testing.assert_allclose(np.abs(worst), [[0, 0, 0], [0, 1, 0]], atol=1e-9)
  assert 1.99 < result.bound(1.99) < np.inf


@pytest.mark.slow
def test_groups_need_their_spectral_norm():
  """For two equal atoms in a group, noise of 0.6 makes the group active; by their norms, 0.8 would."""
  dictionary = cscjax.MatrixDictionary(np.array([[1.0, 1.0], [0.0, 0.0]]))
  result = theory.stability(dictionary, np.array([0.1, 2.0]), np.ones(1), joint_axes=-1)
  np.testing.assert_allclose(result.slack, 1 / math.sqrt(2) - 0.1)
  assert result.bound(0.6) == 0
  assert 0 < result.bound(0.61) < np.inf


def test_dependent_atoms_of_a_group():
  """Two equal atoms d are one of norm sqrt(2): with c = sqrt(2) code, 1/2 (x - c)^2 + c / sqrt(2)."""
  dictionary = cscjax.MatrixDictionary(np.array([[1.0, 1.0], [0.0, 0.0]]))
  beta, start = np.ones(1), np.array([1.0, 0.0])
  result = theory.stability(dictionary, np.array([2.0, 0.1]), beta, start, joint_axes=-1)
  np.testing.assert_allclose(result.code, np.full(2, 1 - math.sqrt(0.125)))
  np.testing.assert_allclose(result.active_set().smallest_singular_value, math.sqrt(2))
  np.testing.assert_allclose(result.bound([0.1, 1.0]), np.array([0.1, 1.0]) / math.sqrt(2))
  np.testing.assert_allclose(np.abs(result.worst_direction()), [1, 0], atol=1e-12)
  np.testing.assert_allclose(result.error, np.linalg.norm(start - result.code), atol=1e-7)
  assert result.unique
  assert result.differentiable
  free = theory.stability(dictionary, np.array([2.0, 0.1]), 0 * beta, joint_axes=-1)
  assert "2 of the atoms may be active, which are linearly dependent" in free.explain()


@pytest.mark.parametrize("dense", [200, 1])
def test_spectral_norms_of_groups(dense, monkeypatch):
  monkeypatch.setattr(_groups, "DENSE", dense)
  monkeypatch.setattr(_groups, "CHUNK", 4)
  rng = np.random.default_rng(0)
  of = rng.permutation(np.repeat(np.arange(6), [1, 2, 2, 3, 3, 7]))
  d = rng.normal(size=(5, len(of))) * (rng.random((5, len(of))) < 0.6)
  groups = _groups.Groups(of)
  found, kernels = groups.spectra(lambda i: scipy.sparse.csc_array(d[:, i]), np.linalg.norm(d, axis=0))
  exact = [np.linalg.norm(d[:, of == g], 2) for g in range(6)]
  assert np.all(found >= exact)
  np.testing.assert_allclose(found, exact, rtol=1e-12 if dense == 200 else 0.5)
  for g in range(6):
    expected = np.eye(np.sum(of == g)) - np.linalg.pinv(d[:, of == g]) @ d[:, of == g]
    found = kernels[of == g][:, of == g].toarray()
    np.testing.assert_allclose(found, expected if dense == 200 else 0, atol=1e-12)


@pytest.mark.slow
def test_codes_far_from_the_solution_and_empty_batches(x64):
  rng = np.random.default_rng(0)
  dictionary = cscjax.MatrixDictionary(rng.normal(size=(40, 120)))
  x, beta = rng.normal(size=(1, 40)), cscjax.relative(0.3)
  far = 1e4 * rng.normal(size=(1, 120))
  assert cscjax.polished(dictionary, x, far, beta).violation > 0  # this start does not suffice
  result = theory.stability(dictionary, x, beta, far)
  expected = theory.stability(dictionary, x, beta)
  assert result.code_error < 1e-10
  np.testing.assert_allclose(result.bound(0.1), expected.bound(0.1))
  np.testing.assert_allclose(result.error, np.linalg.norm(far - expected.code))
  assert theory.stability(dictionary, x[:0], beta).bound([0.1, 0.2]).shape == (2, 0)


def test_without_a_cpu_backend(monkeypatch):
  """As with JAX_PLATFORMS=cuda: JAX's default device computes."""

  def local_devices(*, backend):
    raise RuntimeError(f"Unknown backend {backend}")

  monkeypatch.setattr(jax, "local_devices", local_devices)
  with _restricted.float64_on_host():
    assert jnp.ones(2).dtype == jnp.float64


def test_projection_onto_nearly_dependent_atoms():
  rng = np.random.default_rng(0)
  basis = np.linalg.qr(rng.normal(size=(20, 10)))[0]
  atoms = basis @ np.diag(10.0 ** -np.arange(10)) @ np.linalg.qr(rng.normal(size=(10, 10)))[0]
  signal = rng.normal(size=20)
  found = _screening._projection(scipy.sparse.csc_array(atoms), signal)
  assert np.max(np.abs(atoms.T @ (signal - found))) < 1e-14


@pytest.mark.slow
def test_a_projection_that_has_not_converged(x64, monkeypatch):
  """The dual point is then zero, for which the gap of the zero code is 1/2 ||x||^2."""
  dictionary, x = cscjax.MatrixDictionary(jnp.eye(2)), jnp.array([2.0, 0.1])
  problems = FlatProblems.of(cscjax.Lasso(dictionary, x, jnp.array([0.0, 0.5])))
  assert _screening.screen(problems, 0, np.zeros(2)).radius == pytest.approx(2.0)
  monkeypatch.setattr(_screening, "_projection", lambda _, signal: np.zeros_like(signal))
  assert _screening.screen(problems, 0, np.zeros(2)).radius == pytest.approx(np.linalg.norm(x))


@pytest.mark.slow
def test_rounding_of_signals_far_from_the_atoms():
  """The atoms are orthogonal to nearly all of the signal, which still gives correlations an error."""
  rng = np.random.default_rng(0)
  atoms = np.linalg.qr(rng.normal(size=(60, 4)))[0]
  far = rng.normal(size=60)
  far -= atoms @ (atoms.T @ far)
  x = atoms @ [3.0, -2.0, 0.0, 0.5] + 1e9 * far
  result = theory.stability(cscjax.MatrixDictionary(atoms), x, np.ones(4))
  exact = atoms.astype(np.longdouble).T @ x.astype(np.longdouble)
  exact = np.sign(exact) * np.maximum(np.abs(exact) - 1, 0)  # up to the rounding of the atoms
  error = float(np.linalg.norm(result.code - exact))
  assert 1e-9 < error < result.code_error < 1e-4


def test_refuses_tracers_and_values_that_are_not_finite():
  atoms = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.5]]
  with pytest.raises(ValueError, match=r"outside of jax\.jit"):
    jax.jit(lambda x: theory.stability(cscjax.MatrixDictionary(jnp.array(atoms)), x, 0.1).nonzeros)(
      jnp.ones(2)
    )
  with pytest.raises(ValueError, match=r"x: expected finite"):
    _small(atoms, [1.0, np.nan], 0.1)
  with pytest.raises(ValueError, match=r"noise: expected finite values >= 0"):
    _small(atoms, [1.0, 1.0], 0.1).bound(-1.0)


@pytest.mark.parametrize(
  "dense", [pytest.param(0, id="factored"), pytest.param(10**6, id="eigenvalues")]
)
def test_smallest_singular_value(dense, monkeypatch):
  """By all ways, for atoms in several pieces."""
  rng = np.random.default_rng(0)
  dictionary = cscjax.ConvDictionary(rng.normal(size=(3, 3, 1, 4)), padding="CIRCULAR")
  indices = rng.permutation(20 * 20 * 4)[:60]
  columns = _restricted.atom_columns(dictionary, (20, 20, 1), indices)
  expected = np.linalg.svd(columns.toarray(), compute_uv=False)[-1]
  monkeypatch.setattr(_restricted, "DENSE", dense)
  found = _restricted.smallest_singular_value(columns)
  assert 0.9999 * expected <= found.value <= expected
  assert found.pieces > 1
  assert found.proved == 1
  monkeypatch.setattr(_restricted, "BAND", -1)
  found = _restricted.smallest_singular_value(columns)
  np.testing.assert_allclose(found.value, expected, rtol=1e-2)
  assert found.proved == (1 if dense else 0)
  assert not _restricted.is_independent(columns)


@pytest.mark.parametrize("dense", [0, 10**6])
def test_spectral_norm(dense, monkeypatch):
  """Within 0.1 %, for atoms in several pieces, or none if it would take too long."""
  monkeypatch.setattr(_restricted, "DENSE", dense)
  rng = np.random.default_rng(0)
  columns = scipy.linalg.block_diag(*rng.normal(size=(3, 20, 8)))
  expected = np.linalg.norm(columns, 2)
  assert expected < _restricted.spectral_norm(scipy.sparse.csc_array(columns)) < 1.001 * expected
  monkeypatch.setattr(_restricted, "BAND", 1)
  assert _restricted.spectral_norm(scipy.sparse.csc_array(columns)) is None


@pytest.mark.parametrize("dense", [0, 10**6])
def test_most_amplified_vector(dense, monkeypatch):
  monkeypatch.setattr(_restricted, "DENSE_VECTOR", dense)
  rng = np.random.default_rng(0)
  blocks, ridge = rng.normal(size=(2, 6, 4)), rng.uniform(size=8)
  columns = scipy.linalg.block_diag(*blocks)
  response = np.linalg.solve(columns.T @ columns + np.diag(ridge), columns.T)
  found = _restricted.most_amplified_vector(*map(scipy.sparse.csc_array, (columns, np.diag(ridge))))
  np.testing.assert_allclose(np.linalg.norm(found), 1)
  np.testing.assert_allclose(np.linalg.norm(response @ found), np.linalg.norm(response, 2), rtol=1e-3)


def test_no_bound_if_some_of_the_atoms_are_dependent(monkeypatch):
  """A rough estimate for all atoms is larger than zero, the value of three of them."""
  monkeypatch.setattr(_restricted, "DENSE", 3)
  monkeypatch.setattr(_restricted, "BAND", -1)
  monkeypatch.setattr(_restricted, "ITERATIONS", 1)
  atoms = 0.1 + np.eye(5)[:, [0, 1, 1, 2]]
  correlations = np.array([2.0, 0.9, 0.9, 0.5])
  result = theory.stability(cscjax.MatrixDictionary(atoms), np.linalg.pinv(atoms.T) @ correlations, 1.0)
  noise = 1.05 * result._signals[0]._starts[-1]
  active = result.active_set([noise / 1.2, noise])
  assert active.atoms.tolist() == [3, 4]
  assert active.smallest_singular_value[0] == 0 < active.smallest_singular_value[1]
  assert result.bound(noise) == np.inf
  assert "linearly dependent" in result.explain(noise)


def test_error_of_a_code_in_float32():
  atoms = [[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]
  solution = _small(atoms, [2.0, 0.1], 0.5).code  # (1.5, 0, 0)
  np.testing.assert_allclose(solution, [1.5, 0, 0], rtol=1e-12)
  dictionary, beta = cscjax.MatrixDictionary(jnp.array(atoms)), jnp.full(3, 0.5)
  for code in ([1.5, 0.0, 0.0], [1.5001, 0.0, 0.0], [1.5, 0.0, -0.3]):
    result = theory.stability(dictionary, jnp.array([2.0, 0.1]), beta, jnp.array(code))
    np.testing.assert_allclose(result.error, np.linalg.norm(code - solution), atol=1e-7)


LAYERS = {
  "dense": (lambda rng: cscjax.MatrixDictionary(_scaled(rng, (14, 20))), (14,)),
  "convolutional": (lambda rng: cscjax.ConvDictionary(_scaled(rng, (4, 1, 2)), stride=2), (16, 1)),
  "augmented": (
    lambda rng: cscjax.IdentityAugmented(cscjax.ConvDictionary(_scaled(rng, (3, 1, 2)))),
    (12, 1),
  ),
}


def _scaled(rng, shape):
  return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", DICTIONARIES)
def test_every_dictionary_agrees_with_its_matrix(name):
  """Each class knows its own Gram matrices, columns and spectra; the dense class only its entries."""
  dictionary, shape = DICTIONARIES[name]
  x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
  found = theory.stability(dictionary, x, cscjax.relative(0.4))
  with jax.enable_x64(True):
    double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), dictionary)
    dense = cscjax.MatrixDictionary(cscjax.to_matrix(double, shape))
    expected = theory.stability(dense, np.float64(x).reshape(2, -1), cscjax.relative(0.4))
  code = np.concatenate([np.reshape(part, (2, -1)) for part in jax.tree.leaves(found.code)], axis=-1)
  np.testing.assert_allclose(code, expected.code, atol=1e-9)
  noise = np.array([[1e-4], [1e-2], [0.1]]) * np.linalg.norm(x)
  np.testing.assert_allclose(found.bound(noise), expected.bound(noise), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_chained(name, x64):
  """The codes of layered BP for signals with random and adversarial noise, by dense algebra."""
  rng = np.random.default_rng(3)
  make, shape = LAYERS[name]
  first = make(rng)
  middle = cscjax.dictionaries.join(first.analysis(jnp.zeros(shape))).shape
  second = (
    cscjax.MatrixDictionary(_scaled(rng, (middle[0], 9)))
    if len(shape) == 1
    else cscjax.ConvDictionary(_scaled(rng, (3, middle[1], 3)))
  )
  reordered, finite, tight = _as_joined(first, shape), 0, 0
  matrices = (reordered, np.asarray(cscjax.dictionaries.to_matrix(second, middle)))
  for _ in range(SIGNALS):
    x = matrices[0] @ (rng.normal(size=matrices[0].shape[1]) * (rng.random(matrices[0].shape[1]) < 0.2))
    x += 0.02 * rng.normal(size=len(x))
    betas = [0.3 * np.max(np.abs(matrices[0].T @ x))]
    chain = [_dense(matrices[0], betas[0])]
    code, violation = chain[0].solve(x)
    betas.append(0.3 * np.max(np.abs(matrices[1].T @ code)))
    chain.append(_dense(matrices[1], betas[1]))
    codes = [code, chain[1].solve(code)[0]]
    worst = chain[0].worst_direction(code)
    noise = 1e-3 * np.linalg.norm(x)
    rows = theory.certify(
      [first, second], x.reshape(shape), noise, betas=list(map(jnp.asarray, betas)), solver="bp"
    ).rows
    for e in (worst, -worst, *rng.normal(size=(2, len(x)))):
      moved, moved_violation = chain[0].solve(x + noise * e / np.linalg.norm(e))
      if max(violation, moved_violation) > SMALL:
        continue
      for row, old, new in zip(rows, codes, (moved, chain[1].solve(moved)[0]), strict=True):
        change = np.linalg.norm(new - old)
        assert change <= row.stability_error
        assert ("stability" in row.held) == np.isfinite(row.stability_error)
        finite += np.isfinite(row.stability_error)
        tight += row.layer == 1 and change > 0.5 * row.stability_error
  assert finite > SIGNALS
  assert tight > SIGNALS / 4


def _dense(matrix, beta):
  count = matrix.shape[1]
  sides, weights = np.zeros(count, bool), np.ones(len(matrix))
  return DenseLasso(matrix, np.full(count, beta), sides, weights, np.zeros(count))


def _as_joined(dictionary, shape):
  """Returns the matrix of a dictionary, with columns in the order of the joined code."""
  code = dictionary.analysis(jnp.zeros(shape))
  sizes = np.cumsum([part.size for part in jax.tree.leaves(code)])[:-1]
  places = np.split(np.arange(sum(part.size for part in jax.tree.leaves(code))), sizes)
  parts = [p.reshape(c.shape) for p, c in zip(places, jax.tree.leaves(code), strict=True)]
  order = np.concatenate(parts, axis=-1).ravel()
  return np.asarray(cscjax.dictionaries.to_matrix(dictionary, shape))[:, order]
