"""Loops: a fixed number of iterations, or as many as a tolerance asks for; records; derivatives."""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code
from cscjax.ops import shard_batch, vary_alike
from cscjax.solvers._lasso._algorithm import STOPS, Measure, Method, Stop
from cscjax.solvers._lasso._implicit import implicitly_differentiable
from cscjax.solvers._lasso._problem import Lasso, per_signal

Differentiate = Literal["unrolled", "remat", "implicit"]
DIFFERENTIATE = ("unrolled", "remat", "implicit")
TEST_PERIOD = 10  # iterations between tests of a tolerance: a test costs as much as half an iteration
RECORDS = ("objective", "gradient_mapping", "gap", "support_size")


class SolverResult(NamedTuple):
  """What a solver found.

  Traces are None unless named in `record`. With a tolerance they have the length of max_iterations,
  and the last value is repeated after the stop.

  Attributes:
    code: The code, batch axes as in the signal.
    objective: [iterations + 1, batch...], 1/2 ||x - D code||^2 + beta ||code||_1 of each signal
      before the first iteration and after each.
    iterations: int32 scalar, how many were done.
    converged: [batch...], whether the measure named by `stop` has been within the tolerance; None
      without one. In a batch, a signal that has converged is iterated until all have.
    diverged: [batch...], whether the objective is not finite, or above twice the larger of 1/2 ||x||^2
      and what it started from: the step was too large.
    gradient_mapping: [iterations, batch...], the relative gradient mapping after each iteration, see
      the argument `tolerance` of the solvers.
    gap: [iterations, batch...], the objective less the largest value of the dual found so far, relative
      to the objective: the code's objective exceeds the minimum by no more than this share of it.
    support_size: [iterations + 1, batch...], int32, how many coefficients are not 0.
  """

  code: Code
  objective: jax.Array | None
  iterations: jax.Array
  converged: jax.Array | None
  diverged: jax.Array
  gradient_mapping: jax.Array | None
  gap: jax.Array | None
  support_size: jax.Array | None


class Loop(NamedTuple):
  """How a solver iterates: the checked arguments that all of them share, hashable.

  Attributes:
    iterations: How many; at most so many with a tolerance.
    stop: One of `STOPS`: what a tolerance is compared with.
    record: Some of `RECORDS`.
    differentiate: One of `DIFFERENTIATE`.
  """

  iterations: int
  stop: Stop
  record: tuple[str, ...]
  differentiate: Differentiate

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
    *,
    searches: bool,
  ) -> "Loop":
    """Checks them for a problem; `searches` tells that an iteration holds a loop of unknown length."""
    checks.one_of("stop", stop, STOPS)
    if tolerance is None:
      if stop != STOPS[0]:
        checks.fail("stop", stop, "a tolerance beside it")
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
    if "gap" in (stop, *record) and not _all_positive(problem.beta):
      checks.fail("beta", "a penalty of 0", "positive values where the duality gap is asked for")
    endless = searches or tolerance is not None
    if differentiate is None:
      differentiate = "implicit" if endless else "unrolled"
    checks.one_of("differentiate", differentiate, DIFFERENTIATE)
    if endless and differentiate != "implicit":
      checks.fail("differentiate", differentiate, "'implicit' with a tolerance or a searched step")
    return cls(count, stop, tuple(record), differentiate)


def solve(
  problem: Lasso,
  parameter: ArrayLike | None,
  init: Code | None,
  tolerance: ArrayLike | None,
  *,
  method: Method,
  loop: Loop,
) -> SolverResult:
  """Runs a method from `init`, or 0, a number of iterations or to a tolerance."""
  init = None if init is None else problem.as_code(init)  # jit would refuse what is no array its way
  return shard_batch(
    lambda _, *arguments: _solve(*arguments, method=method, loop=loop),
    *(problem.x, problem, parameter, init, tolerance),
    batch_ndim=problem.batch_ndim,
    layout=SolverResult._make((0, 1, "replicated", 0, 0, 1, 1, 1)),
  )


@partial(jax.jit, static_argnames=("method", "loop"))
def _solve(problem, parameter, init, tolerance, *, method, loop):
  problem, parameter, init, tolerance = vary_alike((problem, parameter, init, tolerance))
  start = problem.zero_code() if init is None else init
  if loop.differentiate != "implicit":
    return _run(problem, parameter, start, tolerance, method, loop)
  # The solution depends on neither start nor step; and the loop itself is not to be differentiated.
  result = lax.stop_gradient(
    _run(*lax.stop_gradient((problem, parameter, start, tolerance)), method, loop)
  )
  return result._replace(code=implicitly_differentiable(problem, result.code))


