"""Tests of callbacks, progress bars and the ends of traces."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax import solvers
from tests.solvers.problems import dense, period_of, working_set

CRITERIA = ("objective", "gradient_mapping")
RUNS = {
  "ista": (cscjax.ista, {"iterations": 25}),
  "fista, few": (cscjax.fista, {"iterations": 3}),
  "fista": (cscjax.fista, {"tolerance": 1e-3}),
  "fista, unfinished": (cscjax.fista, {"step": "adaptive", "tolerance": 0.0, "max_iterations": 14}),
  "admm": (cscjax.admm, {"iterations": 12}),
  "admm, gap": (cscjax.admm, {"tolerance": 1e-3, "stop": "gap", "max_iterations": 317}),
  "working set": (working_set, {"iterations": 12}),
  "working set, unfinished": (working_set, {"tolerance": 0.0, "max_iterations": 4}),
}


class Unhashable(list):
  def __call__(self, stats):
    self.append(stats)


def two_layers():
  rng = np.random.default_rng(0)
  atoms = [rng.normal(size=shape) / 4 for shape in ((16, 24), (24, 32))]
  return [cscjax.MatrixDictionary(jnp.asarray(a)) for a in atoms], rng.normal(size=(2, 16))


@pytest.mark.parametrize(
  "name",
  [
    name if name in ("fista, few", "admm, gap") else pytest.param(name, marks=pytest.mark.slow)
    for name in RUNS
  ],
)
def test_a_callback_gets_values_of_the_traces(x64, name):
  solve, arguments = RUNS[name]
  problem = dense(1)
  x = np.stack([problem.x, -2 * problem.x])
  run = functools.partial(solve, problem.dictionary, x, 0.2, **arguments)
  plain = run(record=CRITERIA)
  history = []
  result = run(record=(), callback=history.append)
  np.testing.assert_array_equal(result.iterations, plain.iterations)
  np.testing.assert_allclose(result.code, plain.code, rtol=1e-12, atol=1e-14)
  done = int(plain.iterations)
  period = period_of(solve) if "tolerance" in arguments else 10
  numbers = [*range(period, done, period), done]
  assert [stats.iteration for stats in history] == numbers
  assert [stats.is_last for stats in history] == [False] * (len(numbers) - 1) + [True]
  for stats in history:  # `x64` is that of this thread; JAX calls back from others, in float32
    np.testing.assert_allclose(stats.objective, plain.objective[stats.iteration], rtol=1e-6)
    if "stop" not in arguments:  # a gap that is recorded takes the dual values of all iterations
      expected = plain.gradient_mapping[stats.iteration - 1]
      np.testing.assert_allclose(stats.residual, expected, rtol=1e-6)
  if result.converged is not None:
    ever = np.any([stats.residual <= arguments["tolerance"] for stats in history], axis=0)
    np.testing.assert_array_equal(ever, result.converged)


@pytest.mark.parametrize("solve", [cscjax.ista, cscjax.fista, cscjax.admm, working_set])
def test_without_callbacks_the_program_has_none(solve, monkeypatch):
  problem = dense(1)

  def program(**arguments):
    run = functools.partial(solve, problem.dictionary, beta=0.2, tolerance=1e-3, **arguments)
    return jax.make_jaxpr(run)(jnp.asarray(problem.x, jnp.float32))

  followed = program(callback=print)
  assert followed.effects
  assert "debug_callback" in str(followed)
  monkeypatch.setattr(jax.debug, "callback", None)  # a call would fail
  plain = program(callback=None, progress=False)
  assert not plain.effects
  assert str(plain) == str(program())
  assert len(str(plain)) < len(str(followed))


def test_under_jit_each_call_of_the_program_is_followed():
  problem = dense(1)
  history = []

  @jax.jit
  def objective(x):
    result = cscjax.fista(problem.dictionary, x, 0.2, iterations=20, callback=history.append)
    return result.objective[-1]

  ends = [float(objective(scale * problem.x)) for scale in (1, 2)]
  jax.effects_barrier()
  assert [stats.iteration for stats in history] == [10, 20, 10, 20]
  assert [float(stats.objective) for stats in history if stats.is_last] == ends


def test_under_vmap_there_is_a_call_for_each_element():
  problem = dense(1)
  history = []

  def run(scale):
    x = scale * jnp.asarray(problem.x, jnp.float32)
    return cscjax.fista(problem.dictionary, x, 0.2, iterations=12, callback=history.append).objective[-1]

  ends = jax.vmap(run)(jnp.array([1.0, 2.0]))
  jax.effects_barrier()
  assert [stats.iteration for stats in history] == [10, 10, 12, 12]
  np.testing.assert_allclose([stats.objective for stats in history[2:]], ends, rtol=1e-6)


@pytest.mark.parametrize(
  ("arguments", "repeated"),
  [
    ({"iterations": 12}, False),
    pytest.param({"iterations": 12, "differentiate": "remat"}, True, marks=pytest.mark.slow),
  ],
)
def test_under_grad_the_forward_pass_is_followed(arguments, repeated):
  problem = dense(1)
  history = []

  def loss(x, callback=None):
    return jnp.sum(cscjax.fista(problem.dictionary, x, 0.2, callback=callback, **arguments).code ** 2)

  x = jnp.asarray(problem.x, jnp.float32)
  expected = jax.grad(loss)(x)
  np.testing.assert_allclose(jax.grad(loss)(x, history.append), expected, rtol=1e-5)
  jax.effects_barrier()
  numbers = [stats.iteration for stats in history]
  forward = numbers[: numbers.index(max(numbers)) + 1]
  assert forward == sorted(set(numbers))
  assert (len(numbers) > len(forward)) == repeated


def test_equal_callbacks_share_a_compiled_program(caplog):
  problem = dense(1)
  history = []
  run = functools.partial(
    cscjax.fista, problem.dictionary, beta=0.2, iterations=11, callback=history.append
  )
  run(problem.x)
  with jax.log_compiles(), caplog.at_level("WARNING"):
    run(2 * problem.x)
  assert not [record for record in caplog.records if "Compiling" in record.message]
  assert len(history) == 4


def test_an_exception_in_a_callback_ends_the_solver():
  problem = dense(1)

  def fail(stats):
    raise RuntimeError(f"stopped at {stats.iteration}")

  with pytest.raises(jax.errors.JaxRuntimeError, match="stopped at 10"):
    cscjax.fista(problem.dictionary, problem.x, 0.2, iterations=20, callback=fail).code.tolist()


@pytest.mark.parametrize(
  "solve",
  [cscjax.ml_ista, *(pytest.param(f, marks=pytest.mark.slow) for f in (cscjax.ml_fista, cscjax.ml_bp))],
)
def test_multilayer_solvers_report_the_objective_and_the_criterion(solve):
  dictionaries, x = two_layers()
  history = []
  result = solve(dictionaries, x, [0.1, 0.1], iterations=13, callback=history.append)
  assert [(stats.iteration, stats.is_last) for stats in history] == [(10, False), (13, True)]
  for stats in history:
    np.testing.assert_array_equal(stats.objective, result.objective[stats.iteration])
  first, last = (np.max(stats.residual) for stats in history)
  assert 0 < last < first
  plain = solve(dictionaries, x, [0.1, 0.1], iterations=13)
  np.testing.assert_allclose(plain.objective, result.objective, rtol=1e-6)
  history.clear()
  result = solve(dictionaries, x, [0.1, 0.1], tolerance=first, callback=history.append)
  assert history[-1].iteration == int(result.iterations) == 10
  assert history[-1].is_last
  np.testing.assert_allclose(np.max(history[-1].residual), first, rtol=1e-3)


def test_layered_bp_reports_each_layer():
  dictionaries, x = two_layers()
  history = []
  result = cscjax.layered_bp(dictionaries, x, [0.1, 0.1], iterations=13, callback=history.append)
  assert [stats.iteration for stats in history] == [10, 13, 10, 13]
  for layer, stats in zip((0, 0, 1, 1), history, strict=True):
    np.testing.assert_array_equal(stats.objective, result.objective[layer, stats.iteration])


@pytest.mark.slow
def test_a_progress_bar_for_each_run(capfd):
  problem = dense(1)
  run = functools.partial(cscjax.fista, problem.dictionary, beta=0.2, progress=True)
  result = run(problem.x, tolerance=1e-3, max_iterations=500)
  bar = capfd.readouterr().err.strip().splitlines()[-1].split("\r")[-1]
  assert bar.startswith("fista: ")
  assert f"{int(result.iterations)}/500" in bar
  assert f"objective {float(result.objective[-1]):.4g}" in bar
  for _ in range(2):
    run(np.stack([problem.x, 2 * problem.x]), iterations=15)
    assert capfd.readouterr().err.count("100%") == 1
  jax.vmap(lambda x: run(x, iterations=15).code)(jnp.stack([problem.x, 2 * problem.x]))
  jax.effects_barrier()
  assert capfd.readouterr().err.count("100%") == 1
  run(np.zeros((0, problem.x.size)), iterations=15)  # a batch without signals
  jax.effects_barrier()  # raises what the callback raised
  capfd.readouterr()
  run(problem.x, iterations=0)
  cscjax.fista(problem.dictionary, problem.x, 0.2)
  assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_the_title_of_a_bar_is_what_was_called(capfd):
  """It is the name of the function or of the solver, or the title that was given."""
  problem = dense(1)
  options = {"iterations": 2, "progress": True}
  for name in ("ista", "fista", "admm"):
    getattr(cscjax, name)(problem.dictionary, problem.x, 0.2, **options)
    assert {line.split(":")[0] for line in _bars(capfd)} == {name}
  lasso = cscjax.Lasso(problem.dictionary, problem.x, 0.2)
  for solver in (solvers.ISTA(), solvers.FISTA(), solvers.ADMM(), solvers.WorkingSet()):
    solver.run(lasso, **options)
    assert {line.split(":")[0] for line in _bars(capfd)} == {type(solver).__name__}
  solvers.FISTA().run(lasso, iterations=2, progress="the first")
  assert {line.split(":")[0] for line in _bars(capfd)} == {"the first"}
  dictionaries, x = two_layers()
  for name in ("layered_bp", "ml_ista", "ml_fista", "ml_bp"):
    getattr(cscjax, name)(dictionaries, x, [0.1, 0.1], **options)
    assert {line.split(":")[0] for line in _bars(capfd)} == {name}


def _bars(capfd):
  jax.effects_barrier()
  return [line for line in re.split(r"[\r\n]", capfd.readouterr().err) if line.strip()]


def test_a_bar_begins_anew_after_an_interrupted_run(capfd):
  problem = dense(1)

  def fail(stats):
    if stats.iteration == 20:
      raise RuntimeError("interrupted")

  run = functools.partial(cscjax.fista, problem.dictionary, problem.x, 0.2, iterations=30, progress=True)
  with pytest.raises(jax.errors.JaxRuntimeError, match="interrupted"):
    run(callback=fail).code.tolist()
  capfd.readouterr()
  run()
  bar = capfd.readouterr().err
  assert bar.index("10/30") < bar.index("30/30")


@pytest.mark.parametrize(
  ("name", "arguments"),
  {
    "not a function": ("callback", {"callback": 3}),
    "not hashable": ("callback", {"callback": Unhashable()}),
    "a bar by number": ("progress", {"progress": 1}),
  }.values(),
)
@pytest.mark.parametrize("solve", [cscjax.admm, cscjax.ista, working_set])
def test_bad_arguments(solve, name, arguments):
  problem = dense(1)
  with pytest.raises(ValueError, match=rf"^{name}: expected .*got"):
    solve(problem.dictionary, problem.x, 0.1, **arguments)


@pytest.mark.parametrize("solve", [cscjax.ista, pytest.param(cscjax.admm, marks=pytest.mark.slow)])
def test_traces_end_where_the_solver_stopped(solve):
  problem = dense(1)
  record = (*CRITERIA, "gap", "support_size")
  x = jnp.asarray(np.stack([problem.x, 2 * problem.x]), jnp.float32)
  run = functools.partial(
    *(solve, problem.dictionary), beta=0.2, tolerance=1e-2, max_iterations=400, record=record
  )
  result, padded = run(x), jax.jit(run)(x)
  done = int(result.iterations)
  assert 0 < done < 400
  np.testing.assert_array_equal(result.iterations, padded.iterations)
  for name in record:
    first = name in ("objective", "support_size")
    cut, whole = getattr(result, name), getattr(padded, name)
    assert isinstance(cut, jax.Array)
    assert (cut.shape, whole.shape) == ((done + first, 2), (400 + first, 2))
    assert (cut.dtype, cut.sharding) == (whole.dtype, whole.sharding)
    np.testing.assert_allclose(cut, whole[: done + first], rtol=1e-2)  # small gaps differ by rounding
    np.testing.assert_array_equal(whole[done + first :], whole[-1:].repeat(400 - done, axis=0))


def test_cutting_a_trace_compiles_nothing(caplog):
  problem = dense(1)
  run = functools.partial(cscjax.fista, problem.dictionary, problem.x, 0.2)
  lengths = [len(run(tolerance=1e-2).objective)]
  with jax.log_compiles(), caplog.at_level("WARNING"):
    lengths.append(len(run(tolerance=1e-5).objective))
  assert lengths[0] < lengths[1]
  assert not [record for record in caplog.records if "Compiling" in record.message]
