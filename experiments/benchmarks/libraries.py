"""Adapters for the solvers of each library on a circular convolutional problem in float32.

`process` imports this module, possibly in an interpreter without cscjax. Therefore only the adapter of
cscjax may import it. Every adapter returns codes [N, H, W, m], in which the origin of an atom is its
first tap.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.objective import Objective

Array = np.ndarray


class Prepared(NamedTuple):
  """A solver that is ready to be timed for a fixed number of iterations.

  Attributes:
    run: Solves the problem from the code 0 without recording anything, and waits for the result.
    compile_seconds: Seconds that compilation took.
    plan_bytes: Memory that XLA plans; None if the solver is not one compiled program.
    code: Converts the result of `run` to a code [N, H, W, m].
  """

  run: Callable[[], Any]
  compile_seconds: float
  plan_bytes: int | None
  code: Callable[[Any], np.ndarray]


class Cscjax:
  """The solvers of cscjax: `fista`, `fista_adaptive` and `admm`.

  With the suffix `_map` the images of a batch are coded one after the other.
  """

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

  def trace(self, limit: int, is_done: Callable[[float], bool]) -> None:
    """Runs `limit` iterations, then passes their float32 objectives to `is_done` until it is True."""
    result = self.jax.jit(self._solver(limit, ("objective",)))(self.x, self.filters)
    trace = np.asarray(result.objective, np.float64)
    for value in trace.sum(0 if self.mapped else 1)[1:]:
      if is_done(value):
        return

  def prepare(self, iterations: int) -> Prepared:
    """Compiles the solver ahead of time."""
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

  def _solver(self, iterations: int, record: tuple[str, ...]) -> Callable:
    def solve(x: Any, filters: Any) -> Any:
      dictionary = self.dictionary(filters, padding="CIRCULAR")
      return self.solve(dictionary, x, self.beta, iterations=iterations, record=record)

    if self.mapped:
      return lambda x, filters: self.jax.lax.map(lambda image: solve(image, filters), x)
    return solve


class Sporco:
  """The solvers of SPORCO: `admm` with automatic rho, and `pgm` with robust backtracking from L/4."""

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

  def trace(self, limit: int, is_done: Callable[[float], bool]) -> None:
    """Runs iterations until `is_done` returns True for the objective, at most `limit`."""
    objective = Objective(*self.problem)

    def callback(solver: Any) -> bool:
      return is_done(objective(self._code(solver.getmin())))

    self._make(limit, Callback=callback).solve()

  def prepare(self, iterations: int) -> Prepared:
    """Prepares a run without statistics. Its time includes the constructor of the solver."""
    self._make(2).solve()
    return Prepared(lambda: self._make(iterations).solve(), 0.0, None, self._code)

  def _make(self, iterations: int, **options: Any) -> Any:
    if self.search:  # the search keeps state, so each solver needs a new one
      options |= {"L": self.lipschitz / 4, "Backtrack": self.search()}
    options |= {"MaxMainIter": iterations, "RelStopTol": 0.0, "FastSolve": True}
    return self.kind(self.filters, self.signals, self.beta, self.kind.Options(options), dimK=1)

  def _code(self, code: Array) -> Array:
    code = np.asarray(code)  # [H, W, 1, N, m], or without axes of size 1
    code = code.reshape(*code.shape[:2], -1, code.shape[-1])
    return np.moveaxis(code, 2, 0)


class Scico:
  """The solver of SCICO: `admm` for sums of circular convolutions with rho 1 and relaxation 1.8.

  It only supports grayscale images.
  """

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

  def trace(self, limit: int, is_done: Callable[[float], bool]) -> None:
    """Runs iterations until `is_done` returns True for the objective, at most `limit`."""
    solver, objective = self._make(), Objective(*self.problem)
    for _ in range(limit):
      solver.step()
      if is_done(objective(self._code(solver.z_list[0]))):
        return

  def prepare(self, iterations: int) -> Prepared:
    """Prepares a run; the compilation time is the first run of two iterations minus a second one."""

    def run(count: int = iterations) -> Any:
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

  def _make(self) -> Any:
    from scico.optimize import ADMM  # pyright: ignore[reportMissingImports]
    from scico.optimize.admm import FBlockCircularConvolveSolver  # pyright: ignore[reportMissingImports]

    return ADMM(
      **self.arguments,
      rho_list=[1.0],
      alpha=1.8,
      subproblem_solver=FBlockCircularConvolveSolver(),
    )

  def _code(self, code: Array) -> Array:
    code = np.moveaxis(np.asarray(code), 0, -1)
    return code if code.ndim == 4 else code[None]


LIBRARIES = {"cscjax": Cscjax, "sporco": Sporco, "scico": Scico}
