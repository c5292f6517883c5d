"""Suite `solvers`: time to a relative objective gap, beside SPORCO and SCICO.

The gap is (f - f*) / f*, f* from `references`. For each solver the iterations until the gap are
counted once; then that many are timed from code 0, recording nothing, each in a process of its own.
The code that was timed is judged in float64, the same way for all libraries.
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
LIMIT = 500  # iterations
OURS = ("cscjax/admm", "cscjax/fista_adaptive", "cscjax/fista")
SOLVERS = (*OURS, "cscjax/admm_map", "sporco/admm", "sporco/pgm", "scico/admm")


def rows(cases: Sequence[str], solvers: Sequence[str], scico_python: str) -> Iterator[dict[str, Any]]:
  """Measures the cases one after the other, the solvers side by side at each gap.

  Args:
    cases: Names of `problems.CASES`.
    solvers: Of `SOLVERS`, those whose library is missing are left out, with a line on stderr.
    scico_python: The interpreter that has SCICO, which may need another JAX than ours.
  """
  unknown = [solver for solver in solvers if solver not in SOLVERS]
  if unknown:
    raise cli.UsageError(f"--solvers: unknown {', '.join(unknown)}; there are {', '.join(SOLVERS)}")
  pythons = {"cscjax": sys.executable, "sporco": sys.executable, "scico": scico_python}
  for library in [library for library in pythons if not _has(pythons[library], library)]:
    print(f"{library} is not installed in {pythons[library]}: its rows are left out", file=sys.stderr)
    solvers = [solver for solver in solvers if not solver.startswith(library)]
  for case in cases:
    problem, reference = problems.make(case), references.load(case)
    references.check(case, reference, problem)
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder, "problem.npz")
      np.savez(path, **problem._asdict(), lipschitz=Objective(*problem).lipschitz())
      yield from _rows_of_case(case, path, reference, [s for s in solvers if fits(s, problem)], pythons)


def fits(solver: str, problem: problems.Problem) -> bool:
  """Whether the library can do the problem that way."""
  if solver.startswith("scico"):
    return problem.x.shape[-1] == 1
  return not solver.endswith("_map") or len(problem.x) > 1


def _rows_of_case(case, path, reference, solvers, pythons):
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


def _time(python, request, iterations, gap):
  """Rounding in a trace of float32 can make the count short by a few."""
  while iterations is not None and iterations <= LIMIT:
    found = _ask(python, {**request, "iterations": iterations})
    if "error" in found or found["reached"] <= gap:
      return found
    iterations += 1 + iterations // 100
  return {"error": f"not reached in {LIMIT} iterations"}


def _ask(python, request):
  """The answer of a process of its own; what it died of under "error"."""
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


def _has(python, library):
  check = f"import importlib.util as u, sys; sys.exit(u.find_spec('{library}') is None)"
  try:
    return subprocess.run([python, "-c", check], check=False).returncode == 0
  except OSError as error:
    raise cli.UsageError(f"--scico_python: {error}") from error


def line(row: dict[str, Any]) -> str:
  """A row for people."""
  start = f"{row['case']:12}{row['library'] + '/' + row['solver']:24}{row['gap']:7.0e}"
  if "error" in row:
    return f"{start}  {row['error']}"
  return (
    f"{start}{row['seconds']:9.3f} s{row['iterations']:5d} iterations"
    f"  compile {row['compile_seconds']:5.2f} s  memory {row['peak_bytes'] / 2**20:6.0f} MiB"
    f" (of it {row['base_bytes'] / 2**20:.0f} before)"
  )
