"""Adapters of cscjax."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.libraries.common import Prepared, timed_compilation
from experiments.benchmarks.objective import Coding, DenseLasso, Learning


class Cscjax:
  """The solvers of cscjax: `fista`, `fista_adaptive`, `admm` and `working_set`.

  With the suffix `_map` the signals of a batch are coded one after the other.
  """

  precision = "float32"

  def __init__(self, solver: str, problem: Coding | DenseLasso):
    import jax

    from cscjax import solvers

    name, self.mapped = solver.removesuffix("_map"), solver.endswith("_map")
    choices = {
      "fista": solvers.fista,
      "fista_adaptive": lambda *args, **named: solvers.fista(*args, **named, step="adaptive"),
      "admm": solvers.admm,
      "working_set": _working_set,
    }
    self.jax, self.device, self.problem = jax, jax.devices()[0], problem
    self.solve = choices[name]
    self.arrays = jax.device_put((problem.x, problem[1]))  # signals, and filters or matrix

  def trace(self, limit: int, is_done: Callable[[float], bool]) -> None:
    """Runs `limit` iterations, then passes their float32 objectives to `is_done` until it is True."""
    result = self.jax.jit(self._solver(limit, ("objective",)))(*self.arrays)
    trace = np.asarray(result.objective, np.float64)
    for value in trace.sum(0 if self.mapped else 1)[1:]:
      if is_done(value):
        return

  def prepare(self, iterations: int) -> Prepared:
    """Compiles the solver ahead of time."""
    start = time.perf_counter()
    compiled = self.jax.jit(self._solver(iterations, ())).lower(*self.arrays).compile()
    seconds = time.perf_counter() - start
    plan = compiled.memory_analysis()
    total = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    run = lambda: self.jax.block_until_ready(compiled(*self.arrays).code)  # noqa: E731
    run()
    return Prepared(run, seconds, total, self._code)

  def _solver(self, iterations: int, record: tuple[str, ...]) -> Callable:
    from cscjax import ConvDictionary, MatrixDictionary

    problem = self.problem
    nonnegative = isinstance(problem, Coding) and problem.nonnegative

    def solve(x: Any, atoms: Any) -> Any:
      if isinstance(problem, Coding):
        dictionary = ConvDictionary(atoms, padding=problem.padding)  # pyright: ignore[reportArgumentType]
      else:
        dictionary = MatrixDictionary(atoms)
      named = {"iterations": iterations, "record": record, "nonnegative": nonnegative}
      return self.solve(dictionary, x, problem.beta, **named)

    if self.mapped:
      return lambda x, atoms: self.jax.lax.map(lambda one: solve(one, atoms), x)
    return solve

  def _code(self, code: Any) -> np.ndarray:
    """Moves the origin of the atoms to their first tap; with circular padding it is in the middle."""
    problem, code = self.problem, np.asarray(code)
    if isinstance(problem, DenseLasso) or problem.padding == "VALID":
      return code
    axes = tuple(range(1, code.ndim - 1))
    return np.roll(code, [-((k - 1) // 2) for k in problem.filters.shape[:-2]], axes)


def _working_set(dictionary: Any, x: Any, beta: float, *, nonnegative: bool, **options: Any) -> Any:
  from cscjax import Lasso, solvers

  problem = Lasso(dictionary, x, beta, nonnegative=nonnegative)
  return solvers.WorkingSet().run(problem, **options)


class CscjaxLearning:
  """`learn_dictionary` (`learn`) with its defaults; a step encodes one signal.

  Its boundaries are circular in either kind of problem. An iteration of the benchmark is a pass over the
  signals.
  """

  precision = "float32"

  def __init__(self, solver: str, problem: Learning):
    import jax

    self.problem, self.device = problem, jax.devices()[0]
    self.images, self.filters = jax.device_put((problem.x, problem.filters))

  def trace(self, limit: int, is_done: Callable[[float], bool]) -> None:
    """Learns until `is_done` returns True for the objective, at most `limit` passes."""
    objective, state = self.problem.objective(), None
    for _ in range(limit):
      learned = self._learn(1, state)
      state = learned.state
      if is_done(objective(self._result(learned))):
        return

  def prepare(self, iterations: int) -> Prepared:
    """Prepares a run of passes, after two that tell the compilation time."""
    run = lambda: self._learn(iterations, None)  # noqa: E731
    return Prepared(run, timed_compilation(run), None, self._result)

  def _learn(self, passes: int, state: Any) -> Any:
    import jax

    from cscjax import learn_dictionary

    problem = self.problem
    learned = learn_dictionary(
      self.images,
      problem.beta,
      kernel=((problem.filters.shape[:-2], problem.filters.shape[-1]),),
      steps=passes * len(self.images),
      batch_size=1,
      nonnegative=problem.nonnegative,
      init=self.filters if state is None else None,
      state=state,
    )
    return jax.block_until_ready(learned)

  def _result(self, learned: Any) -> np.ndarray:
    return np.asarray(learned.dictionary.filters)
