"""The minima f* of the problems of the suite `solvers`, and the command that computes them.

    python -m experiments.benchmarks.references

solves each problem in float64 and writes solver_references.json. Some problems take minutes.

ADMM in the Fourier domain, without any code of the libraries, solves the problems of `Coding`.
scikit-learn solves that of `DenseLasso`; the accuracy is its duality gap. For `Learning`, the reference
is not a minimum, but the smallest held-out objective that a library's learner has after many passes.
"""

import itertools
import json
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np
from absl import flags

from cscjax.extras import needs
from cscjax.runs import write_json
from experiments import cli
from experiments.benchmarks import peers, problems
from experiments.benchmarks.objective import (
  HELD_TOLERANCE,
  TEST_PERIOD,
  Coding,
  DenseLasso,
  Learning,
  Problem,
  save,
)

PATH = pathlib.Path(__file__).with_name("solver_references.json")
ITERATIONS = {"china128x16": 2000, "g256x32": 1000, "b16x128x32": 600, "s10x1000x10": 2000}
OTHER_ITERATIONS = 400
LEARNING_PASSES = 20


class Reference(NamedTuple):
  """The minimum of a problem.

  Attributes:
    optimum: Minimum f*, the smallest objective of all iterations, summed over the batch.
    accuracy: Relative decrease of the objective over the last fifth of the iterations, or the relative
      duality gap.
    energy: Energy 1/2 ||x||^2 of the signals, which detects a problem with other images.
  """

  optimum: float
  accuracy: float
  energy: float


def load(case: str) -> Reference:
  """Returns the stored reference of a case."""
  return Reference(**json.loads(PATH.read_text())[case])


def check(case: str, reference: Reference, problem: Problem) -> None:
  """Raises UsageError if a problem is not the one of its reference."""
  energy = _energy(problem)
  if not np.isclose(energy, reference.energy, rtol=1e-5):
    raise cli.UsageError(f"--cases: {case} is not the reference's problem (other versions of its data?)")


def make_coding(problem: Coding, iterations: int) -> Reference:
  """Solves a problem with ADMM; the objective is computed after every tenth iteration."""
  objective, trace = problem.objective(), np.zeros(iterations // TEST_PERIOD)
  for x in objective.x:
    codes = itertools.islice(objective.iterates(x), TEST_PERIOD - 1, iterations, TEST_PERIOD)
    trace += [objective.of_one(x, code) for code in codes]
  best = np.minimum.accumulate(trace)
  fall = best[len(best) * 4 // 5] - best[-1]
  return Reference(float(best[-1]), float(fall / best[-1]), _energy(problem))


def make_learning(problem: Learning, peer_python: str | None, passes: int) -> Reference:
  """Runs the learners and returns the smallest objective."""
  found = []
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "problem.npz")
    save(path, problem)
    for library, python in peers.interpreters(peers.LEARNERS, peer_python).items():
      for name in peers.LEARNERS:
        if name.startswith(f"{library}/") and peers.fits(name, problem):
          request = {"problem": str(path), "optimum": 1.0, "iterations": passes}
          found.append(1 + peers.ask(python, name, task="time", **request)["reached"])
          print(name, found[-1], flush=True)
  return Reference(min(found), HELD_TOLERANCE, _energy(problem))


def make_lasso(problem: DenseLasso) -> Reference:
  """Returns the minimum of scikit-learn in float64."""
  matrix, (x,) = problem.matrix.astype(np.float64), problem.x.astype(np.float64)
  with needs("bench", "the reference of a dense Lasso needs scikit-learn"):
    from sklearn import linear_model
  model = linear_model.Lasso(problem.beta / len(x), fit_intercept=False, tol=1e-12, max_iter=100_000)
  optimum = problem.objective()(model.fit(matrix, x).coef_[None])
  return Reference(optimum, float(model.dual_gap_) * len(x) / optimum, _energy(problem))


def _energy(problem: Problem) -> float:
  return float(0.5 * np.sum(np.square(problem.x.astype(np.float64))))


def main() -> None:
  """Computes the references of the cases and stores them after each case."""
  stored = json.loads(PATH.read_text()) if PATH.exists() else {}
  for case in flags.FLAGS.cases or problems.CASES:
    problem = problems.make(case)
    if isinstance(problem, Coding):
      reference = make_coding(problem, ITERATIONS.get(case, OTHER_ITERATIONS))
    elif isinstance(problem, DenseLasso):
      reference = make_lasso(problem)
    else:
      reference = make_learning(problem, flags.FLAGS.peer_python, LEARNING_PASSES)
    stored[case] = reference._asdict()
    write_json(PATH, stored)
    print(case, reference, flush=True)


if __name__ == "__main__":
  flags.DEFINE_list("cases", None, "Cases to solve. Default: all.")
  cli.define_path("peer_python", None, "Python interpreter with the learners that are missing here.")
  cli.run(main)
