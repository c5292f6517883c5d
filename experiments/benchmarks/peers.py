"""The solvers that the suite `solvers` compares, and the processes that run them."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from experiments import cli
from experiments.benchmarks.objective import Coding, DenseLasso, Problem

OURS = "cscjax"
SOLVERS = (
  "cscjax/admm",
  "cscjax/admm_map",
  "cscjax/fista_adaptive",
  "cscjax/fista",
  "cscjax/working_set",
  "cscjax/learn",
  "sporco/admm",
  "sporco/pgm",
  "sporco/online",
  "scico/admm",
  "alphacsc/lgcd",
  "alphacsc/fista",
  "alphacsc/online",
  "sklearn/cd",
  "celer/celer",
)
LEARNERS = ("cscjax/learn", "sporco/online", "alphacsc/online")
GENERAL_SOLVERS = ("cscjax/admm", "cscjax/fista_adaptive", "cscjax/fista")
DENSE_SOLVERS = ("cscjax/working_set", "sklearn/cd", "celer/celer")


def fits(name: str, problem: Problem) -> bool:
  """Whether a solver is made for a problem.

  SCICO's needs grayscale images, `_map` a batch, and alphacsc one-dimensional signals whose codes are
  nonnegative, with "VALID" padding. SPORCO learns with circular boundaries.
  """
  library = name.split("/")[0]
  if isinstance(problem, DenseLasso):
    return name in GENERAL_SOLVERS + DENSE_SOLVERS
  if name in DENSE_SOLVERS:
    return False
  is_valid = problem.padding == "VALID"
  if not isinstance(problem, Coding):
    return name in LEARNERS and library != ("sporco" if is_valid else "alphacsc")
  if name in LEARNERS:
    return False
  if library == "scico":
    return not is_valid and problem.x.shape[-1] == 1
  if library == "alphacsc":
    return is_valid and problem.nonnegative
  return not name.endswith("_map") or len(problem.x) > 1


def interpreters(names: Sequence[str], peer_python: str | None) -> dict[str, str]:
  """Returns the Python interpreter of each library whose solvers are named.

  A library that is not installed in this interpreter is looked for in `peer_python`. One that is in
  neither is left out, with a message on stderr.

  Raises:
    UsageError: If a solver is unknown, or if `peer_python` cannot be executed.
  """
  unknown = [name for name in names if name not in SOLVERS]
  if unknown:
    raise cli.UsageError(f"--solvers: unknown {', '.join(unknown)}; there are {', '.join(SOLVERS)}")
  found = {}
  places = [sys.executable, *([peer_python] if peer_python else [])]
  for library in dict.fromkeys(name.split("/")[0] for name in names):
    for python in places:
      if has(python, library):
        found[library] = python
        break
    else:
      where = " or ".join(places)
      print(f"{library} is not installed in {where}: its rows are skipped", file=sys.stderr)
  return found


def has(python: str, library: str) -> bool:
  """Whether a library is installed for the interpreter `python`."""
  check = f"import importlib.util as u, sys; sys.exit(u.find_spec('{library}') is None)"
  try:
    return subprocess.run([python, "-c", check], check=False).returncode == 0
  except OSError as error:
    raise cli.UsageError(f"--peer_python: {error}") from error


def ask(python: str, name: str, **request: Any) -> dict[str, Any]:
  """Returns the answer of a separate process about a solver.

  If the process fails, the answer is {"error": ...} with the last line of its error.
  """
  library, solver = name.split("/")
  done = subprocess.run(
    [
      *(python, "-m", "experiments.benchmarks.process"),
      json.dumps({"library": library, "solver": solver, **request}),
    ],
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    return {"error": " ".join((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1:])}
  return json.loads(done.stdout.splitlines()[-1])
