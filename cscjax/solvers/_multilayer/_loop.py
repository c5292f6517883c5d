"""The loop that runs a multi-layer solver, for a number of iterations or to a tolerance."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.ops import at_least_float32
from cscjax.solvers._arguments import iteration_limit
from cscjax.solvers._callbacks import TEST_PERIOD, Callback, as_callbacks
from cscjax.solvers._loops import Test, Trace, cut_traces, repeat, repeat_until
from cscjax.solvers._multilayer._result import MultilayerResult

State = TypeVar("State")


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

    def step(state: State) -> tuple[State, Trace, Test]:
      state = advance(state)
      values = measure(state)
      return state, values, lambda: (state, values["objective"], criterion(state))

    if tolerance is None:
      state, trace = repeat(step, state, self.iterations, self.callbacks)
      return state, trace, jnp.int32(self.iterations), None
    first = measure(state)
    objective = first["objective"]
    return repeat_until(
      *(step, state, first, tolerance, self.iterations, self.callbacks, TEST_PERIOD),
      unknown=jnp.full_like(objective, jnp.inf, at_least_float32(objective.dtype)),
    )

  def finish(self, result: MultilayerResult) -> MultilayerResult:
    """Waits for the callbacks, and cuts the traces to the iterations that were run, if known."""
    if checks.is_traced(result):
      return result
    if self.callbacks:
      jax.effects_barrier()
    return cut_traces(result, ("objective", "gap")) if self.has_tolerance else result
