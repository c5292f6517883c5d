"""Loops: a fixed number of iterations, or as many as a tolerance asks for; records; derivatives."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from cscjax import checks
from cscjax.dictionaries import Code
from cscjax.solvers.implicit import implicitly_differentiable
from cscjax.solvers.lasso import Lasso, sum_signals

Differentiate = Literal["unrolled", "remat", "implicit"]
DIFFERENTIATE = ("unrolled", "remat", "implicit")
RECORDS = ("objective", "step_residual", "support")


class SolverResult(NamedTuple):
  """What a solver found.

  Traces are None unless named in `record`. With a tolerance they have the length of max_iterations,
  and the last value is repeated after the stop.

  Attributes:
    code: The code, batch axes as in the signal.
    objective: [iterations + 1, batch...], 1/2 ||x - D code||^2 + beta ||code||_1 of each signal
      before the first iteration and after each.
    iterations: int32 scalar, how many were done.
    converged: [batch...], whether the step residual has been within the tolerance; None without one.
    diverged: [batch...], whether the objective is not finite, or above twice the larger of 1/2 ||x||^2
      and what it started from: the step was too large.
    step_residual: [iterations, batch...], how far each iteration moved the code, relative to its norm.
    support: [iterations + 1, batch...], int32, how many coefficients are not 0.
  """

  code: Code
  objective: jax.Array | None
  iterations: jax.Array
  converged: jax.Array | None
  diverged: jax.Array
  step_residual: jax.Array | None
  support: jax.Array | None


class Loop(NamedTuple):
  """How a solver iterates: the checked arguments that all of them share, hashable.

  Attributes:
    iterations: How many; at most so many with a tolerance.
    record: Some of `RECORDS`.
    differentiate: One of `DIFFERENTIATE`.
  """

  iterations: int
  record: tuple[str, ...]
  differentiate: Differentiate

  @classmethod
  def make(
    cls,
    iterations: int | None,
    tolerance: Any,
    max_iterations: int | None,
    record: Sequence[str],
    differentiate: Differentiate | None,
    *,
    searches: bool,
  ) -> "Loop":
    """Checks them; `searches` tells that an iteration holds a loop of unknown length."""
    if tolerance is None:
      if max_iterations is not None:
        checks.fail("max_iterations", max_iterations, "a tolerance beside it; else set iterations")
      count = checks.int_at_least("iterations", 100 if iterations is None else iterations, 0)
    else:
      if iterations is not None:
        checks.fail("iterations", iterations, "no tolerance beside it; its bound is max_iterations")
      checks.all_at_least("tolerance", tolerance, 0)
      if jnp.ndim(tolerance) != 0:
        checks.fail("tolerance", jnp.shape(tolerance), "a scalar")
      count = checks.positive_int("max_iterations", 1000 if max_iterations is None else max_iterations)
    if isinstance(record, str) or not isinstance(record, Iterable):
      checks.fail("record", record, f"a sequence of names among {', '.join(RECORDS)}")
    for name in record:
      checks.one_of("record", name, RECORDS)
    endless = searches or tolerance is not None
    if differentiate is None:
      differentiate = "implicit" if endless else "unrolled"
    checks.one_of("differentiate", differentiate, DIFFERENTIATE)
    if endless and differentiate != "implicit":
      checks.fail("differentiate", differentiate, "'implicit' with a tolerance or a searched step")
    return cls(count, tuple(record), differentiate)


class Algorithm(NamedTuple):
  """An iterative solver of one problem.

  Attributes:
    state: To start from.
    advance: State -> (next state, step residual [batch...]).
    solution: State -> (code, D code). Of all these, what nobody reads is not computed.
  """

  state: Any
  advance: Callable[[Any], tuple[Any, jax.Array]]
  solution: Callable[[Any], tuple[Code, jax.Array]]


class Method(Protocol):
  """Sets up an algorithm; hashable, so that a second call with like arguments compiles nothing."""

  def __call__(self, problem: Lasso, parameter: jax.Array | None, init: Code) -> Algorithm:
    """The algorithm for a problem, from a step size or the like (None: its own) and a code."""
    ...


@partial(jax.jit, static_argnames=("method", "loop"))
def solve(
  problem: Lasso,
  parameter: jax.Array | None,
  init: Code | None,
  tolerance: jax.Array | float | None,
  *,
  method: Method,
  loop: Loop,
) -> SolverResult:
  """Runs a method from `init`, or 0, until the tolerance on the step residual if there is one."""
  init = problem.as_code(init)
  if loop.differentiate != "implicit":
    return _run(problem, method(problem, parameter, init), tolerance, loop)
  # The solution depends on neither start nor step; and the loop itself is not to be differentiated.
  constants = lax.stop_gradient((problem, parameter, init))
  result = lax.stop_gradient(_run(constants[0], method(*constants), tolerance, loop))
  return result._replace(code=implicitly_differentiable(problem, result.code))


def relative(size: jax.Array, scale: jax.Array) -> jax.Array:
  """size / scale, 0 where both are 0, with finite derivatives where scale is 0."""
  quotient = size / jnp.where(scale == 0, 1, scale)
  return jnp.where(scale == 0, jnp.where(size == 0, 0, jnp.inf), quotient)


def _run(problem, algorithm, tolerance, loop):
  def record(state, residual):
    code, rebuilt = algorithm.solution(state)
    values = {
      "objective": lambda: problem.objective(code, rebuilt).astype(problem.x.dtype),
      "step_residual": lambda: residual.astype(problem.x.dtype),
      "support": lambda: _support(problem, code),
    }
    return {name: values[name]() for name in loop.record}

  def advance(state):
    state, residual = algorithm.advance(state)
    return state, (residual, record(state, residual))

  start = algorithm.state
  batch = problem.x.shape[: problem.batch_ndim]
  first = record(start, jnp.full(batch, jnp.inf))
  converged, done = None, jnp.asarray(loop.iterations, jnp.int32)
  if tolerance is None:
    state, trace = _scan(lambda s: _second(advance(s)), start, loop)
  else:
    state, trace, done, converged = _while(advance, start, first, tolerance, loop, batch)
  trace = {
    name: values if name == "step_residual" else jnp.concatenate([first[name][None], values])
    for name, values in trace.items()
  }
  code, rebuilt = algorithm.solution(state)
  return SolverResult(
    code=code,
    iterations=done,
    converged=converged,
    diverged=_diverged(problem, algorithm, code, rebuilt),
    **{name: trace.get(name) for name in RECORDS},
  )


def _second(pair):
  state, (_, values) = pair
  return state, values


def _scan(advance, state, loop):
  """`lax.scan`; with "remat" in about sqrt(n) segments, of which only the starts are kept."""
  if loop.differentiate != "remat" or loop.iterations < 2:
    return lax.scan(lambda s, _: advance(s), state, length=loop.iterations)
  length = math.isqrt(loop.iterations)
  count, rest = divmod(loop.iterations, length)

  @jax.checkpoint
  def segment(state, _):
    return lax.scan(lambda s, _: jax.checkpoint(advance)(s), state, length=length)

  state, trace = lax.scan(segment, state, length=count)
  trace = jax.tree.map(lambda v: v.reshape(count * length, *v.shape[2:]), trace)
  state, tail = lax.scan(lambda s, _: jax.checkpoint(advance)(s), state, length=rest)
  return state, jax.tree.map(lambda *parts: jnp.concatenate(parts), trace, tail)


def _while(advance, state, first, tolerance, loop, batch):
  """Until each signal's residual has been within the tolerance, or is not finite."""
  traces = jax.tree.map(lambda v: jnp.zeros((loop.iterations, *v.shape), v.dtype), first)
  start = (0, state, traces, jnp.zeros(batch, bool), jnp.zeros(batch, bool))

  def unfinished(carry):
    k, _, _, converged, broken = carry
    return (k < loop.iterations) & ~jnp.all(converged | broken)

  def body(carry):
    k, state, traces, converged, _ = carry
    state, (residual, values) = advance(state)
    traces = jax.tree.map(lambda trace, v: trace.at[k].set(v), traces, values)
    converged = converged | (residual <= tolerance)
    return k + 1, state, traces, converged, ~jnp.isfinite(residual)

  done, state, traces, converged, _ = lax.while_loop(unfinished, body, start)
  index = jnp.minimum(jnp.arange(loop.iterations), done - 1)
  return state, jax.tree.map(lambda trace: trace[index], traces), jnp.int32(done), converged


def _diverged(problem, algorithm, code, rebuilt):
  at_zero = 0.5 * sum_signals(problem.weigh(jnp.square(problem.x)), problem.batch_ndim)
  at_start = problem.objective(*algorithm.solution(algorithm.state))
  return ~(problem.objective(code, rebuilt) <= 2 * jnp.maximum(at_start, at_zero))


def _support(problem, code):
  counts = jax.tree.map(
    lambda c: jnp.count_nonzero(c, axis=tuple(range(problem.batch_ndim, c.ndim))), code
  )
  return jnp.asarray(sum(jax.tree.leaves(counts)), jnp.int32)
