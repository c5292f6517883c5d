"""Suite `gradients`: time and memory of the gradient through a solver, by its number of iterations.

The gradient is computed through the unrolled iterations, through rematerialized iterations, or
implicitly at the solution.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cscjax import ConvDictionary, solvers

COUNTS = (10, 30, 100, 300, 1000)
CASES = {
  f"{mode}_{count}": (mode, count) for mode in ("unrolled", "remat", "implicit") for count in COUNTS
}
REPEATS = 5


def rows(cases: Sequence[str]) -> Iterator[dict[str, Any]]:
  """Measures the cases and yields a row for each.

  The gradient is with respect to 16 filters of 5x5, for 4 images of 32x32.

  Args:
    cases: Names in `CASES`.
  """
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(4, 32, 32, 1)), jnp.float32)
  filters = jnp.asarray(rng.normal(size=(5, 5, 1, 16)) / 5, jnp.float32)
  for case in cases:
    mode, iterations = CASES[case]
    start = time.perf_counter()
    gradient = jax.jit(jax.grad(_loss(mode, iterations))).lower(filters, x).compile()
    compile_seconds = time.perf_counter() - start
    yield {
      "suite": "gradients",
      "case": case,
      "mode": mode,
      "iterations": iterations,
      "seconds": _median_time(gradient, filters, x),
      "compile_seconds": compile_seconds,
      "peak_bytes": planned_bytes(gradient),
      "device": jax.devices()[0].device_kind,
      "precision": "float32",
    }


def planned_bytes(compiled: Any) -> int:
  """Returns the memory that XLA plans for a program: temporaries, arguments and results."""
  plan = compiled.memory_analysis()
  return plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes


def _loss(mode: Any, iterations: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
  def loss(filters: jax.Array, x: jax.Array) -> jax.Array:
    dictionary = ConvDictionary(filters, padding="CIRCULAR")
    result = solvers.fista(dictionary, x, 0.5, iterations=iterations, record=(), differentiate=mode)
    return jnp.sum(jnp.square(result.code))

  return loss


def _median_time(function: Callable, *arguments: jax.Array) -> float:
  seconds = []
  for _ in range(REPEATS + 1):
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[1:])


def line(row: dict[str, Any]) -> str:
  """Formats a row of the printed table."""
  return (
    f"{row['mode']:10}{row['iterations']:6d} iterations{row['seconds']:9.4f} s"
    f"  compile {row['compile_seconds']:5.2f} s  memory {row['peak_bytes'] / 2**20:8.2f} MiB"
  )
