"""One adapter for each library: its solvers on a circular convolutional problem, in float32.

Imported by `process`, maybe by an interpreter that has no cscjax: nothing here may need it but its own
adapter. Codes leave an adapter as [N, H, W, m], an atom's origin being its first tap.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.objective import Objective

Array = np.ndarray


class Prepared(NamedTuple):
  """A solver for a number of iterations, ready to be timed.

  Attributes:
    run: Solves from code 0, records nothing, and returns when the code is there.
    compile_seconds: What compilation took.
    plan_bytes: What XLA plans to use, None where it does not plan the whole.
    code: The code of a run as [N, H, W, m].
  """

  run: Callable[[], Any]
  compile_seconds: float
  plan_bytes: int | None
  code: Callable[[Any], np.ndarray]


class Cscjax:
  """`fista`, `fista_adaptive`, `admm`; with `_map`, the images of a batch one after the other."""

  def __init__(self, solver: str, x: Array, filters: Array, beta: float, lipschitz: float):
    import jax

    from cscjax import ConvDictionary, solvers

    name, self.mapped = solver.removesuffix("_map"), solver.endswith("_map")
    choices = {
      "fista": solvers.fista,
      "fista_adaptive": lambda *args, **named: solvers.fista(*args, **named, step="adaptive"),
      "admm": solvers.admm,
    }
    self.jax, self.beta = jax, beta
    self.solve, self.dictionary = choices[name], ConvDictionary
    self.x, self.filters = jax.device_put((x, filters))
    self.shift = [-((k - 1) // 2) for k in filters.shape[:2]]

  def trace(self, limit: int, enough: Callable[[float], bool]) -> None:
    """Tells `enough` the objective after each of `limit` iterations, summed in float32."""
    result = self.jax.jit(self._solver(limit, ("objective",)))(self.x, self.filters)
    trace = np.asarray(result.objective, np.float64)
    for value in trace.sum(0 if self.mapped else 1)[1:]:
      if enough(value):
        return

  def prepare(self, iterations: int) -> Prepared:
    """Compiled ahead of time."""
    start = time.perf_counter()
    lowered = self.jax.jit(self._solver(iterations, ())).lower(self.x, self.filters)
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    plan = compiled.memory_analysis()
    total = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    return Prepared(
      lambda: self.jax.block_until_ready(compiled(self.x, self.filters).code),
      seconds,
      total,
      lambda code: np.roll(np.asarray(code), self.shift, (1, 2)),
    )

  def _solver(self, iterations, record):
    def solve(x, filters):
      dictionary = self.dictionary(filters, padding="CIRCULAR")
      return self.solve(dictionary, x, self.beta, iterations=iterations, record=record)

    if self.mapped:
      return lambda x, filters: self.jax.lax.map(lambda image: solve(image, filters), x)
    return solve


class Sporco:
  """`admm` as it comes (automatic rho), `pgm` with robust backtracking from L/4."""

  def __init__(self, solver: str, x: Array, filters: Array, beta: float, lipschitz: float):
    from sporco.admm import cbpdn as admm  # pyright: ignore[reportMissingImports]
    from sporco.pgm import backtrack  # pyright: ignore[reportMissingImports]
    from sporco.pgm import cbpdn as pgm  # pyright: ignore[reportMissingImports]

    self.problem = (x, filters, beta)
    self.beta, self.lipschitz = np.float32(beta), lipschitz
    self.filters = filters[:, :, 0] if filters.shape[2] == 1 else filters
    signals = np.moveaxis(x, 0, -1)  # [H, W, C, N]
    self.signals = signals[:, :, 0] if filters.shape[2] == 1 else signals
    self.kind = {"admm": admm, "pgm": pgm}[solver].ConvBPDN
    self.search = backtrack.BacktrackRobust if solver == "pgm" else None

  def trace(self, limit: int, enough: Callable[[float], bool]) -> None:
    """Tells `enough` the objective after each iteration, until it returns True."""
    objective = Objective(*self.problem)

    def callback(solver):
      return enough(objective(self._code(solver.getmin())))

    self._make(limit, Callback=callback).solve()

  def prepare(self, iterations: int) -> Prepared:
    """Without statistics. The time includes that of the constructor."""
    self._make(2).solve()
    return Prepared(lambda: self._make(iterations).solve(), 0.0, None, self._code)

  def _make(self, iterations, **options):
    if self.search:  # keeps state: a new one for each solver
      options |= {"L": self.lipschitz / 4, "Backtrack": self.search()}
    options |= {"MaxMainIter": iterations, "RelStopTol": 0.0, "FastSolve": True}
    return self.kind(self.filters, self.signals, self.beta, self.kind.Options(options), dimK=1)

  def _code(self, code):
    code = np.asarray(code)  # [H, W, 1, N, m], or without axes of size 1
    code = code.reshape(*code.shape[:2], -1, code.shape[-1])
    return np.moveaxis(code, 2, 0)


class Scico:
  """`admm` with the solver for sums of circular convolutions; rho 1, relaxation 1.8. Grey only."""

  def __init__(self, solver: str, x: Array, filters: Array, beta: float, lipschitz: float):
    import scico.numpy as snp  # pyright: ignore[reportMissingImports]
    from scico import functional, linop, loss  # pyright: ignore[reportMissingImports]

    self.problem = (x, filters, beta)
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

  def trace(self, limit: int, enough: Callable[[float], bool]) -> None:
    """Tells `enough` the objective after each iteration, until it returns True."""
    solver, objective = self._make(), Objective(*self.problem)
    for _ in range(limit):
      solver.step()
      if enough(objective(self._code(solver.z_list[0]))):
        return

  def prepare(self, iterations: int) -> Prepared:
    """Compilation is what a first run of two iterations takes longer than a second one."""

    def run(count=iterations):
      solver = self._make()
      for _ in range(count):
        solver.step()
      return solver.z_list[0].block_until_ready()

    start = time.perf_counter()
    run(2)
    between = time.perf_counter()
    run(2)
    seconds = 2 * between - start - time.perf_counter()
    return Prepared(run, max(seconds, 0.0), None, self._code)

  def _make(self):
    from scico.optimize import ADMM  # pyright: ignore[reportMissingImports]
    from scico.optimize.admm import FBlockCircularConvolveSolver  # pyright: ignore[reportMissingImports]

    return ADMM(
      **self.arguments,
      rho_list=[1.0],
      alpha=1.8,
      subproblem_solver=FBlockCircularConvolveSolver(),
    )

  def _code(self, code):
    code = np.moveaxis(np.asarray(code), 0, -1)
    return code if code.ndim == 4 else code[None]


LIBRARIES = {"cscjax": Cscjax, "sporco": Sporco, "scico": Scico}
