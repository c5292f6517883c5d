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

from experiments.benchmarks.libraries import LIBRARIES
from experiments.benchmarks.objective import Objective

REPEATS = 3  # number of timed runs
LONG = 60.0  # seconds; a run that takes longer is not repeated


def answer(request: dict[str, Any]) -> dict[str, Any]:
  """Answers a request, which names a task, a solver and the .npz file of a problem."""
  with np.load(request["problem"], allow_pickle=False) as file:
    problem: dict[str, Any] = {
      name: file[name] if file[name].ndim else float(file[name]) for name in file
    }
  solver = LIBRARIES[request["library"]](request["solver"], **problem)
  if request["task"] == "count":
    counter = Counter(request["optimum"], request["gaps"])
    solver.trace(request["limit"], counter)
    return {"counts": counter.counts}
  row, code = measure(solver, request["iterations"])
  objective = Objective(problem["x"], problem["filters"], problem["beta"])
  return {**row, "reached": objective(code) / request["optimum"] - 1}


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
  """Measures a solver; returns the columns with its time and memory, and its code."""
  base = peak_memory()
  prepared = solver.prepare(iterations)
  if prepared.plan_bytes is not None:
    prepared.run()
  seconds, cpu_seconds = [], []
  for _ in range(REPEATS):
    start, cpu_start = time.perf_counter(), time.process_time()
    code = prepared.run()
    seconds.append(time.perf_counter() - start)
    cpu_seconds.append(time.process_time() - cpu_start)
    if seconds[0] > LONG:
      break
  peak = max(peak_memory(), base)  # the kernel updates its count in batches of pages, so it can lag
  row = {
    "seconds": statistics.median(seconds),
    "all_seconds": seconds,
    "cpu_seconds": statistics.median(cpu_seconds),
    "iterations": iterations,
    "compile_seconds": prepared.compile_seconds,
    "peak_bytes": peak,
    "base_bytes": base,
    "plan_bytes": prepared.plan_bytes,
  }
  return row, prepared.code(code)


def peak_memory() -> int:
  """Returns the peak resident memory of this process in bytes, including its libraries.

  The value comes from /proc if that exists, because `ru_maxrss` also counts the parent process.
  """
  status = pathlib.Path("/proc/self/status")
  if status.exists():
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
  print(json.dumps(answer(json.loads(sys.argv[1]))))
