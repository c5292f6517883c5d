"""Adapters of alphacsc, whose codes are nonnegative, with no atom that crosses the border.

It computes in float64. Its processes (`n_jobs`) do not pay for problems of this size.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.benchmarks.libraries.common import ByPasses, ByTolerance
from experiments.benchmarks.objective import Coding, Learning


class Alphacsc(ByTolerance):
  """The solvers of alphacsc: `lgcd` (locally greedy coordinate descent), `fista` and `l-bfgs`."""

  precision = "float64"

  def __init__(self, solver: str, problem: Coding):
    from alphacsc import update_z_multi  # pyright: ignore[reportMissingImports]

    self.problem, self.solver, self.update = problem, solver, update_z_multi.update_z_multi
    self.signals, self.atoms = _signals(problem.x), _atoms(problem.filters)

  def _solve(self, tolerance: float) -> np.ndarray:
    code, *_ = self.update(
      *(self.signals, self.atoms, self.problem.beta),
      solver=self.solver,
      solver_kwargs={"tol": tolerance},
    )
    return np.swapaxes(code, 1, 2)


class AlphacscLearning(ByPasses):
  """The online learning of alphacsc (`online`), with its defaults and atoms of any rank.

  Each step encodes one signal with `lgcd`. An iteration of the benchmark is a pass over the signals, in
  random order.
  """

  precision = "float64"

  def __init__(self, solver: str, problem: Learning):
    self.problem = problem
    self.signals, self.atoms = _signals(problem.x), _atoms(problem.filters)

  def _passes(self, count: int) -> Iterator[Any]:
    from alphacsc import OnlineCDL  # pyright: ignore[reportMissingImports]

    atoms, _, taps = self.atoms.shape
    learner = OnlineCDL(
      *(atoms, taps, self.problem.beta), rank1=False, lmbd_max="fixed", D_init=self.atoms, verbose=0
    )
    rng = np.random.default_rng(0)
    for _ in range(count):
      for i in rng.permutation(len(self.signals)):
        learner.partial_fit(self.signals[i : i + 1])
      yield learner

  def _result(self, learner: Any) -> np.ndarray:
    return np.moveaxis(learner.D_hat_, 0, -1).swapaxes(0, 1)


def _signals(x: np.ndarray) -> np.ndarray:
  """Returns signals [N, C, L] of signals [N, L, C]."""
  return np.ascontiguousarray(np.swapaxes(x, 1, 2), np.float64)


def _atoms(filters: np.ndarray) -> np.ndarray:
  """Returns atoms [m, C, taps] of filters [taps, C, m]."""
  return np.ascontiguousarray(filters.transpose(), np.float64)
