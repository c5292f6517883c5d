"""Solvers as objects: states, loops of steps, continued runs, and a solver that users could write."""

import io
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from sklearn.linear_model import Lasso as ReferenceLasso

import cscjax
from cscjax.solvers import ADMM, FISTA, ISTA, Solver, WorkingSet
from tests.solvers.problems import PROBLEMS, dense, flat

BETA = 0.2
SOLVERS = {
  "ista": ISTA(),
  "fista": FISTA(),
  "fista_step": FISTA(0.1, restart=True),
  "fista_adaptive": FISTA("adaptive"),
  "admm": ADMM(),
  "admm_rho": ADMM(2.0, relaxation=1.5),
  "working_set": WorkingSet(),
}


def each_solver(*fast):
  """Runs a test for every solver; those that are not named are slow."""
  cases = [
    pytest.param(solver, id=name, marks=() if name in fast else pytest.mark.slow)
    for name, solver in SOLVERS.items()
  ]
  return pytest.mark.parametrize("solver", cases)


def lasso(problem, **options):
  return cscjax.Lasso(problem.dictionary, problem.x, BETA, **options)


@each_solver("fista_adaptive")
@pytest.mark.parametrize("name", ["dense", pytest.param("circular", marks=pytest.mark.slow)])
def test_a_run_continues_from_its_state(x64, solver, name):
  """The momentum, a searched step and rho are part of the state."""
  if isinstance(solver, WorkingSet) and name != "dense":
    pytest.skip("for dense dictionaries")
  problem = lasso(PROBLEMS[name]())
  at_once = solver.run(problem, iterations=40)
  first = solver.run(problem, iterations=20)
  second = solver.run(problem, iterations=20, state=first.state)
  np.testing.assert_allclose(flat(second.code), flat(at_once.code), atol=1e-13)
  trace = np.concatenate([first.objective, second.objective[1:]])
  np.testing.assert_allclose(trace, at_once.objective, rtol=1e-12)
  for ours, theirs in zip(*map(jax.tree.leaves, (second.state, at_once.state)), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@each_solver()
def test_a_run_to_a_tolerance_continues(x64, solver):
  if isinstance(solver, WorkingSet):
    pytest.skip("converges in the first iterations")
  problem = lasso(dense(1))
  tested = {"tolerance": 1e-7, "max_iterations": 4000}
  at_once = solver.run(problem, **tested)
  first = solver.run(problem, **{**tested, "max_iterations": 20})
  second = solver.run(problem, **tested, state=first.state)
  assert not bool(first.converged)
  assert bool(second.converged)
  assert int(first.iterations + second.iterations) == int(at_once.iterations)
  np.testing.assert_allclose(second.code, at_once.code, atol=1e-13)


@pytest.mark.parametrize("solver", [ISTA("adaptive"), FISTA("backtracking")], ids=["ista", "fista"])
def test_a_step_far_too_long_is_shortened_by_the_next_iteration(x64, solver):
  """Its move is discarded, for its signal alone, and without a loop in the iteration."""
  one = dense(0)
  problem = cscjax.Lasso(one.dictionary, np.stack([one.x, one.x]), BETA)
  init = jnp.asarray(np.random.default_rng(1).normal(size=(2, one.d.shape[1])))
  state = solver.init(problem, init)
  state = state._replace(step=one.step * jnp.array([1000.0, 0.99]))
  after = solver.step(problem, state)
  np.testing.assert_array_equal(after.code[0], state.code[0])
  assert np.all(after.code[1] != state.code[1])
  assert one.step <= float(after.step[0]) < 100 * one.step
  result = solver.run(problem, iterations=100, state=state, record=("gradient_mapping", "objective"))
  np.testing.assert_array_equal(np.isinf(result.gradient_mapping[0]), [True, False])
  assert np.all(np.isfinite(result.gradient_mapping[-1]))
  if isinstance(solver, ISTA):
    assert np.all(np.diff(result.objective, axis=0) <= 1e-12)
  np.testing.assert_allclose(result.objective[-1, 0], result.objective[-1, 1], rtol=1e-3)
  assert "while" not in str(jax.make_jaxpr(solver.step)(problem, state))


@each_solver("admm")
def test_a_loop_of_steps_is_a_run(x64, solver):
  """A step uses what `init` has computed: it contains neither a Lipschitz constant nor an inverse."""
  batch = np.stack([dense(0).x, -2 * dense(0).x])
  problem = cscjax.Lasso(dense(0).dictionary, batch, BETA)
  step = jax.jit(solver.step)
  state = jax.jit(solver.init)(problem)
  costly = {"eigh", "lu", "triangular_solve"} | (set() if isinstance(solver, WorkingSet) else {"scan"})
  assert not costly & {str(eqn.primitive) for eqn in jax.make_jaxpr(solver.step)(problem, state).eqns}
  for _ in range(5):
    state = step(problem, state)
  code, reconstruction = solver.solution(problem, state)
  np.testing.assert_allclose(code, solver.run(problem, iterations=5).code, atol=1e-13)
  np.testing.assert_allclose(reconstruction, problem.dictionary.synthesis(code), atol=1e-13)


@each_solver()
def test_a_state_is_saved_as_arrays(solver):
  problem = lasso(dense(0))
  state = solver.run(problem, iterations=10).state
  file = io.BytesIO()
  leaves, structure = jax.tree.flatten(state)
  np.savez(file, *leaves)
  file.seek(0)
  loaded = jax.tree.unflatten(structure, list(np.load(file).values()))
  results = [solver.run(problem, iterations=10, state=s).code for s in (state, loaded)]
  np.testing.assert_array_equal(*results)
  assert "float32" in repr(state)
  assert len(repr(state)) < 600


def test_every_solver_is_tested():
  public = [value for value in vars(cscjax.solvers).values() if isinstance(value, type)]
  classes = {value for value in public if issubclass(value, Solver) and value is not Solver}
  assert classes == {type(solver) for solver in SOLVERS.values()}


def test_a_signal_is_not_a_problem():
  with pytest.raises(ValueError, match=r"^problem: expected a cscjax.Lasso, got 'ndarray'"):
    FISTA().run(dense(0).x)  # pyright: ignore[reportArgumentType]


def test_a_state_of_another_problem_is_refused():
  state = FISTA().init(lasso(dense(0, n=9)))
  with pytest.raises(ValueError, match=r"^state: expected .*got"):
    FISTA().run(lasso(dense(0)), state=state)


def test_a_state_of_another_solver_is_refused():
  problem = lasso(dense(0))
  with pytest.raises(ValueError, match=r"^state: expected a state that ADMM.init or .run returned, got"):
    ADMM().run(problem, state=FISTA().init(problem))


def test_init_and_state_contradict_each_other():
  problem = lasso(dense(0))
  with pytest.raises(ValueError, match=r"^init: expected None if state is given"):
    FISTA().run(problem, state=FISTA().init(problem), init=problem.zero_code())


def test_the_initial_code_must_fit():
  with pytest.raises(ValueError, match=r"^code: expected a code of shape \(12,\)"):
    FISTA().init(lasso(dense(0)), jnp.zeros(8))


def test_solvers_are_values():
  assert len({FISTA(), FISTA(None), FISTA("adaptive"), FISTA(0.1), FISTA(restart=True), ADMM()}) == 5
  with pytest.raises(AttributeError):
    FISTA().restart = True  # pyright: ignore[reportAttributeAccessIssue]
  assert jax.tree.leaves((FISTA("adaptive", restart=True), ADMM(rho=0.5))) == [0.5]


def test_a_gradient_with_respect_to_a_solver(x64):
  """The gradient has the type of the solver, although it is not a valid one: its step is negative."""
  problem = lasso(dense(1))

  def loss(solver):
    return solver.run(problem, iterations=4).objective[-1]

  step, h = 0.05, 1e-6
  gradient = jax.grad(loss)(FISTA(step))
  expected = (loss(FISTA(step + h)) - loss(FISTA(step - h))) / (2 * h)
  np.testing.assert_allclose(gradient.step_size, expected, rtol=1e-6)
  assert expected < 0


# A solver with public names alone: proximal gradient steps of the length of Barzilai and Borwein (1988),
# shortened until the objective is below the largest of the last ones (SpaRSA; Wright, Nowak & Figueiredo
# 2009).


class SparsaState(NamedTuple):
  code: Any
  reconstruction: jax.Array
  gradient: Any
  step: jax.Array
  recent: jax.Array  # the last objectives


class Sparsa(Solver):
  first_step: float = 1.0
  memory: int = struct.field(pytree_node=False, default=5)

  def init(self, problem, code=None):
    code = problem.zero_code() if code is None else code
    reconstruction = problem.dictionary.synthesis(code, problem.x.shape)
    objective = problem.objective(code)
    recent = jnp.broadcast_to(objective[..., None], (*objective.shape, self.memory))
    step = jnp.full_like(objective, self.first_step)
    return SparsaState(code, reconstruction, problem.gradient(reconstruction), step, recent)

  def step(self, problem, state):
    def attempt(step):
      moved = jax.tree.map(lambda c, g: c - step[..., None] * g, state.code, state.gradient)
      code = problem.prox(moved, step)
      return step, code, problem.objective(code)

    def is_too_long(tried):
      return tried[2] > jnp.max(state.recent, axis=-1)

    def shorten(tried):
      return attempt(jnp.where(is_too_long(tried), tried[0] / 2, tried[0]))

    first = attempt(state.step)
    _, code, objective = jax.lax.while_loop(lambda t: jnp.any(is_too_long(t)), shorten, first)
    reconstruction = problem.dictionary.synthesis(code, problem.x.shape)
    gradient = problem.gradient(reconstruction)
    move = jax.tree.map(jnp.subtract, code, state.code)
    bend = problem.inner(move, jax.tree.map(jnp.subtract, gradient, state.gradient))
    length = jnp.where(bend > 0, problem.inner(move, move) / jnp.where(bend > 0, bend, 1), 1)
    recent = jnp.concatenate([state.recent[..., 1:], objective[..., None]], axis=-1)
    return SparsaState(code, reconstruction, gradient, length.astype(recent.dtype), recent)

  def solution(self, problem, state):
    del problem
    return state.code, state.reconstruction


def test_a_solver_of_ones_own(x64):
  """It inherits the criteria, the traces, callbacks, implicit derivatives and continued runs."""
  problem = dense(2)
  x = np.stack([problem.x, 3 * problem.x])
  history = []
  result = Sparsa().run(
    cscjax.Lasso(problem.dictionary, x, BETA),
    **{"tolerance": 1e-8, "record": ("objective", "gap"), "callback": history.append},
  )
  assert bool(jnp.all(result.converged))
  model = ReferenceLasso(BETA / x.shape[1], fit_intercept=False, tol=1e-14, max_iter=100_000)
  expected = [model.fit(problem.d, signal).coef_ for signal in x]
  np.testing.assert_allclose(result.code, expected, atol=1e-6)
  assert np.all(result.gap[-1] < 1e-6)
  assert history[-1].iteration == int(result.iterations)


@pytest.mark.slow
def test_derivatives_through_a_solver_of_ones_own(x64):
  problem = dense(2)

  def loss(beta, solver):
    code = solver.run(cscjax.Lasso(problem.dictionary, problem.x, beta), tolerance=1e-9).code
    return jnp.sum(code**2)

  slopes = [jax.grad(loss)(BETA, solver) for solver in (Sparsa(), FISTA())]
  np.testing.assert_allclose(*slopes, rtol=1e-6)


@pytest.mark.parametrize("solver", [ISTA(0.1), FISTA(0.1)])
def test_the_zero_code_is_not_synthesized(solver):
  """Where the dictionary is a constant, XLA would compute this product while it compiles."""
  problem = cscjax.Lasso(cscjax.ConvDictionary(jnp.ones((3, 3, 1, 2))), jnp.ones((6, 6, 1)), 0.1)
  assert "csc_conv_input_transpose" in str(jax.make_jaxpr(solver.step)(problem, solver.init(problem)))
  assert "csc_conv_input_transpose" not in str(jax.make_jaxpr(solver.init)(problem))


@pytest.mark.parametrize("name", ["admm", "ista", "omp"])
def test_the_compiler_does_not_multiply_the_atoms_of_a_constant_dictionary(name):
  """With 5,000 atoms it would take a minute, and some seconds for their norms and their scale."""
  atoms = jax.random.normal(jax.random.key(0), (30, 70))
  dictionary = cscjax.MatrixDictionary(atoms)
  named = {"sparsity": 2} if name == "omp" else {"beta": 0.1, "iterations": 2}
  program = jax.jit(lambda x: getattr(cscjax, name)(dictionary, x, **named).code)
  text = program.lower(jnp.ones(30)).compile().as_text()
  constants = set(re.findall(r"f32(\[[\d,]*\])\S* constant", text))
  assert "[30,70]" in constants  # the atoms themselves
  assert not constants & {"[30,30]", "[70,70]", "[70]"}
