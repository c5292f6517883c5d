"""Runs a solver for a number of iterations or to a tolerance; criteria, traces and derivatives."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code
from cscjax.ops import compact_repr, shard_batch, vary_alike
from cscjax.solvers._arguments import iteration_limit
from cscjax.solvers._callbacks import TEST_PERIOD, Callback, as_callbacks
from cscjax.solvers._lasso._algorithm import STOPS, Algorithm, Stop, StoppingCriteria
from cscjax.solvers._lasso._implicit import implicitly_differentiable
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._signals import count_nonzeros, per_signal
from cscjax.solvers._loops import FROM_START, Test, Trace, cut_traces, repeat, repeat_until

if TYPE_CHECKING:
  from cscjax.solvers._lasso._solver import Solver

Differentiate = Literal["unrolled", "remat", "implicit"]
"""How derivatives of a code are computed; see the argument `differentiate` of `fista`."""

DIFFERENTIATE = ("unrolled", "remat", "implicit")
UNROLL = 2  # iterations in a turn of a loop: with one, XLA copies the codes, which change places
RECORDS = ("objective", "gradient_mapping", "gap", "support_size")


class SolverResult(NamedTuple):
  """The result of `ista`, `fista` or `admm`, or of the method `run` of a `Solver`.

  The traces (`objective`, `gradient_mapping`, `gap` and `support_size`) are None unless `record` names
  them. They end with the last iteration. Under `jax.jit` and other transformations, where shapes cannot
  depend on values, traces with a tolerance have the length of `max_iterations` and repeat their last
  value after the stop: cut them to `trace[: iterations]` outside, `objective` and `support_size` to
  `trace[: iterations + 1]`.

  Attributes:
    code: The code, with the batch axes of the signal.
    objective: 1/2 ||x - D code||^2 + beta ||code||_1 of each signal, before the first iteration and
      after each iteration: [iterations + 1, batch...].
    iterations: Number of iterations that were run, an int32 scalar.
    converged: Whether the stopping criterion has been within the tolerance, for each signal: [batch...].
      None without a tolerance. In a batch, all signals are iterated until all have converged.
    diverged: Whether the final objective is not finite, or more than twice the larger of 1/2 ||x||^2
      and the initial objective: [batch...]. If so, the step was too large.
    gradient_mapping: The relative gradient mapping after each iteration, [iterations, batch...]: the
      criterion of `stop="gradient_mapping"`. It is infinite where a searched step was too long, and the
      iteration left the code unchanged.
    gap: The relative duality gap after each iteration, [iterations, batch...]: the objective minus the
      largest dual value found so far, as a fraction of the objective. The objective exceeds the minimum
      by at most this fraction of it.
    support_size: Number of nonzero coefficients, int32, before the first iteration and after each
      iteration: [iterations + 1, batch...].
    state: The state of the solver after the last iteration, from which its method `run` continues. No
      gradient flows through it if the code is differentiated implicitly.
  """

  code: Code
  objective: jax.Array | None
  iterations: jax.Array
  converged: jax.Array | None
  diverged: jax.Array
  gradient_mapping: jax.Array | None
  gap: jax.Array | None
  support_size: jax.Array | None
  state: Any

  def __repr__(self) -> str:
    return compact_repr(self, traces=RECORDS)


class Loop(NamedTuple):
  """The checked arguments that all solvers share; hashable, as a static argument of a compiled loop.

  Attributes:
    iterations: Number of iterations; with a tolerance, the largest number.
    stop: The stopping criterion of a tolerance, one of `STOPS`.
    record: The traces to keep, some of `RECORDS`.
    differentiate: How derivatives are computed, one of `DIFFERENTIATE`.
    callbacks: The functions that follow the iterations.
    test_period: Number of iterations between two tests of a tolerance.
  """

  iterations: int
  stop: Stop
  record: tuple[str, ...]
  differentiate: Differentiate
  callbacks: tuple[Callback, ...]
  test_period: int

  @classmethod
  def make(
    cls,
    problem: Lasso,
    iterations: int | None,
    tolerance: Any,
    max_iterations: int | None,
    stop: Stop,
    record: Sequence[str],
    differentiate: Differentiate | None,
    callback: Callback | None,
    progress: bool | str,
    *,
    name: str,
    test_period: int,
  ) -> "Loop":
    """Checks the arguments of a solver for a problem, and raises ValueError if they do not fit.

    `name` is that of the solver.
    """
    if not isinstance(problem, Lasso):
      checks.fail("problem", type(problem).__name__, "a cscjax.Lasso")
    checks.one_of("stop", stop, STOPS)
    if tolerance is None and stop != STOPS[0]:
      checks.fail("stop", stop, "the default, gradient_mapping, if tolerance is None")
    count = iteration_limit(iterations, tolerance, max_iterations)
    if isinstance(record, str) or not isinstance(record, Iterable):
      checks.fail("record", record, f"a sequence of names out of {', '.join(RECORDS)}")
    record = tuple(record)  # an iterator can be read only once
    for trace in record:
      checks.one_of("record", trace, RECORDS)
    if "gap" in (stop, *record) and not problem.has_dual_bound:
      checks.fail("beta", "a penalty of 0", "positive values (or a ridge) for the duality gap")
    if differentiate is None:
      differentiate = "unrolled" if tolerance is None else "implicit"
    checks.one_of("differentiate", differentiate, DIFFERENTIATE)
    if tolerance is not None and differentiate != "implicit":
      checks.fail("differentiate", differentiate, "'implicit' if tolerance is given")
    period = TEST_PERIOD if tolerance is None else test_period
    callbacks = as_callbacks(callback, progress, name, count, period)
    return cls(count, stop, record, differentiate, callbacks, test_period)


def solve(
  solver: "Solver",
  problem: Lasso,
  init: Code | None,
  state: Any,
  tolerance: ArrayLike | None,
  *,
  loop: Loop,
) -> SolverResult:
  """Runs a solver from a state, a code or the zero code, for some iterations or to a tolerance."""
  if state is not None:
    if init is not None:
      checks.fail("init", "a code", "None if state is given")
    state = _checked_state(solver, problem, state)
  elif init is not None:
    init = problem.project(problem.as_code(init))  # `as_code` raises a clearer error than jit
  result = shard_batch(
    lambda _, *arguments: _solve(*arguments, loop=loop),
    *(problem.x, solver, problem, init, state, tolerance),
    batch_ndim=problem.batch_ndim,
    layout=lambda: _layout(solver, problem),
  )
  if loop.callbacks and not checks.is_traced(result):
    jax.effects_barrier()
  return result if tolerance is None else cut_traces(result, RECORDS)


@jax.jit
def _init(solver: "Solver", problem: Lasso) -> Any:
  return solver.init(problem)


def _checked_state(solver: "Solver", problem: Lasso, state: Any) -> Any:
  """Returns a state as arrays; raises ValueError if it is not one of the solver for the problem."""
  expected = _init.eval_shape(solver, problem)
  if jax.tree.structure(state) != jax.tree.structure(expected):
    kind = type(solver).__name__
    checks.fail("state", type(state).__name__, f"a state that {kind}.init or .run returned")
  for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
    if jnp.shape(leaf) != wanted.shape or jnp.result_type(leaf) != wanted.dtype:
      got = f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"
      checks.fail("state", f"an array {got}", f"{wanted.dtype}{list(wanted.shape)} for this problem")
  return jax.tree.map(jnp.asarray, state)


def _layout(solver: "Solver", problem: Lasso) -> SolverResult:
  """Returns the positions of the batch axes in a result, see `shard_batch`."""
  batch = problem.x.shape[: problem.batch_ndim]
  shapes = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), (solver, problem)
  )
  state = jax.tree.map(
    lambda leaf: 0 if leaf.shape[: len(batch)] == batch else -1, _init.eval_shape(*shapes)
  )
  return SolverResult._make((0, 1, -1, 0, 0, 1, 1, 1, state))


@partial(jax.jit, static_argnames="loop")
def _solve(
  solver: "Solver",
  problem: Lasso,
  init: Code | None,
  state: Any,
  tolerance: jax.Array | None,
  *,
  loop: Loop,
) -> SolverResult:
  solver, problem, init, state, tolerance = vary_alike((solver, problem, init, state, tolerance))
  if loop.differentiate != "implicit":
    return _run(solver, problem, init, state, tolerance, loop)
  # The solution depends on neither the start nor the step, and the loop itself is not differentiated.
  result = lax.stop_gradient(
    _run(*lax.stop_gradient((solver, problem, init, state, tolerance)), loop=loop)
  )
  return result._replace(code=implicitly_differentiable(problem, result.code))


def _run(
  solver: "Solver",
  problem: Lasso,
  init: Code | None,
  state: Any,
  tolerance: jax.Array | None,
  loop: Loop,
) -> SolverResult:
  """Runs the loop and collects its result."""
  # A solution that is zero is known without iterations.
  zero = None if tolerance is None else problem.is_solved_by_zero()
  if state is None:
    if zero is not None and init is not None:
      init = _zero_where(zero, init)
    state = vary_alike(solver.init(problem, init), problem)
  algorithm = solver._apply(problem, state)
  if zero is not None:
    algorithm = _stay_at_zero(problem, algorithm, zero)
  criteria = StoppingCriteria(problem, algorithm)
  recorded = [name for name in STOPS if name in loop.record]

  def objective(state: Any) -> jax.Array:
    return problem.in_squared_scale(algorithm.objective(state)).astype(problem.x.dtype)

  def record(state: Any, measured: dict[str, jax.Array]) -> Trace:
    values = {name: value.astype(problem.x.dtype) for name, value in measured.items()}
    if "objective" in loop.record:
      values["objective"] = objective(state)
    if "support_size" in loop.record:
      values["support_size"] = count_nonzeros(algorithm.solution(state)[0], problem.batch_ndim)
    return values

  def step(carry: Any) -> tuple[Any, Trace, Test]:
    state, best = carry
    state, aux = algorithm.advance(state)
    best, measured = criteria(recorded, state, aux, best)

    def test() -> tuple[Any, jax.Array, jax.Array]:
      new_best, tested = criteria((loop.stop,), state, aux, best)
      return (state, new_best), objective(state), tested[loop.stop]

    return (state, best), record(state, measured), test

  first = record(algorithm.state, dict.fromkeys(recorded, criteria.unknown))
  start = (algorithm.state, criteria.lowest)
  if tolerance is None:
    scan = _scan_in_segments if loop.differentiate == "remat" else partial(lax.scan, unroll=UNROLL)
    (state, _), trace = repeat(step, start, loop.iterations, loop.callbacks, scan)
    converged, done = None, jnp.asarray(loop.iterations, jnp.int32)
  else:
    (state, _), trace, done, converged = repeat_until(
      *(step, start, first, tolerance, loop.iterations, loop.callbacks, loop.test_period),
      unknown=criteria.unknown,
      unroll=UNROLL,
    )
  trace = {
    name: jnp.concatenate([first[name][None], values]) if name in FROM_START else values
    for name, values in trace.items()
  }
  return SolverResult(
    code=algorithm.solution(state)[0],
    iterations=done,
    converged=converged,
    diverged=_diverged(problem, algorithm, state),
    **{name: trace.get(name) for name in RECORDS},
    state=state,
  )


def _stay_at_zero(problem: Lasso, algorithm: Algorithm, zero: jax.Array) -> Algorithm:
  """Returns an algorithm that keeps the code of some signals at zero, which ADMM leaves temporarily.

  The objective is replaced as a value: that of a modified code would cost a copy of the code.
  """
  at_zero = 0.5 * problem.energy(problem.x)
  return algorithm._replace(
    solution=lambda state: _zero_where(zero, algorithm.solution(state)),
    objective=lambda state: jnp.where(zero, at_zero, algorithm.objective(state)),
    mapping=lambda *args: _zero_where(zero, algorithm.mapping(*args)),
    dual=lambda *args: jnp.where(zero, at_zero, algorithm.dual(*args)),
  )


def _zero_where(zero: jax.Array, tree: Any) -> Any:
  """Sets the arrays of some signals to zero."""
  return jax.tree.map(lambda a: jnp.where(per_signal(zero, a), 0, a), tree)


def _scan_in_segments(
  body: Callable[[Any, Any], tuple[Any, Any]], state: Any, numbers: jax.Array | None, length: int
) -> tuple[Any, Trace]:
  """Scans in about sqrt(n) segments, of which the backward pass keeps only the starts."""
  if length < 2:
    return lax.scan(body, state, numbers, length=length)
  size = math.isqrt(length)
  count, rest = divmod(length, size)

  @jax.checkpoint
  def segment(state: Any, numbers: jax.Array | None) -> tuple[Any, Trace]:
    return lax.scan(jax.checkpoint(body), state, numbers, length=size)

  whole = None if numbers is None else numbers[: count * size].reshape(count, size)
  others = None if numbers is None else numbers[count * size :]
  state, trace = lax.scan(segment, state, whole, length=count)
  trace = jax.tree.map(lambda v: v.reshape(count * size, *v.shape[2:]), trace)
  state, tail = lax.scan(jax.checkpoint(body), state, others, length=rest)
  return state, jax.tree.map(lambda *parts: jnp.concatenate(parts), trace, tail)


def _diverged(problem: Lasso, algorithm: Algorithm, state: Any) -> jax.Array:
  """Returns which signals have an objective that is not finite, or has doubled: [batch...]."""
  at_zero = 0.5 * problem.energy(problem.x)
  at_start = algorithm.objective(algorithm.state)
  return ~(algorithm.objective(state) <= 2 * jnp.maximum(at_start, at_zero))