def _run(problem, parameter, start, tolerance, method, loop):
  if tolerance is None:
    algorithm = method(problem, parameter, start)
  else:  # no search for a solution that is known
    zero = problem.is_solved_by_zero()
    start = _zero_where(zero, start)
    algorithm = _stay_at_zero(problem, method(problem, parameter, start), zero)
  measure = Measure(problem, algorithm)
  recorded = [name for name in STOPS if name in loop.record]

  def record(state, measured):
    code, reconstruction = algorithm.solution(state)
    values = {
      "objective": lambda: _scaled_back(problem, problem.objective(code, reconstruction)),
      "support_size": lambda: _support_size(problem, code),
    }
    values |= {name: lambda value=value: value for name, value in measured.items()}
    trace = {name: values[name]() for name in loop.record}
    return {k: v if k == "support_size" else v.astype(problem.x.dtype) for k, v in trace.items()}

  def advance(carry):
    state, best = carry
    state, evidence = algorithm.advance(state)
    best, measured = measure(recorded, state, evidence, best)
    return (state, best), record(state, measured)

  start = algorithm.state
  first = record(start, dict.fromkeys(STOPS, measure.unknown))
  converged, done = None, jnp.asarray(loop.iterations, jnp.int32)
  if tolerance is None:
    (state, _), trace = _scan(advance, (start, measure.lowest), loop)
  else:
    state, trace, done, converged = _while(algorithm, measure, record, first, tolerance, loop)
  trace = {
    name: values if name in STOPS else jnp.concatenate([first[name][None], values])
    for name, values in trace.items()
  }
  code, reconstruction = algorithm.solution(state)
  return SolverResult(
    code=code,
    iterations=done,
    converged=converged,
    diverged=_diverged(problem, algorithm, code, reconstruction),
    **{name: trace.get(name) for name in RECORDS},
  )


def _stay_at_zero(problem, algorithm, zero):
  """The algorithm, where the solution of some signals is 0: ADMM leaves it for a while on its way."""
  at_zero = 0.5 * problem.energy(problem.x)
  return algorithm._replace(
    solution=lambda state: _zero_where(zero, algorithm.solution(state)),
    mapping=lambda *args: _zero_where(zero, algorithm.mapping(*args)),
    dual=lambda *args: jnp.where(zero, at_zero, algorithm.dual(*args)),
  )


def _zero_where(zero, tree):
  return jax.tree.map(lambda a: jnp.where(per_signal(zero, a), 0, a), tree)


def _scaled_back(problem, value):
  """A value in unit^2 as it is without units."""
  unit = problem.unit.astype(value.dtype)
  return value * unit * unit


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


def _while(algorithm, measure, record, first, tolerance, loop):
  """Until the measure of each signal has been within the tolerance, or is NaN.

  A turn of the loop is `TEST_PERIOD` iterations, of which the last is tested: a GPU hands the loop's
  condition back to the host in each turn, which takes about as long as an iteration.
  """
  recorded = [name for name in STOPS if name in loop.record]
  tested = [name for name in STOPS if name == loop.stop or name in loop.record]
  traces = jax.tree.map(lambda v: jnp.zeros_like(v, shape=(loop.iterations, *v.shape)), first)
  nowhere = jnp.zeros_like(measure.unknown, bool)

  def advance(names, k, carry):
    state, best, traces = carry
    state, evidence = algorithm.advance(state)
    best, measured = measure(names, state, evidence, best)
    values = record(state, measured)
    return (state, best, jax.tree.map(lambda trace, v: trace.at[k].set(v), traces, values)), measured

  def unfinished(carry):
    k, _, converged, broken = carry
    return (k < loop.iterations) & ~jnp.all(converged | broken)

  def turn(carry):
    k, carry, converged, _ = carry
    untested = TEST_PERIOD - 1
    if loop.iterations % TEST_PERIOD:  # else the compiler knows the number, and does not wait for it
      untested = jnp.minimum(untested, loop.iterations - 1 - k)
    carry = lax.fori_loop(0, untested, lambda i, carry: advance(recorded, k + i, carry)[0], carry)
    carry, measured = advance(tested, k + untested, carry)
    value = measured[loop.stop]
    return k + untested + 1, carry, converged | (value <= tolerance), jnp.isnan(value)

  carry = (0, (algorithm.state, measure.lowest, traces), nowhere, nowhere)
  done, (state, _, traces), converged, _ = lax.while_loop(unfinished, turn, carry)
  index = jnp.minimum(jnp.arange(loop.iterations), done - 1)
  return state, jax.tree.map(lambda trace: trace[index], traces), jnp.int32(done), converged


def _diverged(problem, algorithm, code, reconstruction):
  at_zero = 0.5 * problem.energy(problem.x)
  at_start = problem.objective(*algorithm.solution(algorithm.state))
  return ~(problem.objective(code, reconstruction) <= 2 * jnp.maximum(at_start, at_zero))


def _all_positive(beta):
  """False where a concrete value is 0: the dual's feasible set is flat there."""
  leaves = jax.tree.leaves(beta)
  return all(checks.is_traced(leaf) or bool(jnp.all(leaf > 0)) for leaf in leaves)


def _support_size(problem, code):
  counts = jax.tree.map(
    lambda c: jnp.count_nonzero(c, axis=tuple(range(problem.batch_ndim, c.ndim))), code
  )
  return jnp.asarray(sum(jax.tree.leaves(counts)), jnp.int32)
