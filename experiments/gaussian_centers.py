"""Reproduces Figure 3 of the paper, on points around Gaussian centers.

    python -m experiments.gaussian_centers --workdir=DIR

Draws points around 100 Gaussian centers in R^100, 10,000 for training and 2,000 for testing. ML-CSC and
MSD-CSC with two hidden layers classify them. After each training iteration the command counts the
dimensions of X that the code fails to reconstruct (Definition 1). It compares two pursuits: the Lasso
with signed codes, to which Theorem 1 applies, and the forward pass of a network, which is one iteration
for nonnegative codes.

Writes figure3.png and figure3.json to --workdir, and prints the verdict with its numbers. The last line
on stdout is a JSON object with the outcome. The command takes some minutes on two cores.

Exit code 2: bad flags, or the files cannot be written. Exit code 128 + n: signal n ended the command
before its results were complete; then nothing is written.
"""

import datetime
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from cscjax.runs import environment, replaced, write_json
from experiments import cli
from experiments.reproduction import figure3
from experiments.signals import remembered


def main() -> None:
  """Runs the experiment with the settings of the flags, and writes its results."""
  settings, workdir = settings_from_flags(), pathlib.Path(flags.FLAGS.workdir)
  with cli.writing("workdir", workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir):
      pass  # fail now, not after minutes
  start = time.monotonic()
  with jax.threefry_partitionable(True):  # the same random numbers in every environment
    results = figure3.run(settings, lambda line: print(line, file=sys.stderr, flush=True))
  seconds = round(time.monotonic() - start, 1)
  made = {"date": datetime.date.today().isoformat(), "seconds": seconds, **environment()}
  with remembered():  # the results are complete: a signal no longer stops the command
    with cli.writing("workdir", workdir):
      write_json(workdir / "figure3.json", {**made, **results})
      with replaced(workdir / "figure3.png") as scratch:
        figure3.figure(results).savefig(scratch, format="png", dpi=150)
    print(figure3.markdown(results))
    ends = {
      f"{run['model']}_{run['pursuit']}": [run["mean"]["end"], run["std"]["end"]]
      for run in results["runs"]
    }
    print(json.dumps({"outcome": results["outcome"], "failed_dimensions": ends, "seconds": seconds}))


def settings_from_flags() -> figure3.Settings:
  """Returns the settings of the parsed flags; raises UsageError if a value is out of range."""
  given = flags.FLAGS
  try:
    return figure3.Settings(
      beta=_numbers("beta", float),
      iterations=given.iterations,
      learning_rate=given.learning_rate,
      width=given.width,
      unfolding=given.unfolding,
      lasso_iterations=given.lasso_iterations,
      nonnegative=given.nonnegative,
      seeds=_numbers("seeds", int),
      beta_factors=_numbers("beta_factors", float),
    )
  except ValueError as error:
    raise cli.UsageError(f"--{error}") from error


def _numbers(name: str, kind: type[int] | type[float]) -> tuple[Any, ...]:
  texts = getattr(flags.FLAGS, name)
  try:
    return tuple(map(kind, texts))
  except ValueError:
    wanted = "integers" if kind is int else "numbers"
    raise ValueError(f"{name}: expected {wanted}, got {','.join(texts)!r}") from None


def define_flags() -> None:
  """Defines the flags of this command."""
  default = figure3.Settings()
  cli.define_path(
    "workdir", "runs/figure3", "Directory to which figure3.png and figure3.json are written."
  )
  flags.DEFINE_list(
    "beta",
    _texts(default.beta),
    "Penalty beta of each layer. A dimension fails if its error exceeds 2 beta of the first layer.",
  )
  flags.DEFINE_integer(
    "iterations", default.iterations, "Number of training iterations, with minibatches of 128 points."
  )
  flags.DEFINE_float("learning_rate", default.learning_rate, "Learning rate of SGD with momentum 0.9.")
  flags.DEFINE_integer(
    "width", default.width, "Number of atoms in each layer, without those of the identity."
  )
  flags.DEFINE_integer(
    "unfolding", default.unfolding, "Iterations of the forward pass after the first one."
  )
  flags.DEFINE_integer(
    "lasso_iterations", default.lasso_iterations, "Iterations of FISTA for the Lasso, in each layer."
  )
  flags.DEFINE_bool(
    "nonnegative", default.nonnegative, "Whether the codes of the Lasso are nonnegative too."
  )
  flags.DEFINE_list(
    "seeds",
    _texts(default.seeds),
    "Random seeds of the data, the parameters and the order; one run for each.",
  )
  flags.DEFINE_list(
    "beta_factors",
    _texts(default.beta_factors),
    "Factors of the penalties with which the first seed is repeated.",
  )


def _texts(values: Sequence[float]) -> list[str]:
  return [f"{value:g}" for value in values]


if __name__ == "__main__":
  define_flags()
  cli.run(main)
