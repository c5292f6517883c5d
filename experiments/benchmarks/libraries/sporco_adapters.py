"""Adapters of SPORCO."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.benchmarks.libraries.common import ByPasses, Prepared
from experiments.benchmarks.objective import Coding, Learning, lipschitz

FORBIDDEN = 1e6  # penalty, relative to beta, of places where an atom must not be


class Sporco:
  """The solvers of SPORCO: `admm` with automatic rho, and `pgm` with robust backtracking from L/4.

  SPORCO's boundaries are circular: for "VALID" padding, the other places have a prohibitive penalty.
  """

  device, precision = None, "float32"

  def __init__(self, solver: str, problem: Coding):
    from sporco.admm import cbpdn as admm  # pyright: ignore[reportMissingImports]
    from sporco.pgm import backtrack  # pyright: ignore[reportMissingImports]
    from sporco.pgm import cbpdn as pgm  # pyright: ignore[reportMissingImports]

    self.problem, self.beta = problem, np.float32(problem.beta)
    self.signals, self.filters = as_sporco(problem.x, problem.filters)
    self.axes = problem.x.ndim - 2
    self.kind = {"admm": admm, "pgm": pgm}[solver].ConvBPDN
    self.options: dict[str, Any] = {"RelStopTol": 0.0, "FastSolve": True}
    if solver == "pgm":
      self.search, self.options["L"] = backtrack.BacktrackRobust, lipschitz(problem) / 4
    else:
      self.search = None
    if problem.nonnegative:
      self.options["NonNegCoef"] = True
    if problem.padding == "VALID":
      weight = np.full((*problem.x.shape[1:-1], 1, 1, 1), FORBIDDEN, np.float32)
      weight[problem.places] = 1
      self.options["L1Weight"] = weight

  def trace(self, limit: int, is_done: Callable[[float], bool]) -> None:
    """Runs iterations until `is_done` returns True for the objective, at most `limit`."""
    objective = self.problem.objective()

    def callback(solver: Any) -> bool:
      return is_done(objective(self._code(solver.getmin())))

    self._make(limit, Callback=callback).solve()

  def prepare(self, iterations: int) -> Prepared:
    """Prepares a run without statistics. Its time includes the constructor of the solver."""
    self._make(2).solve()
    return Prepared(lambda: self._make(iterations).solve(), 0.0, None, self._code)

  def _make(self, iterations: int, **options: Any) -> Any:
    options |= {**self.options, "MaxMainIter": iterations}
    if self.search:  # the search keeps state, so each solver needs a new one
      options["Backtrack"] = self.search()
    return self.kind(
      self.filters, self.signals, self.beta, self.kind.Options(options), dimK=1, dimN=self.axes
    )

  def _code(self, code: np.ndarray) -> np.ndarray:
    space = self.problem.x.shape[1:-1]
    code = np.asarray(code)  # [*space, 1, N, m], or without axes of size 1
    code = code.reshape(*space, len(self.problem.x), -1)
    return np.moveaxis(code, -2, 0)[(slice(None), *self.problem.places)]


class SporcoLearning(ByPasses):
  """The online learning of SPORCO (`online`), with the settings of its example onlinecdl_gry.

  Each step encodes one signal with at most 50 iterations of ADMM. An iteration of the benchmark is a
  pass over the signals, in random order.
  """

  def __init__(self, solver: str, problem: Learning):
    self.problem = problem
    self.signals, self.filters = as_sporco(problem.x, problem.filters)

  def _passes(self, count: int) -> Iterator[Any]:
    from sporco.dictlrn import onlinecdl  # pyright: ignore[reportMissingImports]

    kind = onlinecdl.OnlineConvBPDNDictLearn
    coding: dict[str, Any] = {"rho": 5.0, "AutoRho": {"Enabled": True}, "RelaxParam": 1.8}
    coding |= {"RelStopTol": 1e-4, "MaxMainIter": 50, "FastSolve": True, "DataType": np.float32}
    if self.problem.nonnegative:
      coding["NonNegCoef"] = True
    options = {"eta_a": 10.0, "eta_b": 20.0, "DataType": np.float32, "CBPDN": coding}
    axes, beta = self.problem.x.ndim - 2, np.float32(self.problem.beta)
    learner = kind(self.filters, beta, kind.Options(options), dimK=1, dimN=axes)
    rng = np.random.default_rng(0)
    for _ in range(count):
      for i in rng.permutation(self.signals.shape[-1]):
        learner.solve(self.signals[..., i : i + 1])
      yield learner

  def _result(self, learner: Any) -> np.ndarray:
    return np.array(learner.getdict()).reshape(self.problem.filters.shape)


def as_sporco(x: np.ndarray, filters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns signals [*space, C, N] and filters [*taps, C, m], without the axis of a single channel."""
  signals = np.moveaxis(x, 0, -1)
  if filters.shape[-2] == 1:
    return signals[..., 0, :], filters[..., 0, :]
  return signals, filters
