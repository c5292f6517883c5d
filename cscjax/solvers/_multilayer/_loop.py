"""The loop that runs a multi-layer solver, for a number of iterations or to a tolerance."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.solvers._arguments import iteration_limit
from cscjax.solvers._callbacks import (
  TEST_PERIOD,
  Callback,
  as_callbacks,
  iteration_numbers,
  report,
  report_periodically,
)
from cscjax.solvers._lasso._iterate import first_values
from cscjax.solvers._multilayer._result import MultilayerResult

State = TypeVar("State")
Trace = dict[str, jax.Array]


class MultilayerLoop(NamedTuple):
  """The checked arguments that the multi-layer solvers share; hashable, as a static argument.

  Attributes:
    iterations: Number of iterations; with a tolerance, the largest number.
    has_tolerance: Whether the loop stops at convergence.
    callbacks: The functions that follow the iterations.
  """

  iterations: int
  has_tolerance: bool
  callbacks: tuple[Callback, ...]

  @classmethod
  def make(
    cls,
    iterations: int | None,
    tolerance: ArrayLike | None,
    max_iterations: int | None,
    callback: Callback | None,
    progress: bool,
    *,
    name: str,
  ) -> "MultilayerLoop":
    """Checks the arguments of the solver `name`, and raises ValueError if they contradict each other."""
    count = iteration_limit(iterations, tolerance, max_iterations)
    return cls(count, tolerance is not None, as_callbacks(callback, progress, name, count))

  def run(
    self,
    state: State,
    advance: Callable[[State], State],
    measure: Callable[[State], Trace],
    criterion: Callable[[State], jax.Array],
    tolerance: jax.Array | None,
  ) -> tuple[State, Trace, jax.Array, jax.Array | None]:
    """Iterates for a number of iterations, or until the criterion of each signal is within a tolerance.

    Args:
      state: The initial state.
      advance: Runs an iteration.
      measure: Returns the values of a state that the traces keep, each [batch...], among them the
        objective.
      criterion: Returns what is compared with the tolerance, [batch...]. It is computed every
        `TEST_PERIOD` iterations and after the last one, as it may cost as much as an iteration.
      tolerance: The tolerance, None if the loop has none.

    Returns:
      The last state, the traces with one entry per iteration, the number of iterations, and which
      signals have converged (None without a tolerance).
    """
    if tolerance is not None:
      return self._to_tolerance(state, advance, measure, criterion, tolerance)

    def body(state: State, iteration: jax.Array | None) -> tuple[State, Trace]:
      state = advance(state)
      values = measure(state)
      if iteration is not None:
        report_periodically(
          *(self.callbacks, iteration, self.iterations),
          lambda: (values["objective"], criterion(state)),
        )
      return state, values

    numbers = iteration_numbers(self.callbacks, self.iterations)
    state, trace = lax.scan(body, state, numbers, length=self.iterations)
    return state, trace, jnp.int32(self.iterations), None

  def _to_tolerance(
    self,
    state: State,
    advance: Callable[[State], State],
    measure: Callable[[State], Trace],
    criterion: Callable[[State], jax.Array],
    tolerance: jax.Array,
  ) -> tuple[State, Trace, jax.Array, jax.Array]:
    first = measure(state)
    traces = jax.tree.map(lambda v: jnp.zeros_like(v, shape=(self.iterations, *v.shape)), first)
    false = jnp.zeros_like(first["objective"], bool)

    def step(k: ArrayLike, carry: tuple[State, Trace]) -> tuple[State, Trace]:
      state, traces = carry
      state = advance(state)
      return state, jax.tree.map(lambda trace, v: trace.at[k].set(v), traces, measure(state))

    def unfinished(carry: Any) -> jax.Array:
      k, _, converged, broken = carry
      return (k < self.iterations) & ~jnp.all(converged | broken)

    def test_period(carry: Any) -> Any:
      k, carry, converged, _ = carry
      end = jnp.minimum(k + TEST_PERIOD, self.iterations)
      state, traces = lax.fori_loop(k, end, step, carry)
      value = criterion(state)
      new = (end, (state, traces), converged | (value <= tolerance), jnp.isnan(value))
      if self.callbacks:
        report(self.callbacks, end, traces["objective"][end - 1], value, ~unfinished(new))
      return new

    carry = (jnp.int32(0), (state, traces), false, false)
    done, (state, traces), converged, _ = lax.while_loop(unfinished, test_period, carry)
    index = jnp.minimum(jnp.arange(self.iterations, dtype=jnp.int32), done - 1)
    return state, jax.tree.map(lambda trace: trace[index], traces), done, converged

  def finish(self, result: MultilayerResult) -> MultilayerResult:
    """Waits for the callbacks, and cuts the traces to the iterations that were run, if known."""
    if checks.is_traced(result):
      return result
    if self.callbacks:
      jax.effects_barrier()
    if not self.has_tolerance:
      return result
    done = int(result.iterations)
    gap = None if result.gap is None else first_values(result.gap, done)
    return result._replace(objective=first_values(result.objective, done + 1), gap=gap)
