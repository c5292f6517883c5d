"""The certificates of `stability` against dense references, with random and with adversarial noise."""

import dataclasses
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
from cscjax.theory import _restricted
from cscjax.theory._screening import FlatProblems
from cscjax.theory._signal_stability import SignalStability
from tests import references
from tests.theory.lasso_reference import SMALL, DenseLasso

SIGNALS = 35  # signals per case of the slow tests


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TwoParts:
  """A dictionary of a user: D (a, b) = atoms a + reversed b, with a code that is a dict."""

  atoms: jax.Array
  signal_ndim = 1

  def analysis(self, x):
    """Returns D^T x."""
    return {"a": x @ self.atoms, "b": x[..., ::-1]}

  def synthesis(self, code, signal_shape=None):
    """Returns D code."""
    return code["a"] @ self.atoms.T + code["b"][..., ::-1]

  def residual(self, code, x):
    """Returns D code - x."""
    return self.synthesis(code) - x


@dataclasses.dataclass(frozen=True)
class Case:
  """Problems with one dictionary, and the same in dense algebra."""

  dictionary: cscjax.Dictionary
  shape: tuple
  d: np.ndarray
  beta: object  # as given to `stability`, relative to the largest useful one
  dense_beta: np.ndarray
  options: dict
  one_sided: np.ndarray
  weights: np.ndarray
  ridge: np.ndarray

  def signals(self, rng, count):
    """Returns noisy signals with sparse codes."""
    codes = rng.normal(size=(count, self.d.shape[1])) * (rng.random((count, self.d.shape[1])) < 0.15)
    codes = np.where(self.one_sided, np.abs(codes), codes)
    x = codes @ self.d.T
    return x + 0.05 * np.std(x) * rng.normal(size=x.shape)

  def problem(self, x):
    """Returns the dense problem of one signal, and beta as `stability` takes it."""
    correlation = self.d.T @ (self.weights * x)
    largest = np.max(np.where(self.one_sided, correlation, np.abs(correlation)))
    return DenseLasso(self.d, largest * self.dense_beta, self.one_sided, self.weights, self.ridge)


def _case(name, rng):
  filters, spatial, geometry, beta = rng.normal(size=(3, 2, 3)), (11,), {}, 0.2
  options, one_sided, weights = {}, False, None
  match name:
    case "dense":
      d = rng.normal(size=(12, 20))
      return _of(cscjax.MatrixDictionary(jnp.asarray(d)), (12,), d, 0.2, {}, False, None)
    case "dense, nonnegative, equal norms":
      d = rng.normal(size=(10, 15))
      d /= np.linalg.norm(d, axis=0)
      nonnegative = {"nonnegative": True}
      return _of(cscjax.MatrixDictionary(jnp.asarray(d)), (10,), d, 0.1, nonnegative, True, None)
    case "user's":
      atoms = rng.normal(size=(8, 5))
      d = np.hstack([atoms, np.eye(8)[::-1]])
      return _of(TwoParts(jnp.asarray(atoms)), (8,), d, {"a": 0.1, "b": 0.25}, {}, False, None)
    case "stride and dilation":
      filters, spatial = rng.normal(size=(3, 2, 1, 4)), (7, 6)
      geometry = {"stride": 2, "dilation": (1, 2)}
    case "circular, a beta per channel":
      geometry, beta = {"padding": "CIRCULAR"}, np.array([0.1, 0.3, 0.2])
    case "circular, around itself":
      geometry, spatial = {"padding": "CIRCULAR", "dilation": 3}, (5,)
    case "valid, weights":
      geometry, weights = {"padding": "VALID"}, rng.uniform(size=(11, 2))
    case "pads, mask":
      geometry, weights = {"padding": ((3, 1),)}, (rng.random((11, 1)) < 0.7) * np.ones((11, 2))
    case "no penalty on a channel":
      beta = np.array([0.2, 0.0, 0.3])
    case "a beta per coefficient, nonnegative":
      beta, options, one_sided = rng.uniform(0.05, 0.4, (11, 3)), {"nonnegative": True}, True
    case "signs per channel":
      one_sided = np.array([True, False, True])
      options = {"nonnegative": jnp.asarray(one_sided)}
    case "augmented" | "augmented, only the image is signed":
      filters = rng.normal(size=(3, 3, 1, 3))
      conv = cscjax.ConvDictionary(jnp.asarray(filters))
      d = np.hstack([np.eye(30), references.conv_matrix(filters, (6, 5))])
      sides = (False, "only" in name)
      options = {"nonnegative": sides} if any(sides) else {}
      return _of(cscjax.IdentityAugmented(conv), (6, 5, 1), d, (0.3, 0.2), options, sides, None)
    case "three axes":
      filters, spatial = rng.normal(size=(2, 2, 2, 1, 2)), (4, 3, 3)
    case "ridge":
      beta, options = 0.05, {"ridge": 0.3}
    case "ridge of a channel, nonnegative, weights":
      options = {"ridge": jnp.array([0.5, 0.0, 2.0]), "nonnegative": True}
      one_sided, weights = True, rng.uniform(size=(11, 2))
    case "ridge alone on a channel":
      beta, options = np.array([0.1, 0.0, 0.3]), {"ridge": jnp.array([0.2, 1.0, 0.1])}
  d = references.conv_matrix(filters, spatial, **geometry)
  if weights is not None:
    options = {**options, "mask": jnp.asarray(weights)}
  dictionary = cscjax.ConvDictionary(jnp.asarray(filters), **geometry)
  shape = (*spatial, filters.shape[-2])
  return _of(dictionary, shape, d, beta, options, one_sided, weights)


