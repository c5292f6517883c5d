"""The loops of the iterative solvers: for a number of iterations, or until each signal has converged."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.solvers._callbacks import Callback, iteration_numbers, report, report_periodically

Trace = dict[str, jax.Array]
Test = Callable[[], tuple[Any, jax.Array, jax.Array]]
"""Returns the state after a test, the objective and the stopping criterion, each [batch...]."""
Step = Callable[[Any], tuple[Any, Trace, Test]]
"""Maps a state to the next one, the values that the traces keep, and the test of the next state.

The test may cost as much as the step, so it is called only where a loop needs it.
"""
Result = TypeVar("Result", bound=Any)

FROM_START = ("objective", "support_size")  # traces that begin before the first iteration


def repeat(
  step: Step,
  state: Any,
  iterations: int,
  callbacks: tuple[Callback, ...],
  scan: Callable[..., tuple[Any, Trace]] = lax.scan,
) -> tuple[Any, Trace]:
  """Runs a number of iterations, and returns the last state and the traces.

  `scan` is `lax.scan` or a function like it, which may save memory in the backward pass.
  """

  def body(state: Any, iteration: jax.Array | None) -> tuple[Any, Trace]:
    state, values, test = step(state)
    if iteration is not None:
      report_periodically(callbacks, iteration, iterations, lambda: test()[1:])
    return state, values

  return scan(body, state, iteration_numbers(callbacks, iterations), length=iterations)


def repeat_until(
  step: Step,
  state: Any,
  first: Trace,
  tolerance: jax.Array,
  iterations: int,
  callbacks: tuple[Callback, ...],
  period: int,
  unknown: jax.Array,
  unroll: int = 1,
) -> tuple[Any, Trace, jax.Array, jax.Array]:
  """Iterates until the criterion of each signal has been within a tolerance, or is NaN.

  The body of the loop runs `period` iterations and tests the last one: a GPU returns the condition of
  the loop to the host each time, which takes about as long as an iteration of most solvers.

  Args:
    step: The iteration.
    state: The initial state.
    first: Values like those that the traces keep.
    tolerance: The tolerance.
    iterations: Largest number of iterations.
    callbacks: The functions that are called after each test.
    period: Number of iterations between two tests.
    unknown: Infinity for each signal, [batch...]: the criterion before the first test.
    unroll: Number of iterations in a turn of the loop between two tests, on a CPU.

  Returns:
    The last state, the traces, which repeat their last value after the stop, the number of iterations,
    and which signals converged.
  """
  traces = jax.tree.map(lambda v: jnp.zeros_like(v, shape=(iterations, *v.shape)), first)

  def advance(k: ArrayLike, carry: tuple[Any, Trace]) -> tuple[tuple[Any, Trace], Test]:
    state, values, test = step(carry[0])
    return (state, jax.tree.map(lambda trace, v: trace.at[k].set(v), carry[1], values)), test

  def unfinished(carry: Any) -> jax.Array:
    k, _, lowest = carry
    return (k < iterations) & jnp.any(lowest > tolerance)  # False for NaN

  def turn(length: int, carry: Any) -> Any:
    k, carry, lowest = carry

    def iterate(carry: tuple[Any, Trace], unroll: int) -> tuple[Any, Trace]:
      return lax.fori_loop(
        0, length - 1, lambda i, carry: advance(k + i, carry)[0], carry, unroll=unroll
      )

    # Without a loop, a GPU launches fewer kernels; a CPU gains nothing and takes longer to compile it.
    carry = lax.platform_dependent(
      carry, cpu=partial(iterate, unroll=unroll), default=partial(iterate, unroll=max(length - 1, 1))
    )
    (_, traces), test = advance(k + length - 1, carry)
    state, objective, value = test()
    new = (k + length, (state, traces), jnp.minimum(lowest, value))
    if callbacks:
      report(callbacks, new[0], objective, value, ~unfinished(new))
    return new

  carry = (0, (state, traces), unknown)
  turns, rest = divmod(iterations, period)
  if turns:
    carry = lax.while_loop(
      lambda carry: unfinished(carry) & (carry[0] < turns * period), partial(turn, period), carry
    )
  if rest:
    carry = lax.cond(unfinished(carry), partial(turn, rest), lambda carry: carry, carry)
  done, (state, traces), lowest = carry
  index = jnp.minimum(jnp.arange(iterations), done - 1)
  return state, jax.tree.map(lambda trace: trace[index], traces), jnp.int32(done), lowest <= tolerance


def cut_traces(result: Result, names: Sequence[str]) -> Result:
  """Cuts the traces of a result to the iterations that were run, unless their number is traced."""
  traces = {name: getattr(result, name) for name in names if getattr(result, name) is not None}
  if not traces or checks.is_traced((result.iterations, traces)):
    return result
  done = int(result.iterations)
  return result._replace(
    **{name: _first_values(trace, done + (name in FROM_START)) for name, trace in traces.items()}
  )


def _first_values(trace: jax.Array, length: int) -> jax.Array:
  """Returns the first values of a trace, with its sharding."""
  if length == len(trace):
    return trace
  if not trace.is_fully_addressable:
    return trace[:length]
  # On the host, because slicing an array of JAX compiles a program for each length.
  return jax.device_put(np.asarray(trace)[:length], trace.sharding)
