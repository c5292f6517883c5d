"""Suite `solvers`: time to a relative objective gap, compared with other libraries.

The gap is (f - f*) / f* with f* from `references`. The suite first counts the iterations that a solver
needs for each gap. Then it times that number of iterations from the code 0, without recording anything,
in separate processes, of which the one with the median time counts. The objective of the resulting code
is computed in float64, in the same way for all libraries. In the problems of learning, the result is a
dictionary, an iteration a pass over the signals, and f the minimum over the codes of held-out signals.

Other libraries run on the CPU, also if cscjax uses a GPU.
"""

import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax

from experiments.benchmarks import peers, problems, references
from experiments.benchmarks.objective import Learning, Problem, save

GAPS = (1e-2, 1e-3, 1e-5)
LEARNING_GAPS = (1e-1, 5e-2, 2e-2, 1e-2)  # learning is not convex: its minima differ by about 1 %
LIMIT = 500  # largest number of iterations
LEARNING_LIMIT = 20  # largest number of passes
PROCESSES = 3  # number of processes: on a shared machine, some are slower from start to end
LONG = 5.0  # seconds of a run from which one process is enough


def rows(
  cases: Sequence[str], names: Sequence[str], peer_python: str | None
) -> Iterator[dict[str, Any]]:
  """Measures the cases and yields a row for each gap and solver.

  Args:
    cases: Names in `problems.CASES`.
    names: Names in `peers.SOLVERS`. Solvers of a missing library are skipped, with a message on stderr.
    peer_python: Python interpreter with the libraries that are missing in this one.

  Raises:
    UsageError: If a solver is unknown, or if `peer_python` cannot be executed.
  """
  pythons = peers.interpreters(names, peer_python)
  for case in cases:
    with jax.default_device(jax.devices("cpu")[0]):  # a GPU's memory is for the measured processes
      problem = problems.make(case)
    reference = references.load(case)
    references.check(case, reference, problem)
    fitting = [name for name in names if name.split("/")[0] in pythons and peers.fits(name, problem)]
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder, "problem.npz")
      save(path, problem)
      yield from _rows_of_case(case, problem, path, reference, fitting, pythons)


def _rows_of_case(
  case: str,
  problem: Problem,
  path: pathlib.Path,
  reference: references.Reference,
  names: Sequence[str],
  pythons: dict[str, str],
) -> Iterator[dict[str, Any]]:
  """Measures the solvers on one problem, for the gaps that its reference is accurate enough for."""
  all_gaps, limit = (GAPS, LIMIT)
  if isinstance(problem, Learning):
    all_gaps, limit = (LEARNING_GAPS, LEARNING_LIMIT)
  gaps = [gap for gap in all_gaps if reference.accuracy <= gap / 10]
  counts = {}
  for name in names:
    python = pythons[name.split("/")[0]]
    request = {"problem": str(path), "optimum": reference.optimum, "gaps": gaps, "limit": limit}
    counts[name] = peers.ask(python, name, task="count", **request)
  for i, gap in enumerate(gaps):
    for name in names:
      library, solver = name.split("/")
      row = {"suite": "solvers", "case": case, "solver": solver, "library": library, "gap": gap}
      found = counts[name]
      if "counts" in found:
        request = {"problem": str(path), "optimum": reference.optimum}
        found = _time(pythons[library], name, request, found["counts"][i], gap, limit)
      yield {**row, **_NOTHING, **found}


_NOTHING = dict.fromkeys(
  (
    "seconds",
    "cpu_seconds",
    "iterations",
    "tolerance",
    "compile_seconds",
    "peak_bytes",
    "base_bytes",
    "plan_bytes",
    "reached",
    "device",
    "precision",
  )
)


def _time(
  python: str, name: str, request: dict[str, Any], iterations: int | None, gap: float, limit: int
) -> dict[str, Any]:
  """Times a solver, with more iterations than counted if these miss the gap.

  The count can be a few iterations too small because of rounding errors in a float32 objective.
  """
  while iterations is not None and iterations <= limit:
    ask = partial(peers.ask, python, name, task="time", iterations=iterations, **request)
    found = ask()
    if "error" in found:
      return found
    if found["reached"] <= gap:
      repeated = [ask() for _ in range(PROCESSES - 1)] if found["seconds"] < LONG else []
      timed = [row for row in [found, *repeated] if "error" not in row]
      return sorted(timed, key=lambda row: row["seconds"])[len(timed) // 2]
    iterations += 1 + iterations // 100
  return {"error": f"not reached in {limit} iterations"}


def line(row: dict[str, Any]) -> str:
  """Formats a row of the printed table."""
  start = f"{row['case']:16}{row['library'] + '/' + row['solver']:24}{row['gap']:7.0e}"
  if "error" in row:
    return f"{start}  {row['error']}"
  count = (
    f"{row['iterations']:5d} iterations"
    if row["tolerance"] is None
    else f" tolerance {row['tolerance']:6.0e}"
  )
  return (
    f"{start}{row['seconds']:9.3f} s{count}"
    f"  compile {row['compile_seconds']:5.2f} s  memory {row['peak_bytes'] / 2**20:6.0f} MiB"
    f" ({row['base_bytes'] / 2**20:.0f} before the solve)"
  )
