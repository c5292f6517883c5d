"""Tests of derivatives: of unrolled iterations, with rematerialisation, and of the solution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import sklearn.datasets

import cscjax
from tests.solvers.problems import augmented, convolutional, dense, working_set

PROBLEMS = {
  "dense": lambda: dense(0),
  "circular": lambda: convolutional(padding="CIRCULAR"),
  "augmented": lambda: augmented(padding="SAME"),
}
CONVERGED = {
  "fista": functools.partial(cscjax.fista, tolerance=1e-12, max_iterations=20000),
  "fista_adaptive": functools.partial(
    cscjax.fista, step="adaptive", tolerance=1e-12, max_iterations=20000
  ),
  "ista_fixed": functools.partial(cscjax.ista, iterations=5000, differentiate="implicit"),
  "admm": functools.partial(cscjax.admm, tolerance=1e-12, max_iterations=20000),
  "working_set": functools.partial(working_set, tolerance=1e-12),
}


def loss(solve, weights, dictionary, x, beta, mask):
  code = solve(dictionary, x, beta, mask=mask).code
  parts = jax.tree.map(lambda c, w: jnp.sum(w * c + c * c), code, weights)
  return sum(jax.tree.leaves(parts))


def case(name):
  problem = PROBLEMS[name]()
  rng = np.random.default_rng(7)
  shapes = jax.eval_shape(problem.dictionary.analysis, problem.x)
  weights = jax.tree.map(lambda s: rng.normal(size=s.shape), shapes)
  beta = jax.tree.map(lambda s: rng.uniform(0.3, 0.4, s.shape[-1:]), shapes)
  mask = rng.uniform(0.5, 0.9, problem.x.shape)
  return weights, (problem.dictionary, jnp.asarray(problem.x), beta, mask), rng


def directions(arguments, rng):
  """Yields a random direction in each argument, with zeros in the others."""
  for i in range(len(arguments)):
    yield tuple(
      jax.tree.map(lambda a, on=i == j: rng.normal(size=np.shape(a)) * on, argument)
      for j, argument in enumerate(arguments)
    )


def moved(arguments, direction, h):
  return jax.tree.map(lambda a, d: a + h * d, arguments, direction)


@pytest.mark.parametrize(
  ("solver", "name"),
  [
    ("fista", "dense"),
    pytest.param("fista_adaptive", "circular", marks=pytest.mark.slow),
    pytest.param("ista_fixed", "dense", marks=pytest.mark.slow),
    pytest.param("admm", "augmented", marks=pytest.mark.slow),
    pytest.param("working_set", "dense", marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize(
  "nonnegative",
  [False, pytest.param(True, marks=pytest.mark.slow)],
  ids=["signed", "nonnegative"],
)
def test_implicit_against_finite_differences(x64, solver, name, nonnegative):
  """Differentiates with respect to dictionary, signal, penalty and mask, in forward and reverse mode."""
  solve = functools.partial(CONVERGED[solver], nonnegative=nonnegative)
  weights, arguments, rng = case(name)
  function = jax.jit(functools.partial(loss, solve, weights))
  gradients = jax.jit(jax.grad(function, argnums=(0, 1, 2, 3)))(*arguments)
  jvp = jax.jit(lambda a, d: jax.jvp(function, a, d)[1])
  for direction in directions(arguments, rng):
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradients, direction)
    slope = sum(jax.tree.leaves(products))
    h = 1e-5
    difference = function(*moved(arguments, direction, h)) - function(*moved(arguments, direction, -h))
    np.testing.assert_allclose(slope, difference / (2 * h), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(jvp(arguments, direction), slope, rtol=1e-6)
    assert abs(slope) > 1e-3


@pytest.mark.slow
def test_implicit_is_the_limit_of_unrolled(x64):
  weights, arguments, _ = case("circular")
  gradients = {
    mode: jax.grad(
      functools.partial(
        loss, functools.partial(cscjax.fista, iterations=2000, differentiate=mode), weights
      )
    )(*arguments).filters
    for mode in ("unrolled", "remat", "implicit")
  }
  np.testing.assert_allclose(gradients["remat"], gradients["unrolled"], rtol=1e-10)
  np.testing.assert_allclose(gradients["implicit"], gradients["unrolled"], rtol=1e-5, atol=1e-7)
  assert np.linalg.norm(gradients["implicit"]) > 1e-3


def test_a_searched_step_can_be_unrolled(x64):
  """No gradient flows through the step, and the derivative converges to that of the solution."""
  weights, arguments, _ = case("dense")
  unrolled, implicit = (
    jax.jit(jax.grad(functools.partial(loss, solve, weights), argnums=1))(*arguments)
    for solve in (
      functools.partial(cscjax.fista, iterations=600, step="adaptive", restart=True),
      CONVERGED["fista_adaptive"],
    )
  )
  np.testing.assert_allclose(unrolled, implicit, rtol=1e-5, atol=1e-7)
  assert np.linalg.norm(unrolled) > 1e-2

  def code(x):
    solved = cscjax.fista(arguments[0], x, 0.3, iterations=5, step="backtracking")
    return jnp.sum(solved.code)

  np.testing.assert_array_equal(jax.grad(code)(jnp.zeros(8)), 0)  # and not NaN


@pytest.mark.parametrize(
  "iterations", [0, 1, 17, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 7, 16))]
)
def test_remat_returns_what_unrolled_does(x64, iterations):
  problem = dense(2)
  results = [
    cscjax.fista(
      problem.dictionary,
      problem.x,
      0.1,
      iterations=iterations,
      differentiate=mode,
      record=("objective", "gradient_mapping", "gap", "support_size"),
    )
    for mode in ("unrolled", "remat")
  ]
  for one, other in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-12)
  assert results[1].objective.shape == (iterations + 1,)


@pytest.mark.slow
def test_unrolled_admm_against_finite_differences(x64):
  weights, arguments, rng = case("circular")
  solve = functools.partial(cscjax.admm, iterations=7)
  function = jax.jit(functools.partial(loss, solve, weights))
  gradients = jax.grad(function, argnums=(0, 1, 2, 3))(*arguments)
  for direction in directions(arguments, rng):
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradients, direction)
    h = 1e-6
    difference = function(*moved(arguments, direction, h)) - function(*moved(arguments, direction, -h))
    np.testing.assert_allclose(
      sum(jax.tree.leaves(products)), difference / (2 * h), rtol=1e-4, atol=1e-6
    )


@pytest.mark.slow
def test_implicit_gradients_under_vmap(x64):
  problem = convolutional(padding="CIRCULAR")
  x = np.stack([problem.x, 2 * problem.x[::-1]])

  def norm(x):
    return jnp.sum(
      cscjax.fista(problem.dictionary, x, 0.3, tolerance=1e-10, max_iterations=5000).code ** 2
    )

  np.testing.assert_allclose(jax.vmap(jax.grad(norm))(x), jax.grad(norm)(x), rtol=1e-5, atol=1e-7)


def memory(mode, iterations):
  filters = jnp.ones((5, 5, 1, 8)) / 10
  x = jnp.ones((24, 24, 1))

  def norm(filters):
    dictionary = cscjax.ConvDictionary(filters)
    result = cscjax.fista(
      dictionary, x, 0.1, iterations=iterations, step=0.1, record=(), differentiate=mode
    )
    return jnp.sum(result.code**2)

  plan = jax.jit(jax.grad(norm)).lower(filters).compile().memory_analysis()
  return plan.temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.optimized
def test_memory_against_iterations():
  """Memory grows linearly when unrolled, as the square root with remat, and not at all if implicit."""
  unrolled, remat, implicit = (
    memory(mode, 400) / memory(mode, 25) for mode in ("unrolled", "remat", "implicit")
  )
  assert unrolled > 7
  assert 1.2 < remat < 6
  assert implicit < 1.05


@pytest.mark.slow
@pytest.mark.parametrize(
  ("padding", "nonnegative"),
  [("SAME", False), ("VALID", True), ("CIRCULAR", True), (((1, 2), (0, 1)), False)],
)
def test_admm_at_its_defaults_against_finite_differences(x64, padding, nonnegative):
  """Differentiates with respect to dictionary, signal, penalty and mask; one signal is zero."""
  problem = convolutional(3, kernel=(3, 3), padding=padding)
  rng = np.random.default_rng(8)
  x = np.stack([problem.x, np.zeros_like(problem.x)])
  mask = rng.uniform(0.5, 0.9, problem.x.shape)
  weights = rng.normal(size=jax.eval_shape(problem.dictionary.analysis, x).shape)
  arguments = (problem.dictionary, jnp.asarray(x), 0.2, mask)
  solve = functools.partial(cscjax.admm, iterations=12, nonnegative=nonnegative)
  function = jax.jit(functools.partial(loss, solve, weights))
  gradients = jax.jit(jax.grad(function, argnums=(0, 1, 2, 3)))(*arguments)
  assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradients))
  h = 1e-6
  for direction in directions(arguments, rng):
    # The zero signal is not changed, so that the code has no kink nearby.
    if jax.tree.leaves(direction)[1].any():
      direction[1][1] = 0
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradients, direction)
    difference = function(*moved(arguments, direction, h)) - function(*moved(arguments, direction, -h))
    np.testing.assert_allclose(
      sum(jax.tree.leaves(products)), difference / (2 * h), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("solver", [pytest.param("ista", marks=pytest.mark.slow), "fista", "admm"])
@pytest.mark.parametrize(
  "edge",
  [
    pytest.param("zero signal", marks=pytest.mark.slow),
    pytest.param("zero dictionary", marks=pytest.mark.slow),
    "no penalty",
    "no penalty, zero",
  ],
)
def test_gradients_at_edges_are_finite(solver, edge):
  problem = convolutional(4, padding="SAME")
  scale = 0.0 if edge == "zero dictionary" else 1.0
  dictionary = jax.tree.map(lambda f: scale * f, problem.dictionary)
  x = problem.x * (0 if edge in ("zero signal", "no penalty, zero") else 1)
  beta = 0.0 if edge.startswith("no penalty") else 0.1

  def value(mode, dictionary, x, beta):
    result = getattr(cscjax, solver)(dictionary, x, beta, iterations=15, differentiate=mode)
    return jnp.sum(jnp.sin(result.code))

  for mode in ("unrolled", "implicit"):
    gradients = jax.grad(functools.partial(value, mode), argnums=(0, 1, 2))(dictionary, x, beta)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradients)), mode


def accurate(atoms, x, beta, mask, nonnegative):
  """Returns the solution after many iterations in float64."""
  weighted = atoms.T * mask
  step = 1 / np.linalg.norm(weighted @ atoms, 2)
  code = point = np.zeros(atoms.shape[1])
  t = 1.0
  for _ in range(20000):
    z = point - step * (weighted @ (atoms @ point - x))
    signed = np.sign(z) * np.maximum(np.abs(z) - step * beta, 0)
    new = np.maximum(z - step * beta, 0) if nonnegative else signed
    t = 1.0 if (point - new) @ (new - code) > 0 else t
    following = (1 + np.sqrt(1 + 4 * t * t)) / 2
    code, point = new, new + (t - 1) / following * (new - code)
    t = following
  return code


@pytest.mark.parametrize(
  "case",
  [
    "signed",
    *(pytest.param(case, marks=pytest.mark.slow) for case in ("nonnegative", "mask", "betas", "scaled")),
  ],
)
def test_a_loose_tolerance_has_the_derivatives_of_the_solution(case):
  """Compares float32 with dense solves in float64 on the support of the solution."""
  rng = np.random.default_rng(9)
  atoms, x = rng.normal(size=(50, 100)) / 7, rng.normal(size=50)
  mask = rng.uniform(0.2, 1, 50) if case == "mask" else np.ones(50)
  beta = rng.uniform(0.02, 0.2, 100) if case == "betas" else np.full(100, 0.05)
  nonnegative = case == "nonnegative"
  code = accurate(atoms, x, beta, mask, nonnegative)
  support = np.flatnonzero(code)
  weights = rng.normal(size=100)
  on = atoms[:, support]
  u = np.linalg.solve((on.T * mask) @ on, weights[support])
  scale = 1e-8 if case == "scaled" else 1.0
  dictionary = cscjax.MatrixDictionary(jnp.asarray(scale * atoms, jnp.float32))
  unit = scale if case == "scaled" else 1.0

  def value(x, beta):
    result = cscjax.fista(
      *(dictionary, x, beta),
      tolerance=1e-2,
      nonnegative=nonnegative,
      mask=jnp.asarray(mask, jnp.float32),
    )
    return jnp.sum(result.code * weights.astype(np.float32))

  gradients = jax.jit(jax.grad(value, argnums=(0, 1)))(
    jnp.asarray(unit * x, jnp.float32), jnp.asarray(unit * scale * beta, jnp.float32)
  )
  expected = np.zeros(100)
  expected[support] = -u * np.sign(code[support])
  for got, right in ((gradients[0] * scale, mask * (on @ u)), (gradients[1] * scale**2, expected)):
    assert np.linalg.norm(got - right) < 1e-4 * np.linalg.norm(right)


@pytest.mark.slow
def test_polished_tells_whether_the_solution_was_found(monkeypatch):
  """For an overcomplete dictionary, many rounds find the solution, and one round reports a violation."""
  rng = np.random.default_rng(10)
  atoms, x = rng.normal(size=(50, 100)) / 7, rng.normal(size=(2, 50))
  arguments = jax.tree.map(jnp.asarray, (cscjax.MatrixDictionary(np.float32(atoms)), np.float32(x)))
  rough = cscjax.fista(*arguments, 0.05, iterations=10).code
  result = cscjax.polished(*arguments, rough, 0.05)
  np.testing.assert_array_equal(result.violation, 0)
  for got, signal in zip(result.code, x, strict=True):
    expected = accurate(atoms, signal, 0.05, np.ones(50), nonnegative=False)
    np.testing.assert_array_equal(got != 0, expected != 0)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
  room = 0.05 - np.abs((x - result.code @ atoms.T) @ atoms)
  expected = np.where(result.code == 0, room, np.inf).min(axis=1) / np.abs(x @ atoms).max(axis=1)
  np.testing.assert_allclose(result.slack, expected, atol=1e-6)
  monkeypatch.setattr("cscjax.solvers._lasso._polish.ROUNDS", 1)
  jax.clear_caches()
  assert np.all(cscjax.polished(*arguments, rough, 0.05).violation > 0)
  jax.clear_caches()


def test_polished_tells_that_the_solution_is_degenerate():
  dictionary = cscjax.MatrixDictionary(jnp.eye(2))
  x = jnp.array([[2.0, 0.2], [2.0, 0.5], [2.0, -0.5], [2.0, 1.0]])
  slack = cscjax.polished(dictionary, x, jnp.zeros((4, 2)), 0.5, nonnegative=True).slack
  np.testing.assert_allclose(slack, [0.15, 0, 0.25, np.inf], atol=1e-6)


@pytest.mark.parametrize("decades", [2, 6])
def test_polished_tells_that_the_norms_of_the_atoms_are_too_far_apart(decades):
  """At 6 decades, the conditions of the small atoms are below the rounding of the large ones."""
  rng = np.random.default_rng(2)
  atoms = rng.normal(size=(10, 6)) / 3 * 10.0 ** np.linspace(-decades / 2, decades / 2, 6)
  x, beta = rng.normal(size=10), 0.01 * 10 ** (-decades / 2)
  arguments = jax.tree.map(jnp.asarray, (cscjax.MatrixDictionary(np.float32(atoms)), np.float32(x)))
  code = cscjax.admm(*arguments, beta, tolerance=1e-5, max_iterations=500).code
  result = cscjax.polished(*arguments, code, beta)
  assert (float(result.violation) == 0) == (decades == 2)
  if decades == 2:
    signs = np.sign(np.asarray(result.code))
    on = np.flatnonzero(signs)
    expected = np.linalg.solve(atoms[:, on].T @ atoms[:, on], atoms[:, on].T @ x - beta * signs[on])
    np.testing.assert_allclose(np.asarray(result.code)[on], expected, rtol=1e-4)


@pytest.mark.slow
def test_implicit_second_derivatives(x64):
  """Compares with finite differences of the first derivative, for a change of dictionary and penalty."""
  problem = dense(5)
  direction = np.random.default_rng(11).normal(size=problem.d.shape)

  def value(t):
    dictionary = cscjax.MatrixDictionary(problem.dictionary.atoms + t * direction)
    result = cscjax.fista(dictionary, problem.x, 0.1 + t, tolerance=1e-12, max_iterations=5000)
    return jnp.sum(jnp.sin(result.code))

  first = jax.jit(jax.grad(value))
  h = 1e-5
  expected = (first(h) - first(-h)) / (2 * h)
  np.testing.assert_allclose(jax.grad(first)(0.0), expected, rtol=1e-6)
  np.testing.assert_allclose(jax.jvp(first, (0.0,), (1.0,))[1], expected, rtol=1e-6)


@pytest.mark.slow
def test_a_broken_code_has_no_finite_derivative():
  problem = dense(6)

  def value(x):
    return cscjax.fista(problem.dictionary, x, 0.1, tolerance=1e-2).code.sum()

  gradient = jax.grad(value)(jnp.asarray(problem.x).at[2].set(np.nan))
  assert np.all(np.isnan(gradient))


def readme_problem(dtype):
  image = sklearn.datasets.load_sample_image("china.jpg").mean(-1, keepdims=True)[100:164, 200:264] / 255
  cosines = scipy.fft.dct(np.eye(8), norm="ortho")
  filters = np.einsum("iu,jv->ijuv", cosines, cosines).reshape(8, 8, 1, 64)[..., 1:]
  dictionary = cscjax.ConvDictionary(jnp.asarray(filters, dtype), padding="CIRCULAR")
  return dictionary, jnp.asarray(image, dtype)


@pytest.mark.slow
def test_readme_gradient():
  """Compares with a dense solve in float64 on the support of a solution whose optimality is checked."""
  with jax.enable_x64(True):
    dictionary, x = readme_problem(np.float64)
    code = cscjax.admm(dictionary, x, 0.2, tolerance=1e-12, max_iterations=8000).code
    correlation = np.abs(dictionary.analysis(x - dictionary.synthesis(code, x.shape)))
    assert np.max(np.abs(correlation[code != 0] - 0.2)) < 1e-8 < 0.2 - np.max(correlation[code == 0])
    support = np.flatnonzero(code)
    units = np.zeros((len(support), code.size))
    units[np.arange(len(support)), support] = 1
    atoms = dictionary.synthesis(units.reshape(-1, *code.shape), (len(support), *x.shape))
    atoms = np.asarray(atoms).reshape(len(support), -1)
    expected = np.linalg.solve(atoms @ atoms.T, np.ones(len(support))) @ atoms
  dictionary, x = readme_problem(np.float32)
  for tolerance in (1e-4, 1e-3):
    gradient = jax.grad(lambda x, t=tolerance: cscjax.fista(dictionary, x, 0.2, tolerance=t).code.sum())(
      x
    )
    assert np.linalg.norm(np.ravel(gradient) - expected) < 1e-4 * np.linalg.norm(expected)
