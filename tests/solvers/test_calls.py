"""Tests of the ways to call ISTA and FISTA: warm starts, batches, vmap, jit, gradients, types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from tests import references
from tests.solvers.problems import PROBLEMS, dense, flat

SOLVERS = {"ista": cscjax.ista, "fista": cscjax.fista}
each_solver = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)


@pytest.mark.parametrize("name", ["dense", "augmented"])
def test_ista_goes_on_where_it_stopped(x64, name):
  problem = PROBLEMS[name]()
  run = functools.partial(cscjax.ista, problem.dictionary, problem.x, 0.1, step=problem.step)
  at_once, first = run(iterations=9), run(iterations=4)
  second = run(iterations=5, init=first.code)
  np.testing.assert_allclose(flat(second.code), flat(at_once.code), atol=1e-14)
  trace = np.concatenate([first.objective, second.objective[1:]])
  np.testing.assert_allclose(trace, at_once.objective, rtol=1e-13)


@each_solver
def test_initial_code(x64, solve):
  problem = dense(1)
  init = np.random.default_rng(0).normal(size=12)
  accelerate = solve is cscjax.fista
  code, trace = references.pursue(problem.d, problem.x, 0.1, 12, init=init, accelerate=accelerate)
  result = solve(problem.dictionary, problem.x, 0.1, iterations=12, init=init)
  np.testing.assert_allclose(result.objective, trace, rtol=1e-12)
  np.testing.assert_allclose(result.code, code, atol=1e-12)


@each_solver
def test_no_iterations(solve):
  init = jnp.arange(12.0)
  problem = dense(1)
  result = solve(problem.dictionary, problem.x, 0.1, iterations=0, init=init)
  np.testing.assert_array_equal(result.code, init)
  assert result.objective.shape == (1,)


@pytest.mark.parametrize(
  ("solver", "name"), [("ista", "dense"), ("ista", "augmented"), *(("fista", name) for name in PROBLEMS)]
)
def test_a_batch_is_each_signal_alone(x64, solver, name):
  problem = PROBLEMS[name]()
  x = np.random.default_rng(5).normal(size=(3, 2, *problem.x.shape))
  batch = SOLVERS[solver](problem.dictionary, x, 0.1, iterations=6, step=problem.step)
  assert batch.objective.shape == (7, 3, 2)
  for i in np.ndindex(3, 2):
    code, trace = references.pursue(problem.d, x[i].ravel(), 0.1, 6, accelerate=solver == "fista")
    np.testing.assert_allclose(batch.objective[:, *i], trace, rtol=1e-12)
    np.testing.assert_allclose(flat(jax.tree.map(lambda p, i=i: p[i], batch.code)), code, atol=1e-12)


@pytest.mark.parametrize("name", ["dense", "circular"])
def test_the_default_step_does_not_depend_on_the_batch(x64, name):
  problem = PROBLEMS[name]()
  x = np.stack([problem.x, 100 * problem.x])
  batch = cscjax.ista(problem.dictionary, x, 0.1, iterations=3).objective[:, 0]
  alone = references.pursue(problem.d, problem.x.ravel(), 0.1, 3)[1]
  np.testing.assert_allclose(batch, alone, rtol=1e-12)


@pytest.mark.parametrize(
  ("solver", "name"), [("ista", "dense"), ("fista", "dense"), ("fista", "augmented")]
)
def test_vmap_jit_and_eager(x64, solver, name):
  problem = PROBLEMS[name]()
  x = np.random.default_rng(6).normal(size=(4, *problem.x.shape))
  betas = np.linspace(0.05, 0.4, 4)

  def run(dictionary, x, beta):
    return SOLVERS[solver](dictionary, x, beta, iterations=6, step=problem.step)

  mapped = jax.jit(jax.vmap(run, (None, 0, 0)))(problem.dictionary, x, betas)
  for i in range(4):
    code, trace = references.pursue(problem.d, x[i].ravel(), betas[i], 6, accelerate=solver == "fista")
    np.testing.assert_allclose(mapped.objective[i], trace, rtol=1e-12)
    np.testing.assert_allclose(flat(jax.tree.map(lambda p, i=i: p[i], mapped.code)), code, atol=1e-12)
  eager = run(problem.dictionary, x[0], betas[0])
  np.testing.assert_allclose(mapped.objective[0], eager.objective, rtol=1e-13)


@pytest.mark.parametrize("name", ["dense", "circular", "same_strided", "augmented"])
def test_everything_traces_under_jit(name):
  """The penalty and the signal may be tracers, also with the default step."""
  problem = PROBLEMS[name]()
  shapes = jax.eval_shape(
    lambda d, x, beta: cscjax.fista(d, x, beta, iterations=2), problem.dictionary, problem.x, 0.1
  )
  assert shapes.objective.shape == (3,)


@each_solver
def test_vmap_over_dictionaries(x64, solve):
  problems = [dense(seed) for seed in range(3)]
  atoms = jnp.stack([problem.dictionary.atoms for problem in problems])
  x = problems[0].x
  mapped = jax.vmap(lambda d: solve(d, x, 0.1, iterations=5).objective)(cscjax.MatrixDictionary(atoms))
  for i, problem in enumerate(problems):
    expected = references.pursue(problem.d, x, 0.1, 5, accelerate=solve is cscjax.fista)[1]
    np.testing.assert_allclose(mapped[i], expected, rtol=1e-12)


@pytest.mark.parametrize(
  ("solver", "name", "nonnegative"),
  [
    pytest.param("ista", "dense", False, marks=pytest.mark.slow),
    pytest.param("fista", "dense", True, marks=pytest.mark.slow),
    ("fista", "circular", False),
    ("ista", "same_strided", True),
    ("fista", "augmented", False),
  ],
)
def test_gradients_against_finite_differences(x64, solver, name, nonnegative):
  """Differentiates all iterations with respect to atoms, signal, penalty, step and initial code."""
  problem = PROBLEMS[name]()
  rng = np.random.default_rng(7)
  shapes = jax.eval_shape(problem.dictionary.analysis, problem.x)
  init = jax.tree.map(lambda s: rng.uniform(0.1, 0.5, s.shape), shapes)
  weights = jax.tree.map(lambda s: rng.normal(size=s.shape), shapes)

  @jax.jit
  def loss(dictionary, x, beta, step, init):
    result = SOLVERS[solver](
      dictionary, x, beta, iterations=6, step=step, nonnegative=nonnegative, init=init
    )
    products = jax.tree.map(lambda c, w: jnp.sum(c * w), result.code, weights)
    return sum(jax.tree.leaves(products)) + 0.1 * result.objective[-1]

  beta = jax.tree.map(lambda s: rng.uniform(0.05, 0.1, s.shape[-1:]), shapes)
  arguments = (problem.dictionary, problem.x, beta, 0.7 * problem.step, init)
  gradients = jax.grad(loss, argnums=range(5))(*arguments)
  for i in range(5):
    leaves, structure = jax.tree.flatten(arguments[i])
    direction = jax.tree.unflatten(structure, [rng.normal(size=np.shape(leaf)) for leaf in leaves])
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), gradients[i], direction)))

    def shifted(h, i=i, direction=direction):
      moved = jax.tree.map(lambda a, d: a + h * d, arguments[i], direction)
      return loss(*arguments[:i], moved, *arguments[i + 1 :])

    h = 1e-6
    np.testing.assert_allclose(slope, (shifted(h) - shifted(-h)) / (2 * h), rtol=1e-5, atol=1e-7)
    assert abs(slope) > 1e-6


def test_gradients_do_not_flow_through_the_default_step(x64):
  problem = dense(1)

  def gradient(step):
    def loss(dictionary):
      return jnp.sum(cscjax.fista(dictionary, problem.x, 0.1, iterations=3, step=step).code ** 2)

    return jax.grad(loss)(problem.dictionary).atoms

  np.testing.assert_allclose(gradient(None), gradient(problem.step), rtol=1e-10)


def _typed(name, dtype):
  problem = PROBLEMS[name]()
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (problem.dictionary, problem.x))


@each_solver
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["dense", "circular", "augmented"])
def test_types_are_kept(x64, name, dtype, solve):
  """Penalties and steps in float64 do not promote the result, and no type is weak.

  With a weak type, a second call that starts from the code would be compiled again.
  """
  beta = np.full(3, 0.1) if name == "circular" else np.float64(0.1)
  for step in (None, np.float64(0.1)):
    run = functools.partial(solve, beta=beta, iterations=2, step=step)
    result = jax.eval_shape(run, *_typed(name, dtype))
    leaves = jax.tree.leaves((result.code, result.objective))
    assert {(leaf.dtype, leaf.weak_type) for leaf in leaves} == {(jnp.dtype(dtype), False)}


@each_solver
@pytest.mark.parametrize(
  ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03), ("float16", 0.01)]
)
def test_precision_and_many_iterations(dtype, tolerance, solve):
  """Results in half precision stay finite when t^2 overflows half precision."""
  problem = dense(0)
  dictionary, x = _typed("dense", dtype)
  expected = references.pursue(problem.d, problem.x, 0.1, 400, accelerate=solve is cscjax.fista)[1]
  result = solve(dictionary, x, 0.1, iterations=400)
  np.testing.assert_allclose(np.asarray(result.objective[-1], float), expected[-1], rtol=tolerance)


@each_solver
def test_default_type_is_float32(solve):
  problem = dense(0)
  result = solve(cscjax.MatrixDictionary(problem.d), problem.x, 0.1, iterations=2)  # NumPy float64
  assert result.code.dtype == result.objective.dtype == jnp.float32


@each_solver
def test_integers_and_lists_are_converted(solve):
  dictionary = cscjax.MatrixDictionary(np.array([[2, 0, 1], [0, 1, 1]]))
  result = solve(dictionary, [3, 4], 1, iterations=5)
  expected = solve(
    cscjax.MatrixDictionary(jnp.array([[2.0, 0, 1], [0, 1, 1]])), jnp.array([3.0, 4]), 1.0, iterations=5
  )
  np.testing.assert_array_equal(result.code, expected.code)
  assert result.code.dtype == jnp.float32
