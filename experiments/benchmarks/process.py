"""Measures one solver of one library in a separate process, whose peak memory is that of the solver.

    python -m experiments.benchmarks.process '{"task": "time", "library": ..., ...}'

prints one JSON object. The task is `count`, which counts the iterations until each gap, or `time`.
"""

import json
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.libraries import ADAPTERS
from experiments.benchmarks.objective import load

REPEATS = 3  # number of timed runs
LONG = 10.0  # seconds; a run that takes longer is not repeated


def answer(request: dict[str, Any]) -> dict[str, Any]:
  """Answers a request, which names a task, a solver and the .npz file of a problem."""
  problem = load(request["problem"])
  adapter = ADAPTERS[request["library"], type(problem).__name__]
  solver = adapter(request["solver"], problem)
  if request["task"] == "count":
    counter = Counter(request["optimum"], request["gaps"])
    solver.trace(request["limit"], counter)
    return {"counts": counter.counts}
  row, result = measure(solver, request["iterations"])
  return {**row, "reached": problem.objective()(result) / request["optimum"] - 1}


class Counter:
  """Finds the first iteration at which the relative gap (f - f*) / f* is at most each of `gaps`."""

  def __init__(self, optimum: float, gaps: Sequence[float]):
    self.optimum, self.gaps = optimum, gaps
    self.counts: list[int | None] = [None] * len(gaps)
    self.iteration = 0

  def __call__(self, objective: float) -> bool:
    """Takes the objective of the next iteration; returns True if all gaps are reached."""
    self.iteration += 1
    for i, gap in enumerate(self.gaps):
      if self.counts[i] is None and objective - self.optimum <= gap * self.optimum:
        self.counts[i] = self.iteration
    return None not in self.counts


def measure(solver: Any, iterations: int) -> tuple[dict[str, Any], np.ndarray]:
  """Measures a solver; returns the columns with its time and memory, and its code or filters."""
  base = peak_memory(solver.device)
  prepared = solver.prepare(iterations)
  seconds, cpu_seconds = [], []
  for _ in range(REPEATS):
    start, cpu_start = time.perf_counter(), time.process_time()
    result = prepared.run()
    seconds.append(time.perf_counter() - start)
    cpu_seconds.append(time.process_time() - cpu_start)
    if seconds[0] > LONG:
      break
  # The kernel updates its count in batches of pages, so it can lag.
  peak = max(peak_memory(solver.device), base)
  row = {
    "seconds": statistics.median(seconds),
    "all_seconds": seconds,
    "cpu_seconds": statistics.median(cpu_seconds),
    "iterations": iterations if prepared.tolerance is None else None,
    "tolerance": prepared.tolerance,
    "compile_seconds": prepared.compile_seconds,
    "peak_bytes": peak,
    "base_bytes": base,
    "plan_bytes": prepared.plan_bytes,
    "device": "cpu" if solver.device is None else solver.device.device_kind,
    "precision": solver.precision,
  }
  return row, prepared.result(result)


def peak_memory(device: Any = None) -> int:
  """Returns the peak memory in bytes: of a JAX device that counts it, such as a GPU, or of this process.

  The resident memory of the process includes its libraries. It comes from /proc if that exists, because
  `ru_maxrss` also counts the parent process.
  """
  counted = None if device is None else device.memory_stats()
  if counted:
    return counted["peak_bytes_in_use"]
  status = pathlib.Path("/proc/self/status")
  if status.exists():
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
  print(json.dumps(answer(json.loads(sys.argv[1]))))
