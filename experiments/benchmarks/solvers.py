"""Suite `solvers`: time to a relative objective gap, compared with SPORCO and SCICO.

The gap is (f - f*) / f* with f* from `references`. The suite first counts the iterations that a solver
needs for each gap. Then it times that number of iterations from the code 0, without recording anything,
each in a separate process. The objective of the resulting code is computed in float64, in the same way
for all libraries.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experiments import cli
from experiments.benchmarks import problems, references
from experiments.benchmarks.objective import Objective

GAPS = (1e-2, 1e-3, 1e-5)
LIMIT = 500  # largest number of iterations
OURS = ("cscjax/admm", "cscjax/fista_adaptive", "cscjax/fista")
SOLVERS = (*OURS, "cscjax/admm_map", "sporco/admm", "sporco/pgm", "scico/admm")


def rows(cases: Sequence[str], solvers: Sequence[str], scico_python: str) -> Iterator[dict[str, Any]]:
  """Measures the cases and yields a row for each gap and solver.

  Args:
    cases: Names in `problems.CASES`.
    solvers: Names in `SOLVERS`. Solvers of a missing library are skipped, with a message on stderr.
    scico_python: Python interpreter with SCICO, which may need another version of JAX than ours.

  Raises:
    UsageError: If a solver is unknown, or if `scico_python` cannot be executed.
  """
  unknown = [solver for solver in solvers if solver not in SOLVERS]
  if unknown:
    raise cli.UsageError(f"--solvers: unknown {', '.join(unknown)}; there are {', '.join(SOLVERS)}")
  pythons = {"cscjax": sys.executable, "sporco": sys.executable, "scico": scico_python}
  for library in [library for library in pythons if not _has(pythons[library], library)]:
    print(f"{library} is not installed in {pythons[library]}: its rows are skipped", file=sys.stderr)
    solvers = [solver for solver in solvers if not solver.startswith(library)]
  for case in cases:
    problem, reference = problems.make(case), references.load(case)
    references.check(case, reference, problem)
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder, "problem.npz")
      np.savez(path, **problem._asdict(), lipschitz=Objective(*problem).lipschitz())
      yield from _rows_of_case(case, path, reference, [s for s in solvers if fits(s, problem)], pythons)


def fits(solver: str, problem: problems.Problem) -> bool:
  """Whether a solver supports a problem: SCICO needs grayscale images, and `_map` a batch."""
  if solver.startswith("scico"):
    return problem.x.shape[-1] == 1
  return not solver.endswith("_map") or len(problem.x) > 1


def _rows_of_case(
  case: str,
  path: pathlib.Path,
  reference: references.Reference,
  solvers: Sequence[str],
  pythons: dict[str, str],
) -> Iterator[dict[str, Any]]:
  """Measures the solvers on one problem, for the gaps that its reference is accurate enough for."""
  gaps = [gap for gap in GAPS if reference.accuracy <= gap / 10]
  common = {"problem": str(path), "optimum": reference.optimum}
  counts = {}
  for name in solvers:
    library, solver = name.split("/")
    request = {**common, "task": "count", "library": library, "solver": solver}
    counts[name] = _ask(pythons[library], {**request, "gaps": gaps, "limit": LIMIT})
  for i, gap in enumerate(gaps):
    for name in solvers:
      library, solver = name.split("/")
      row = {"suite": "solvers", "case": case, "solver": solver, "library": library, "gap": gap}
      found = counts[name]
      if "counts" in found:
        request = {**common, "task": "time", "library": library, "solver": solver}
        found = _time(pythons[library], request, found["counts"][i], gap)
      yield {**row, **_NOTHING, **found, "device": jax.devices()[0].device_kind, "precision": "float32"}


_NOTHING = dict.fromkeys(
  (
    "seconds",
    "cpu_seconds",
    "iterations",
    "compile_seconds",
    "peak_bytes",
    "base_bytes",
    "plan_bytes",
    "reached",
  )
)


def _time(python: str, request: dict[str, Any], iterations: int | None, gap: float) -> dict[str, Any]:
  """Times a solver, with more iterations than counted if these miss the gap.

  The count can be a few iterations too small because of rounding errors in a float32 objective.
  """
  while iterations is not None and iterations <= LIMIT:
    found = _ask(python, {**request, "iterations": iterations})
    if "error" in found or found["reached"] <= gap:
      return found
    iterations += 1 + iterations // 100
  return {"error": f"not reached in {LIMIT} iterations"}


def _ask(python: str, request: dict[str, Any]) -> dict[str, Any]:
  """Returns the answer of a separate process, or {"error": ...} with the last line of its error."""
  root = str(pathlib.Path(__file__).parents[2])
  done = subprocess.run(
    [python, "-m", "experiments.benchmarks.process", json.dumps(request)],
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    return {"error": " ".join((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1:])}
  return json.loads(done.stdout.splitlines()[-1])


def _has(python: str, library: str) -> bool:
  """Whether a library is installed for the interpreter `python`."""
  check = f"import importlib.util as u, sys; sys.exit(u.find_spec('{library}') is None)"
  try:
    return subprocess.run([python, "-c", check], check=False).returncode == 0
  except OSError as error:
    raise cli.UsageError(f"--scico_python: {error}") from error


def line(row: dict[str, Any]) -> str:
  """Formats a row of the printed table."""
  start = f"{row['case']:12}{row['library'] + '/' + row['solver']:24}{row['gap']:7.0e}"
  if "error" in row:
    return f"{start}  {row['error']}"
  return (
    f"{start}{row['seconds']:9.3f} s{row['iterations']:5d} iterations"
    f"  compile {row['compile_seconds']:5.2f} s  memory {row['peak_bytes'] / 2**20:6.0f} MiB"
    f" ({row['base_bytes'] / 2**20:.0f} before the solve)"
  )
