"""Tests of the elastic net, of nonnegativity per atom and of joint sparsity, against dense matrices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import ElasticNet

import cscjax
from cscjax.solvers._lasso._certificates import gradient_mapping
from tests.solvers.problems import accepted_by, augmented, convolutional, dense, flat, working_set

SOLVERS = {
  "ista": functools.partial(cscjax.ista, step="adaptive"),
  "fista": functools.partial(cscjax.fista, restart=True),
  "admm": cscjax.admm,
  "working_set": working_set,
}
BETA, RIDGE = 0.2, 0.5
CONVERGED = {"tolerance": 1e-10, "max_iterations": 20000}
SIGNS = np.array([True, False, True])  # which of three atoms have nonnegative coefficients


def groups_of(code_shape, joint_axes):
  """Returns the number of the group of each coefficient, in row-major order."""
  axes = (joint_axes,) if isinstance(joint_axes, int) else joint_axes or ()
  sizes = [1 if i - len(code_shape) in axes else n for i, n in enumerate(code_shape)]
  return np.broadcast_to(np.arange(np.prod(sizes)).reshape(sizes), code_shape).ravel()


def group_norms(code, groups):
  return np.sqrt(np.bincount(groups, code**2))[groups]


def violation(d, x, code, *, beta=BETA, ridge=0.0, nonnegative=False, groups=None, weights=1.0):
  """Returns the violation of the optimality conditions of a code, all arguments flattened."""
  groups = np.arange(code.size) if groups is None else groups
  nonnegative = np.broadcast_to(nonnegative, code.shape)
  correlation = d.T @ (weights * (x - d @ code)) - ridge * code
  size = group_norms(code, groups)
  on = correlation - beta * code / np.where(size > 0, size, 1)
  on = np.where(nonnegative & (code == 0), np.maximum(on, 0), np.abs(on))
  projected = np.where(nonnegative, np.maximum(correlation, 0), correlation)
  off = np.maximum(group_norms(projected, groups) - beta, 0)
  return np.max(np.where(size > 0, on, off))


def objective(d, x, code, *, beta=BETA, ridge=0.0, groups=None):
  groups = np.arange(code.size) if groups is None else groups
  norms = np.sqrt(np.bincount(groups, code**2))
  return 0.5 * np.sum((x - d @ code) ** 2) + beta * np.sum(norms) + 0.5 * np.sum(ridge * code**2)


CASES = {  # name: problem, arguments of the solver, arguments of `violation`
  "ridge": (lambda: dense(0), {"ridge": RIDGE}, {"ridge": RIDGE}),
  "ridge of each channel": (
    lambda: convolutional(padding="SAME"),
    {"ridge": np.array([0.0, 0.3, 2.0])},
    {"ridge": np.tile([0.0, 0.3, 2.0], 20)},
  ),
  "nonnegative atoms": (
    lambda: convolutional(padding="SAME"),
    {"nonnegative": SIGNS},
    {"nonnegative": np.tile(SIGNS, 20)},
  ),
  "nonnegative part": (
    lambda: augmented(padding="SAME"),
    {"nonnegative": (False, True)},
    {"nonnegative": np.repeat([False, True], [40, 60])},
  ),
  "joint channels": (
    lambda: convolutional(padding="SAME"),
    {"joint_axes": -1},
    {"groups": groups_of((5, 4, 3), -1)},
  ),
  "joint pixels": (  # of the code alone, without the border of its circulant embedding
    lambda: convolutional(padding="VALID", spatial=(6, 6)),
    {"joint_axes": (-3, -2)},
    {"beta": 4.0, "groups": groups_of((4, 5, 3), (-3, -2))},
  ),
  "all": (
    lambda: convolutional(padding="SAME"),
    {"joint_axes": -1, "ridge": RIDGE, "nonnegative": SIGNS},
    {"groups": groups_of((5, 4, 3), -1), "ridge": RIDGE, "nonnegative": np.tile(SIGNS, 20)},
  ),
}


@pytest.mark.parametrize(
  ("solver", "name"),
  [
    pytest.param(solver, name, marks=[] if quick else pytest.mark.slow)
    for name in CASES
    for solver in SOLVERS
    if solver != "working_set" or "joint_axes" not in CASES[name][1]
    for quick in [(solver, name) in [("fista", "all")]]
  ],
)
def test_optimality(x64, solver, name):
  make, arguments, conditions = CASES[name]
  problem, beta = accepted_by(SOLVERS[solver], make()), conditions.get("beta", BETA)
  if solver == "working_set":  # the code is flat
    arguments = {key: conditions[key] for key in arguments}
  result = SOLVERS[solver](problem.dictionary, problem.x, beta, **arguments, **CONVERGED)
  code = flat(result.code)
  assert bool(result.converged)
  assert 1 < np.count_nonzero(code) < code.size
  assert violation(problem.d, problem.x.ravel(), code, **conditions) < 1e-6


@pytest.mark.parametrize(
  "name",
  [n if n in ("all", "nonnegative part") else pytest.param(n, marks=pytest.mark.slow) for n in CASES],
)
def test_gradient_mapping_is_a_difference_of_proximal_steps(x64, name):
  make, arguments, _ = CASES[name]
  given = make()
  problem = cscjax.Lasso(given.dictionary, jnp.asarray(given.x), 1.0, **arguments)
  rng = np.random.default_rng(0)
  point, gradient = (
    jax.tree.map(lambda c: jnp.asarray(2 * rng.normal(size=c.shape)), problem.zero_code()) for _ in "pg"
  )
  point = jax.tree.map(lambda p: jnp.where(jnp.abs(p) < 1, 0, p), point)
  mapping = jax.jit(gradient_mapping)
  for step in (0.3, 1.0, 20.0):
    moved = jax.tree.map(lambda p, g, s=step: p - s * g, point, gradient)
    after = problem.prox(moved, step)
    expected = jax.tree.map(lambda p, a, s=step: (p - a) / s, point, after)
    got = mapping(problem, point, gradient, jnp.asarray(step))
    chex.assert_trees_all_close(got, expected, rtol=1e-12, atol=1e-12)
  # With a short step, the difference would be lost to rounding.
  exact = mapping(problem, point, gradient, jnp.asarray(1e-7))
  wide = (problem, point, gradient, jnp.asarray(1e-7))
  narrow = jax.tree.map(lambda a: a if a.dtype == bool else a.astype(jnp.float32), wide)
  chex.assert_trees_all_close(mapping(*narrow), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("joint_axes", [None, pytest.param(-1, marks=pytest.mark.slow)])
def test_a_code_that_violates_the_constraint(x64, joint_axes):
  """At [-0.9], the derivative vanishes on the negative half-line, but the solution is 0."""
  problem = cscjax.MatrixDictionary(jnp.eye(2)), jnp.array([-1.0, 2.0])
  options = {"beta": 0.1, "nonnegative": np.array([True, False]), "joint_axes": joint_axes}
  code = jnp.array([-0.9, 1.9])
  result = cscjax.polished(*problem, code, **options)
  np.testing.assert_allclose(result.code, [0, 1.9], atol=1e-12)
  assert float(result.violation) == 0
  assert np.isinf(cscjax.duality_gap(*problem, code, **options))
  lasso = cscjax.Lasso(*problem, **options)
  assert np.isinf(lasso.objective(code))
  start = cscjax.solvers.FISTA(1.0).run(lasso, init=code, iterations=0)
  np.testing.assert_allclose(start.code, [0, 1.9], atol=1e-12)
  np.testing.assert_allclose(start.objective[0], lasso.objective(start.code), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("positive", [False, True])
def test_ridge_is_the_elastic_net_of_scikit_learn(x64, positive):
  problem = dense(3, n=20, m=30)
  n = problem.x.size
  peer = ElasticNet(
    alpha=(BETA + RIDGE) / n,
    l1_ratio=BETA / (BETA + RIDGE),
    fit_intercept=False,
    positive=positive,
    tol=1e-12,
    max_iter=100000,
  )
  expected = peer.fit(problem.d, problem.x).coef_
  result = cscjax.fista(
    problem.dictionary, problem.x, BETA, ridge=RIDGE, nonnegative=positive, restart=True, **CONVERGED
  )
  np.testing.assert_allclose(result.code, expected, atol=1e-7)
  assert np.array_equal(result.code == 0, expected == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_gap_bounds_the_distance_to_the_minimum(x64, name):
  make, arguments, conditions = CASES[name]
  problem, beta = make(), conditions.get("beta", BETA)
  terms = {k: v for k, v in conditions.items() if k != "nonnegative"}
  code = cscjax.fista(problem.dictionary, problem.x, beta, restart=True, **arguments, **CONVERGED).code
  minimum = objective(problem.d, problem.x.ravel(), flat(code), **terms)
  for iterations in (0, 3, 30):
    code = cscjax.fista(problem.dictionary, problem.x, beta, iterations=iterations, **arguments).code
    excess = objective(problem.d, problem.x.ravel(), flat(code), **terms) - minimum
    gap = float(cscjax.duality_gap(problem.dictionary, problem.x, code, beta, **arguments))
    assert gap >= excess - 1e-12
  result = cscjax.admm(
    problem.dictionary, problem.x, beta, stop="gap", tolerance=1e-8, max_iterations=5000, **arguments
  )
  assert bool(result.converged)
  excess = objective(problem.d, problem.x.ravel(), flat(result.code), **terms) - minimum
  assert excess <= 1e-8 * minimum + 1e-12


@pytest.mark.slow
def test_gap_of_a_ridge_alone(x64):
  """Without an l1 penalty, the gap needs the conjugate of the ridge; the solution has a closed form."""
  problem = dense(1)
  expected = np.linalg.solve(problem.d.T @ problem.d + RIDGE * np.eye(12), problem.d.T @ problem.x)
  result = cscjax.fista(
    problem.dictionary, problem.x, 0, ridge=RIDGE, stop="gap", tolerance=1e-10, max_iterations=5000
  )
  assert bool(result.converged)
  np.testing.assert_allclose(result.code, expected, atol=1e-4)
  with pytest.raises(ValueError, match=r"beta: expected positive values \(or a ridge\)"):
    cscjax.fista(problem.dictionary, problem.x, 0, stop="gap", tolerance=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_beta_max_is_the_smallest_penalty_of_a_zero_code(x64, name):
  make, arguments, conditions = CASES[name]
  problem = make()
  arguments = {k: v for k, v in arguments.items() if k != "ridge"}
  beta = cscjax.beta_max(problem.dictionary, problem.x, **arguments)
  code = flat(cscjax.fista(problem.dictionary, problem.x, 0.99 * beta, **arguments).code)
  zero, x = np.zeros_like(code), problem.x.ravel()
  terms = {k: v for k, v in conditions.items() if k not in ("ridge", "beta")}
  assert np.any(code != 0)
  assert violation(problem.d, x, zero, beta=1.001 * float(beta), **terms) == 0
  assert violation(problem.d, x, zero, beta=0.999 * float(beta), **terms) > 0
  relative = cscjax.fista(problem.dictionary, problem.x, cscjax.relative(0.99), **arguments)
  np.testing.assert_allclose(flat(relative.code), code, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_polished_finds_the_solution(x64, name):
  make, arguments, conditions = CASES[name]
  problem, beta = make(), conditions.get("beta", BETA)
  rough = cscjax.admm(problem.dictionary, problem.x, beta, tolerance=1e-2, **arguments).code
  assert violation(problem.d, problem.x.ravel(), flat(rough), **conditions) > 1e-5
  result = cscjax.polished(problem.dictionary, problem.x, rough, beta, **arguments)
  assert float(result.violation) == 0
  assert violation(problem.d, problem.x.ravel(), flat(result.code), **conditions) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_implicit_derivatives_against_finite_differences(x64, name):
  make, arguments, conditions = CASES[name]
  problem = make()
  rng = np.random.default_rng(0)
  ridge = jnp.asarray(arguments.get("ridge", 0.1))
  fixed = {k: v for k, v in arguments.items() if k != "ridge"}
  shapes = jax.eval_shape(problem.dictionary.analysis, problem.x)
  weights = jax.tree.map(lambda s: rng.normal(size=s.shape), shapes)

  @jax.jit
  def loss(dictionary, x, beta, ridge):
    code = cscjax.fista(
      dictionary, x, beta, ridge=ridge, restart=True, tolerance=1e-12, max_iterations=20000, **fixed
    ).code
    return sum(jax.tree.leaves(jax.tree.map(lambda c, w: jnp.sum(w * c + c * c), code, weights)))

  point = (problem.dictionary, jnp.asarray(problem.x), jnp.asarray(conditions.get("beta", BETA)), ridge)
  direction = jax.tree.map(lambda a: rng.normal(size=a.shape), point)
  gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*point)
  for i, step in enumerate(direction):
    ends = [
      loss(*point[:i], jax.tree.map(lambda a, d, h=h: a + h * d, point[i], step), *point[i + 1 :])
      for h in (1e-6, -1e-6)
    ]
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient[i], step)))
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-6)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("nonnegative", 1),
    ("nonnegative", np.ones(3)),
    ("nonnegative", np.ones(5, bool)),
    ("ridge", -1.0),
    ("ridge", np.ones(5)),
    ("ridge", cscjax.relative(0.1)),
    ("joint_axes", 0),
    ("joint_axes", -4),
    ("joint_axes", (-1, -1)),
    ("joint_axes", "channels"),
  ],
)
def test_bad_input_names_the_argument(name, value):
  problem = convolutional(padding="SAME")
  with pytest.raises(ValueError, match=rf"^{name}: "):
    cscjax.Lasso(problem.dictionary, problem.x, BETA, **{name: value})


def test_a_penalty_that_differs_within_a_group_is_refused():
  problem = convolutional(padding="SAME")
  with pytest.raises(ValueError, match=r"^beta: .*\(5, 4, 1\)"):
    cscjax.Lasso(problem.dictionary, problem.x, np.ones(3), joint_axes=-1)