def _of(dictionary, shape, d, beta, options, one_sided, weights):
  leaves, structure = jax.tree.flatten(jax.eval_shape(dictionary.analysis, jnp.zeros(shape)))

  def dense(value):
    parts = [value] * len(leaves)
    if jax.tree.structure(value) == structure:
      parts = jax.tree.leaves(value)
    return np.concatenate(
      [np.broadcast_to(v, leaf.shape).ravel() for v, leaf in zip(parts, leaves, strict=True)]
    )

  weights = np.ravel(np.ones(shape) if weights is None else weights)
  relative = cscjax.relative(jax.tree.map(jnp.asarray, beta))
  flat = (dense(beta), options, dense(one_sided), weights, dense(options.get("ridge", 0.0)))
  return Case(dictionary, shape, d, relative, *flat)


CASES = (
  "dense",
  "dense, nonnegative, equal norms",
  "user's",
  "stride and dilation",
  "circular, a beta per channel",
  "circular, around itself",
  "valid, weights",
  "pads, mask",
  "no penalty on a channel",
  "a beta per coefficient, nonnegative",
  "signs per channel",
  "augmented",
  "augmented, only the image is signed",
  "three axes",
  "SAME",
  "ridge",
  "ridge of a channel, nonnegative, weights",
  "ridge alone on a channel",
)
QUICK = ("valid, weights",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in CASES] + list(QUICK))
def test_statements_hold(name, x64, request):
  """For random and adversarial noise: reconstructions, active atoms, bounds, and errors of codes."""
  slow = request.node.get_closest_marker("slow") is not None
  rng = np.random.default_rng(CASES.index(name))
  case, count = _case(name, rng), SIGNALS if slow else 4
  x = case.signals(rng, count)
  signals = jnp.asarray(x.reshape(count, *case.shape))
  rough = cscjax.fista(case.dictionary, signals, case.beta, iterations=100, **case.options).code
  result = theory.stability(case.dictionary, signals, case.beta, rough, **case.options)
  problems = FlatProblems.of(cscjax.Lasso(case.dictionary, signals, case.beta, **case.options))
  tight, checked, rough_known = [], 0, 0  # `tight`: the changes where the bound is known to be reached
  same_ridge = np.ptp(case.ridge) == 0  # else the bound is wider
  for i in range(count):
    problem, signal = case.problem(x[i]), result._signals[i]
    code, violation = problem.solve(x[i])
    assert violation <= SMALL
    support, error = np.flatnonzero(code), np.linalg.norm(_flat(rough, i) - code)
    if result.unique[i]:  # D
      assert np.linalg.norm(_flat(result.code, i) - code) <= result.code_error[i] + 1e-9
      assert result.code_error[i] < 1e-8
      assert error <= result.error[i] + 1e-9
      np.testing.assert_allclose(result.error[i], error, atol=1e-6)
    unpolished = SignalStability(problems, i, _flat(rough, i), 0.0)  # its dual point has a radius
    assert error <= unpolished.code_error + 1e-9  # D
    rough_known += 1e-9 < unpolished.code_error < np.inf
    gain = np.linalg.norm(problem.response(support), 2) if len(support) else 0.0
    if result.differentiable[i] and len(support):
      direction = np.sqrt(case.weights) * np.ravel(result.worst_direction()[i])
      np.testing.assert_allclose(np.linalg.norm(direction), 1, rtol=1e-9)
      change = np.linalg.norm(problem.response(support) @ direction)
      np.testing.assert_allclose(change, gain, rtol=1e-3)
    scale = np.linalg.norm(np.sqrt(case.weights) * x[i])
    for noise in scale * np.array([1e-6, 1e-3, 1e-2, 0.1]):
      active = signal._order[: signal.size(noise)]
      possible = unpolished._order[: unpolished.size(noise)]
      values = np.linalg.svd(problem.augmented[:, active], compute_uv=False)
      s, bound = signal.restriction(noise).value, result.bound(noise)[i]
      smallest = np.min(values, initial=np.inf)
      assert s <= smallest * (1 + 1e-12)
      if smallest > 1e-5 and (len(active) <= len(x[i]) or same_ridge):
        assert s >= 0.999 * smallest
        assert bound <= noise / s * (1 + 1e-12)
      changes = []
      for moved in _noises(rng, problem, x[i], code, support, noise):
        assert np.linalg.norm(problem.augmented @ (moved - code)) <= noise + 1e-9  # A
        assert set(np.flatnonzero(moved)) <= set(active) & set(possible)  # B
        changes.append(np.linalg.norm(moved - code))
      checked += len(changes)
      assert not _exceeds(changes, bound)  # C
      if noise < 1e-5 * scale and bound < 1.001 * noise * gain:
        tight.append((changes, bound))
  assert checked >= 10 * count
  assert rough_known >= count // 4
  assert len(tight) >= (count // 2 if same_ridge else 1)
  assert all(_exceeds(changes, 0.9 * bound) for changes, bound in tight)


def _exceeds(changes, bound):
  """Whether a change is larger than a bound, beyond rounding."""
  return max(changes) > bound * (1 + 1e-6) + 1e-9


def _noises(rng, problem, x, code, support, noise):
  """Yields the solutions with random and with adversarial noise of a given norm."""
  visible = problem.weights > 0
  drawn = visible * rng.normal(size=(2, len(x)))
  worst = problem.worst_direction(support)
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


def test_without_a_cpu_backend(monkeypatch):
  """As with JAX_PLATFORMS=cuda: JAX's default device computes."""

  def local_devices(*, backend):
    raise RuntimeError(f"Unknown backend {backend}")

  monkeypatch.setattr(jax, "local_devices", local_devices)
  with _restricted.float64_on_host():
    assert jnp.ones(2).dtype == jnp.float64


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
def test_most_amplified_vector(dense, monkeypatch):
  monkeypatch.setattr(_restricted, "DENSE_VECTOR", dense)
  rng = np.random.default_rng(0)
  blocks, ridge = rng.normal(size=(2, 6, 4)), rng.uniform(size=8)
  columns = scipy.linalg.block_diag(*blocks)
  response = np.linalg.solve(columns.T @ columns + np.diag(ridge), columns.T)
  found = _restricted.most_amplified_vector(scipy.sparse.csc_array(columns), ridge)
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
    worst = chain[0].worst_direction(np.flatnonzero(code))
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
