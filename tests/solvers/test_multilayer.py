"""Tests of multi-layer pursuits against a dense NumPy implementation of Sulam et al. (2020)."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.solvers import layered_bp, layered_pursuit, ml_fista, ml_ista, multilayer_pursuit
from tests import references
from tests.solvers.problems import flat

BETAS = (0.05, 0.08, 0.03)
STEPS = (0.2, 0.15, 0.1)


def matrices(seed=0, sizes=(8, 10, 12, 9)):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=pair) / np.sqrt(pair[0]) for pair in itertools.pairwise(sizes)]


def dense(seed=0):
  """Returns dictionaries, their matrices and a signal."""
  ds = matrices(seed)
  x = jnp.asarray(np.random.default_rng(seed + 1).normal(size=ds[0].shape[0]))
  return [cscjax.MatrixDictionary(jnp.asarray(d)) for d in ds], ds, x


def convolutional(seed=0):
  """Strided, valid and circular layers, with sizes that the code above does not determine."""
  rng = np.random.default_rng(seed)
  geometries = (
    {"stride": 2, "padding": ((1, 1), (1, 1))},
    {"padding": "VALID"},
    {"padding": "CIRCULAR", "dilation": 2},
  )
  spatial, channels, dictionaries, ds = (8, 7), 2, [], []
  for geometry, kernel in zip(geometries, (4, 2, 3), strict=True):
    filters = rng.normal(size=(kernel, kernel, channels, 3)) / kernel
    dictionaries.append(cscjax.ConvDictionary(jnp.asarray(filters), **geometry))
    ds.append(references.conv_matrix(filters, spatial, **geometry))
    spatial = references.code_spatial(filters, spatial, **geometry)
    channels = 3
  return dictionaries, ds, jnp.asarray(rng.normal(size=(8, 7, 2)))


PROBLEMS = {"dense": dense, "convolutional": convolutional}


def weights_of_fista(count):
  """Yields the weights of the iterations after the first one."""
  t = 1.0
  for _ in range(count):
    t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
    yield (t - 1) / t_next
    t = t_next


def iterate(ds, x, codes, old, weight, shrinks, steps):
  """Returns (codes, the previous deepest code) after an iteration of ML-FISTA (ML-ISTA at weight 0)."""
  guesses = [codes[-1] + weight * (codes[-1] - old)]
  for d in reversed(ds[1:]):
    guesses.insert(0, d @ guesses[0])
  below, new = x, []
  for d, guess, shrink, step in zip(ds, guesses, shrinks, steps, strict=True):
    below = shrink(guess - step * d.T @ (d @ guess - below))
    new.append(below)
  return new, codes[-1]


def objective(ds, x, deepest, betas):
  """Returns 1/2 ||x - D_1 ... D_K code||^2 + the penalties of all codes that the deepest one implies."""
  value, code = 0.0, deepest
  for d, beta in zip(reversed(ds), reversed(betas), strict=True):
    value += np.sum(beta * np.abs(code))
    code = d @ code
  return value + 0.5 * np.sum((x - code) ** 2)


def proxes(unfolding):
  """Returns different thresholds for all layers and iterations, so that a wrong order is noticed."""
  return [
    [lambda c, b=0.02 * (i + 1) + 0.01 * k: cscjax.soft_threshold(c, b) for k in range(unfolding + 1)]
    for i in range(3)
  ]


@pytest.mark.parametrize("solver", ["ista", "fista"])
@pytest.mark.parametrize("unfolding", [0, 1, 3])
@pytest.mark.parametrize("name", PROBLEMS)
def test_unfolded_against_numpy(x64, name, unfolding, solver):
  dictionaries, ds, x = PROBLEMS[name]()
  codes = multilayer_pursuit(dictionaries, x, proxes(unfolding), steps=STEPS, solver=solver)

  def shrinks(k):
    return [lambda v, b=0.02 * (i + 1) + 0.01 * k: references.soft(v, b) for i in range(3)]

  signal, expected = np.ravel(x), []
  for d, shrink in zip(ds, shrinks(0), strict=True):
    signal = shrink(d.T @ signal)
    expected.append(signal)
  old = expected[-1]
  for k, weight in enumerate(weights_of_fista(unfolding), start=1):
    weight = weight if solver == "fista" else 0
    expected, old = iterate(ds, np.ravel(x), expected, old, weight, shrinks(k), STEPS)
  for code, dense_code in zip(codes, expected, strict=True):
    np.testing.assert_allclose(np.ravel(code), dense_code, atol=1e-12)


@pytest.mark.parametrize("solver", ["ista", "fista"])
def test_one_layer_is_the_unfolded_pursuit(x64, solver):
  dictionaries, _, x = convolutional()
  one = {"step": 0.2, "solver": solver}
  expected = cscjax.unfolded_pursuit(dictionaries[0], x, proxes(3)[0], **one)
  several = {"steps": [0.2], "solver": solver}
  for pursuit in (multilayer_pursuit, layered_pursuit):
    codes = pursuit(dictionaries[:1], x, proxes(3)[:1], **several)
    np.testing.assert_allclose(codes[0], expected, atol=1e-12)


def test_codes_of_several_parts(x64):
  """With [I, F^T], the pair of a layer is the signal of the next one, and is reconstructed as a pair."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(4, 4, 1)))
  filters = [jnp.asarray(rng.normal(size=(3, 3, c, 2)) / 3) for c in (1, 3)]
  ds = [cscjax.IdentityAugmented(cscjax.ConvDictionary(f)) for f in filters]
  f1, f2 = (references.conv_matrix(f, (4, 4)) for f in filters)
  codes = multilayer_pursuit(ds, x, [[lambda c: c] * 2] * 2, steps=(0.1, 0.2))
  signal = np.ravel(x)
  z1 = f1.T @ signal
  joined = np.concatenate([signal.reshape(4, 4, 1), z1.reshape(4, 4, 2)], axis=-1).ravel()
  z2 = f2.T @ joined
  rebuilt = (joined + f2 @ z2).reshape(4, 4, 3)
  a1, z1 = rebuilt[..., :1].ravel(), rebuilt[..., 1:].ravel()
  residual = a1 + f1 @ z1 - signal
  a1, z1 = a1 - 0.1 * residual, z1 - 0.1 * f1.T @ residual
  np.testing.assert_allclose(flat(codes[0]), np.concatenate([a1, z1]), atol=1e-12)
  below = np.concatenate([a1.reshape(4, 4, 1), z1.reshape(4, 4, 2)], axis=-1).ravel()
  residual = rebuilt.ravel() - below
  a2, z2 = joined - 0.2 * residual, z2 - 0.2 * f2.T @ residual
  np.testing.assert_allclose(flat(codes[1]), np.concatenate([a2, z2]), atol=1e-12)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("solver", ["ista", "fista"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_solvers_against_numpy(x64, name, solver, nonnegative):
  dictionaries, ds, x = PROBLEMS[name]()
  solve = ml_fista if solver == "fista" else ml_ista
  result = solve(dictionaries, x, BETAS, iterations=8, steps=STEPS, nonnegative=nonnegative)
  shrinks = [
    lambda v, b=beta * step: references.soft(v, b, nonnegative)
    for beta, step in zip(BETAS, np.cumprod(STEPS), strict=True)
  ]
  signal, codes = np.ravel(x), [np.zeros(d.shape[1]) for d in ds]
  old, trace = codes[-1], [objective(ds, signal, codes[-1], BETAS)]
  for weight in (0, *weights_of_fista(7)):
    weight = weight if solver == "fista" else 0
    codes, old = iterate(ds, signal, codes, old, weight, shrinks, STEPS)
    trace.append(objective(ds, signal, codes[-1], BETAS))
  for code, expected in zip(result.codes, codes, strict=True):
    assert 0.1 < np.mean(expected != 0) < 1 or not nonnegative
    np.testing.assert_allclose(np.ravel(code), expected, atol=1e-12)
  np.testing.assert_allclose(result.objective, trace, rtol=1e-12)


@pytest.mark.parametrize(("solve", "single"), [(ml_ista, cscjax.ista), (ml_fista, cscjax.fista)])
@pytest.mark.parametrize(
  "options", [{"iterations": 30}, pytest.param({"tolerance": 1e-3}, marks=pytest.mark.slow)]
)
def test_one_layer_is_the_single_solver(x64, solve, single, options):
  dictionaries, ds, x = dense()
  step = 1 / references.lipschitz(ds[0])
  result = solve(dictionaries[:1], x, [0.1], steps=[step], **options)
  expected = single(dictionaries[0], x, 0.1, step=step, **options)
  np.testing.assert_allclose(result.codes[0], expected.code, atol=1e-10)
  np.testing.assert_allclose(result.objective, expected.objective, rtol=1e-10)
  assert int(result.iterations) == int(expected.iterations)
  assert result.converged == expected.converged


@pytest.mark.slow
def test_a_tolerance_ends_at_a_fixed_point(x64):
  """In a batch, each signal converges to the codes that many more iterations leave as they are."""
  dictionaries, ds, x = dense()
  x = jnp.stack([x, -x[::-1], 0 * x])
  steps = [1 / references.lipschitz(d) for d in ds]
  options = {"steps": steps, "nonnegative": False}
  result = ml_fista(dictionaries, x, BETAS, tolerance=1e-7, max_iterations=20000, **options)
  assert np.all(result.converged)
  further = ml_fista(dictionaries, x, BETAS, iterations=2 * int(result.iterations), **options)
  for code, other in zip(result.codes, further.codes, strict=True):
    np.testing.assert_allclose(code, other, atol=1e-4)
  signals = [x, *result.codes[:-1]]
  for i, d in enumerate(ds):
    residual = np.linalg.norm(signals[i] - result.codes[i] @ d.T, axis=-1)
    larger = np.maximum(
      *(np.linalg.norm(s, axis=-1) for s in (signals[i], np.asarray(result.codes[i]) @ d.T))
    )
    np.testing.assert_allclose(result.residuals[i, :2], residual[:2] / larger[:2], rtol=1e-9)
    sizes = np.count_nonzero(result.codes[i], axis=-1)
    np.testing.assert_array_equal(result.support_sizes[i], sizes)
  assert not np.any(result.residuals[:, 2])
  short = ml_fista(dictionaries, x, BETAS, tolerance=1e-7, max_iterations=15, **options)
  assert short.converged.tolist() == [False, False, True]
  assert (int(short.iterations), len(short.objective)) == (15, 16)


def test_ends_near_the_minimum(x64):
  """Smaller steps end nearer to the minimum; the objective is convex, so a local minimum suffices."""
  dictionaries, ds, x = dense()
  steps = [1 / references.lipschitz(d) for d in ds]
  results = [
    ml_fista(dictionaries, x, BETAS, iterations=4000, steps=[scale * step for step in steps])
    for scale in (1.0, 0.3)
  ]
  ends = [float(result.objective[-1]) for result in results]
  assert float(results[0].objective[0]) > 1.1 * ends[0] > 1.1 * ends[1]
  code, rng = np.asarray(results[1].codes[-1]), np.random.default_rng(0)
  for scale in (1e-3, 1e-2, 1e-1):
    for _ in range(200):
      other = code + scale * rng.normal(size=code.shape)
      assert objective(ds, np.asarray(x), other, BETAS) > ends[1] - 1e-4


@pytest.mark.parametrize("solver", ["ista", "fista"])
def test_layered_bp(x64, solver):
  dictionaries, _, x = convolutional()
  result = layered_bp(dictionaries, x, BETAS, iterations=20, steps=STEPS, solver=solver)
  solve, signal = cscjax.fista if solver == "fista" else cscjax.ista, x
  for i, (d, beta, step) in enumerate(zip(dictionaries, BETAS, STEPS, strict=True)):
    expected = solve(d, signal, beta, iterations=20, step=step)
    np.testing.assert_allclose(result.codes[i], expected.code, atol=1e-12)
    np.testing.assert_allclose(result.objective[i], expected.objective, atol=1e-12)
    signal = expected.code
  assert (len(result.codes), int(result.iterations)) == (3, 20)
  assert not np.any(result.diverged)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("solve", "last", "options"),
  [
    (cscjax.ml_fista, [0.1, 0.1], {"iterations": 2, "steps": [0.1, 0.1]}),
    (cscjax.ml_bp, [0.1, 0.1], {"iterations": 2}),
    (cscjax.ml_projection, [9, 2], {}),
  ],
)
def test_dictionaries_of_several_types(solve, last, options):
  """All codes have the common type of the signal and the dictionaries."""
  rng = np.random.default_rng(0)
  atoms = [jnp.asarray(rng.normal(size=size) / 2, jnp.bfloat16) for size in ((6, 9), (9, 12))]
  x = jnp.asarray(rng.normal(size=6), jnp.bfloat16)
  pairs = (atoms[0], atoms[1].astype("float32")), [a.astype("float32") for a in atoms]
  found, expected = (
    solve([cscjax.MatrixDictionary(a) for a in pair], x, last, **options).codes for pair in pairs
  )
  for one, other in zip(found, expected, strict=True):
    assert one.dtype == jnp.float32
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("solve", [ml_ista, ml_fista, layered_bp])
def test_tells_which_signal_diverged(x64, solve):
  dictionaries, _, x = dense()
  x = jnp.stack([x, jnp.zeros_like(x)])
  result = solve(dictionaries, x, BETAS, iterations=50, steps=[20 * step for step in STEPS])
  assert result.diverged.tolist() == [True, False]
  assert not np.any(solve(dictionaries, x, BETAS, iterations=50).diverged)


def test_jit_vmap_and_grad(x64):
  dictionaries, ds, _ = dense()
  x = jnp.asarray(np.random.default_rng(3).normal(size=(4, ds[0].shape[0])))

  def solve(x):
    return ml_fista(dictionaries, x, BETAS, iterations=5, steps=STEPS)

  expected = solve(x)
  assert expected.objective.shape == (6, 4)
  np.testing.assert_allclose(jax.jit(solve)(x).codes[2], expected.codes[2], atol=1e-12)
  np.testing.assert_allclose(jax.vmap(solve)(x).codes[2], expected.codes[2], atol=1e-12)

  def loss(d, x):
    return jnp.sum(ml_fista([d, *dictionaries[1:]], x, BETAS, iterations=5, steps=STEPS).codes[2] ** 2)

  gradient = jax.grad(loss)(dictionaries[0], x).atoms
  direction = np.random.default_rng(4).normal(size=gradient.shape)
  h, atoms = 1e-6, dictionaries[0].atoms
  ends = [loss(cscjax.MatrixDictionary(atoms + s * h * direction), x) for s in (1, -1)]
  np.testing.assert_allclose(np.sum(gradient * direction), (ends[0] - ends[1]) / (2 * h), rtol=1e-6)


def test_errors():
  dictionaries, _, x = dense()
  x = x.astype(jnp.float32)
  with pytest.raises(ValueError, match="dictionaries"):
    multilayer_pursuit([], x, [], steps=[])
  for broken in (proxes(1)[:2], [[], [], []], [*proxes(1)[:2], proxes(2)[2]]):
    with pytest.raises(ValueError, match="proxes"):
      multilayer_pursuit(dictionaries, x, broken, steps=STEPS)
  with pytest.raises(ValueError, match="steps"):
    layered_pursuit(dictionaries, x, proxes(1), steps=STEPS[:2])
  with pytest.raises(ValueError, match="betas"):
    ml_ista(dictionaries, x, BETAS[:2])
  with pytest.raises(ValueError, match="betas"):
    ml_fista(dictionaries, x, (-1, 0, 0))
  with pytest.raises(ValueError, match="iterations"):
    ml_fista(dictionaries, x, BETAS, iterations=-1)
  with pytest.raises(ValueError, match="steps"):
    layered_bp(dictionaries, x, BETAS, steps=STEPS[:1])
  for solve, last in (
    (multilayer_pursuit, proxes(1)),
    (layered_pursuit, proxes(1)),
    (layered_bp, BETAS),
  ):
    with pytest.raises(ValueError, match=r"solver: .*ista, fista"):
      solve(dictionaries, x, last, steps=STEPS, solver="admm")
