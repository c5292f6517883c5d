"""Adapter of SCICO."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.libraries.common import Prepared, timed_compilation
from experiments.benchmarks.objective import Coding


class Scico:
  """The solver of SCICO: `admm` for sums of circular convolutions with rho 1 and relaxation 1.8.

  It only supports grayscale images.
  """

  precision = "float32"

  def __init__(self, solver: str, problem: Coding):
    import jax
    import scico.numpy as snp  # pyright: ignore[reportMissingImports]
    from scico import functional, linop, loss  # pyright: ignore[reportMissingImports]

    self.problem, self.device = problem, jax.devices()[0]
    x, filters, beta = problem[:3]
    batch, height, width, _ = x.shape
    axes = (1,) if batch > 1 else ()  # codes [m, N, H, W], or [m, H, W]
    atoms = np.expand_dims(np.moveaxis(filters[:, :, 0], -1, 0), axes)
    shape = (atoms.shape[0], *((batch,) if batch > 1 else ()), height, width)
    convolve = linop.CircularConvolve(snp.array(atoms), shape, ndims=2)
    forward = linop.Sum(input_shape=convolve.output_shape, axis=0) @ convolve
    signal = snp.array(x[..., 0] if batch > 1 else x[0, ..., 0])
    self.arguments = {
      "f": loss.SquaredL2Loss(y=signal, A=forward),
      "g_list": [beta * functional.L1Norm()],
      "C_list": [linop.Identity(shape)],
    }

  def trace(self, limit: int, is_done: Callable[[float], bool]) -> None:
    """Runs iterations until `is_done` returns True for the objective, at most `limit`."""
    solver, objective = self._make(), self.problem.objective()
    for _ in range(limit):
      solver.step()
      if is_done(objective(self._code(solver.z_list[0]))):
        return

  def prepare(self, iterations: int) -> Prepared:
    """Prepares a run; the compilation time is that of a run of two iterations."""

    def run(count: int = iterations) -> Any:
      solver = self._make()
      for _ in range(count):
        solver.step()
      return solver.z_list[0].block_until_ready()

    return Prepared(run, timed_compilation(lambda: run(2)), None, self._code)

  def _make(self) -> Any:
    from scico.optimize import ADMM  # pyright: ignore[reportMissingImports]
    from scico.optimize.admm import FBlockCircularConvolveSolver  # pyright: ignore[reportMissingImports]

    return ADMM(
      **self.arguments,
      rho_list=[1.0],
      alpha=1.8,
      subproblem_solver=FBlockCircularConvolveSolver(),
    )

  def _code(self, code: np.ndarray) -> np.ndarray:
    code = np.moveaxis(np.asarray(code), 0, -1)
    return code if code.ndim == 4 else code[None]
