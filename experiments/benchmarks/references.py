"""The minima f* of the problems of the suite `solvers`, and the command that computes them.

    python -m experiments.benchmarks.references

solves each problem in float64 and writes solver_references.json. Some problems take minutes.
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np
from absl import flags

from experiments import cli
from experiments.benchmarks import problems
from experiments.benchmarks.objective import Objective

PATH = pathlib.Path(__file__).with_name("solver_references.json")
ITERATIONS = {"china128x16": 2000, "g256x32": 1000, "b16x128x32": 600}
OTHER_ITERATIONS = 400
RHO = 1.0  # penalty parameter; for atoms of norm 1 adapting it does not help
RELAXATION = 1.8


class Reference(NamedTuple):
  """The minimum of a problem.

  Attributes:
    optimum: Minimum f*, the smallest objective of all iterations, summed over the batch.
    accuracy: Relative decrease of the objective over the last fifth of the iterations.
    energy: Energy 1/2 ||x||^2 of the signals, which detects a problem with other images.
  """

  optimum: float
  accuracy: float
  energy: float


def load(case: str) -> Reference:
  """Returns the stored reference of a case."""
  return Reference(**json.loads(PATH.read_text())[case])


def check(case: str, reference: Reference, problem: problems.Problem) -> None:
  """Raises UsageError if a problem is not the one of its reference."""
  energy = _energy(problem)
  if not np.isclose(energy, reference.energy, rtol=1e-5):
    raise cli.UsageError(f"--cases: {case} is not the reference's problem (other versions of its data?)")


def make(problem: problems.Problem, iterations: int) -> Reference:
  """Solves a problem in float64 with ADMM in the Fourier domain, without any code of cscjax."""
  objective = Objective(*problem)
  trace = sum(_descend(objective, image, iterations) for image in objective.x)
  best = np.minimum.accumulate(trace)
  fall = best[len(best) * 4 // 5] - best[-1]
  return Reference(float(best[-1]), float(fall / best[-1]), _energy(problem))


def _descend(objective: Objective, x: np.ndarray, iterations: int) -> np.ndarray:
  """Returns the objective of one image after every tenth iteration of Douglas-Rachford splitting.

  The iteration, with relaxation a and penalty parameter r, is

      P <- P + a (Y + D^T (r I + D D^T)^-1 (x - D (2 Y - P)) - P),  Y = soft(P, beta / r).
  """
  spectrum = objective.spectrum  # [H, W', C, m]
  gram = spectrum @ np.conj(np.swapaxes(spectrum, 2, 3))
  inverse = np.linalg.inv(gram + RHO * np.eye(x.shape[-1]))
  target = np.fft.rfft2(x, axes=(0, 1))
  point = np.zeros((*x.shape[:2], spectrum.shape[-1]))
  trace = []
  for i in range(1, iterations + 1):
    near = np.sign(point) * np.maximum(np.abs(point) - objective.beta / RHO, 0)
    reflected = np.fft.rfft2(2 * near - point, axes=(0, 1))
    residual = inverse @ (target[..., None] - spectrum @ reflected[..., None])
    correction = (np.conj(np.swapaxes(spectrum, 2, 3)) @ residual)[..., 0]
    point += RELAXATION * (near - point + np.fft.irfft2(correction, x.shape[:2], axes=(0, 1)))
    if i % 10 == 0:
      trace.append(objective.of_one(x, near))
  return np.array(trace)


def _energy(problem: problems.Problem) -> float:
  return float(0.5 * np.sum(np.square(problem.x.astype(np.float64))))


def main() -> None:
  """Computes the references of the cases and stores them after each case."""
  stored = json.loads(PATH.read_text()) if PATH.exists() else {}
  for case in flags.FLAGS.cases or problems.CASES:
    reference = make(problems.make(case), ITERATIONS.get(case, OTHER_ITERATIONS))
    stored[case] = reference._asdict()
    PATH.write_text(json.dumps(stored, indent=2) + "\n")
    print(case, reference, flush=True)


if __name__ == "__main__":
  flags.DEFINE_list("cases", None, "Cases to solve. Default: all.")
  cli.run(main)
