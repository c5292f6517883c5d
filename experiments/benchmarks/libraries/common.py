"""What the adapters share."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.objective import Learning, Problem

STEPS_PER_DECADE = 4  # steps per factor of ten of the tolerance
LARGEST_STEP = 40  # tolerance 1e-10


class Prepared(NamedTuple):
  """A solver that is ready to be timed for a fixed number of iterations.

  Attributes:
    run: Solves the problem from the code 0, or learns from the initial filters, without recording
      anything, and waits for the result.
    compile_seconds: Seconds that compilation took.
    plan_bytes: Memory that XLA plans; None if the solver is not one compiled program.
    result: Converts what `run` returns to a code or to filters.
    tolerance: Tolerance of the solver; None if it runs a fixed number of iterations.
  """

  run: Callable[[], Any]
  compile_seconds: float
  plan_bytes: int | None
  result: Callable[[Any], np.ndarray]
  tolerance: float | None = None


def timed_compilation(run: Callable[[], Any]) -> float:
  """Runs a function twice and returns the seconds that its first run took in addition."""
  start = time.perf_counter()
  run()
  between = time.perf_counter()
  run()
  return max(2 * between - start - time.perf_counter(), 0.0)


class ByTolerance:
  """Base of the solvers that have a tolerance instead of a number of iterations.

  Their "iteration" k is a run with the tolerance 10^(-k/4). The subclasses define `_solve`, which
  returns a code.
  """

  device = None
  precision = "float32"
  problem: Problem

  def trace(self, limit: int, is_done: Callable[[float], bool]) -> None:
    """Solves with smaller and smaller tolerances until `is_done` returns True for the objective."""
    objective = self.problem.objective()
    for step in range(1, min(limit, LARGEST_STEP) + 1):
      if is_done(objective(self._solve(_tolerance(step)))):
        return

  def prepare(self, iterations: int) -> Prepared:
    """Prepares a run with the tolerance of this step."""
    tolerance = _tolerance(iterations)
    seconds = timed_compilation(lambda: self._solve(1.0))
    return Prepared(lambda: self._solve(tolerance), seconds, None, np.asarray, tolerance)

  def _solve(self, tolerance: float) -> np.ndarray:
    raise NotImplementedError


class ByPasses:
  """Base of the learners whose iteration is a pass over the signals.

  The subclasses define `_passes`, which yields the learner after each pass, and `_result`, which returns
  its filters.
  """

  device = None
  precision = "float32"
  problem: Learning

  def trace(self, limit: int, is_done: Callable[[float], bool]) -> None:
    """Learns until `is_done` returns True for the objective, at most `limit` passes."""
    objective = self.problem.objective()
    for learner in self._passes(limit):
      if is_done(objective(self._result(learner))):
        return

  def prepare(self, iterations: int) -> Prepared:
    """Prepares a run of passes; the compilation time is that of a pass."""

    def run(passes: int) -> Any:
      *_, learner = self._passes(passes)
      return learner

    return Prepared(lambda: run(iterations), timed_compilation(lambda: run(1)), None, self._result)

  def _passes(self, count: int) -> Iterator[Any]:
    raise NotImplementedError

  def _result(self, learner: Any) -> np.ndarray:
    raise NotImplementedError


def _tolerance(step: int) -> float:
  return 10 ** (-step / STEPS_PER_DECADE)
