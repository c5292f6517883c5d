"""Suite `gradients`: the gradient through a solver against the number of its iterations.

Through the unrolled iterations, the same rematerialised, or implicitly at the code found.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
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
  """Measures the cases one after the other: 4 images 32x32, 16 filters 5x5, gradient by the filters."""
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
  """What XLA plans to hold: temporaries, arguments and results."""
  plan = compiled.memory_analysis()
  return plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes


def _loss(mode, iterations):
  def loss(filters, x):
    dictionary = ConvDictionary(filters, padding="CIRCULAR")
    result = solvers.fista(dictionary, x, 0.5, iterations=iterations, record=(), differentiate=mode)
    return jnp.sum(jnp.square(result.code))

  return loss


def _median_time(function, *arguments):
  seconds = []
  for _ in range(REPEATS + 1):
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[1:])


def line(row: dict[str, Any]) -> str:
  """A row for people."""
  return (
    f"{row['mode']:10}{row['iterations']:6d} iterations{row['seconds']:9.4f} s"
    f"  compile {row['compile_seconds']:5.2f} s  memory {row['peak_bytes'] / 2**20:8.2f} MiB"
  )
