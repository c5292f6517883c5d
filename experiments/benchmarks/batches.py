"""Suite `batches`: a batch of signals encoded at once, and one signal after the other by `jax.lax.map`.

The signals are random. Each call of a solver runs a fixed number of iterations, without traces. The two
programs run in turn, so that other work on the machine slows both of them. It changes the processor time
less than the time.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cscjax import ConvDictionary, MatrixDictionary, admm, fista
from experiments.benchmarks.gradients import planned_bytes

ITERATIONS = 20
REPEATS = 3
BETA = 0.5
FILTERS = {2: (8, 8, 1, 32), 1: (64, 1, 32)}  # by the number of spatial axes
MATRIX = (1000, 5000)


class BatchCase(NamedTuple):
  """A batch and a solver.

  Attributes:
    shape: Shape of one signal: [H, W, C], [L, C] or, for a dense dictionary, [n].
    batch: Number of signals.
    solver: "admm" or "fista", which searches its step.
  """

  shape: tuple[int, ...]
  batch: int
  solver: str


SHAPES = {
  **{f"image{size}": (size, size, 1) for size in (20, 64, 128, 256, 512)},
  **{f"signal{length}": (length, 1) for length in (320, 4096, 16384, 65536, 262144)},
  "dense": MATRIX[:1],
}
CASES = {
  f"{name}_batch{batch}_{solver}": BatchCase(shape, batch, solver)
  for name, shape in SHAPES.items()
  for batch in (4, 16)
  for solver in ("admm", "fista")
  if batch * math.prod(shape) <= 2**20  # the codes have at most 128 MiB
}


def rows(cases: Sequence[str]) -> Iterator[dict[str, Any]]:
  """Measures the cases and yields a row for each.

  Args:
    cases: Names in `CASES`.
  """
  for name in cases:
    case = CASES[name]
    x, atoms = arrays(case)
    compiled = {
      layout: jax.jit(program).lower(x, atoms).compile() for layout, program in programs(case).items()
    }
    times = _median_times(compiled, x, atoms)
    yield {
      "suite": "batches",
      "case": name,
      **case._asdict(),
      "code_bytes": 4 * atoms.shape[-1] * math.prod(case.shape[:-1]),
      "iterations": ITERATIONS,
      "seconds": times["batch"][0],
      "map_seconds": times["map"][0],
      "cpu_seconds": times["batch"][1],
      "map_cpu_seconds": times["map"][1],
      "plan_bytes": planned_bytes(compiled["batch"]),
      "map_plan_bytes": planned_bytes(compiled["map"]),
      "device": jax.devices()[0].device_kind,
      "precision": "float32",
    }


def arrays(case: BatchCase) -> tuple[jax.Array, jax.Array]:
  """Returns random signals, and random atoms of norm 1: filters or a matrix."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(case.batch, *case.shape))
  atoms = rng.normal(size=FILTERS.get(len(case.shape) - 1, MATRIX))
  atoms /= np.sqrt(np.sum(np.square(atoms), axis=tuple(range(atoms.ndim - 1))))
  return jnp.asarray(x, jnp.float32), jnp.asarray(atoms, jnp.float32)


def programs(case: BatchCase) -> dict[str, Callable[[jax.Array, jax.Array], jax.Array]]:
  """Returns the two functions from signals and atoms to codes."""
  make_dictionary = ConvDictionary if len(case.shape) > 1 else MatrixDictionary
  solve: Callable = admm if case.solver == "admm" else partial(fista, step="adaptive")

  def encode(x: jax.Array, atoms: jax.Array) -> jax.Array:
    return solve(make_dictionary(atoms), x, BETA, iterations=ITERATIONS, record=()).code

  return {
    "batch": encode,
    "map": lambda x, atoms: jax.lax.map(lambda signal: encode(signal, atoms), x),
  }


def _median_times(compiled: dict[str, Callable], *arguments: jax.Array) -> dict[str, list[float]]:
  """Returns the median seconds and processor seconds of each program."""
  times = {name: [] for name in compiled}
  for _ in range(REPEATS + 1):
    for name, program in compiled.items():
      start, cpu_start = time.perf_counter(), time.process_time()
      jax.block_until_ready(program(*arguments))
      times[name].append((time.perf_counter() - start, time.process_time() - cpu_start))
  return {name: np.median(values[1:], axis=0).tolist() for name, values in times.items()}


def line(row: dict[str, Any]) -> str:
  """Formats a row of the printed table."""
  ratios = (row[name] / row[f"map_{name}"] for name in ("seconds", "cpu_seconds", "plan_bytes"))
  return (
    f"{row['case']:26}code {row['code_bytes'] / 2**20:6.2f} MiB{row['seconds']:9.4f} s"
    "  batch / map: {:5.2f}, processor time {:5.2f}, memory {:5.2f}".format(*ratios)
  )
