"""Figure 3 of the paper: python -m experiments.gaussian_centers --workdir=DIR.

Points around 100 Gaussian centres in R^100, 10,000 to train on and 2,000 to test, are classified by
ML-CSC and MSD-CSC with two hidden layers; after each training iteration the dimensions of X are
counted that the code fails to reconstruct (Definition 1). With two pursuits: the Lasso solved for signed
codes, which Theorem 1 is about, and the forward pass of a network, one iteration for codes >= 0.
Writes figure3.png and figure3.json to --workdir; the last line on stdout is one JSON object with
the outcome. Some minutes on two cores.

Exit code 2 for bad flags or where the files cannot be written; 128 + n where signal n has ended the
command before its results were known: then nothing is written.
"""

import datetime
import json
import pathlib
import sys
import tempfile
import time

import jax
from absl import flags

from cscjax.runs import environment, replaced, write_json
from experiments import cli
from experiments.reproduction import figure3
from experiments.signals import remembered


def main() -> None:
  """Runs what the flags ask for."""
  settings, workdir = settings_from_flags(), pathlib.Path(flags.FLAGS.workdir)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir):
      pass  # refused now, not after minutes
  except OSError as error:
    raise cli.UsageError(f"--workdir: cannot write to {workdir}: {error.strerror}") from error
  start = time.monotonic()
  with jax.threefry_partitionable(True):  # whatever the environment says
    results = figure3.run(settings, lambda line: print(line, file=sys.stderr, flush=True))
  seconds = round(time.monotonic() - start, 1)
  made = {"date": datetime.date.today().isoformat(), "seconds": seconds, **environment()}
  with remembered():  # a signal comes too late to matter
    try:
      write_json(workdir / "figure3.json", {**made, **results})
      with replaced(workdir / "figure3.png") as scratch:
        figure3.figure(results).savefig(scratch, format="png", dpi=150)
    except OSError as error:
      raise cli.UsageError(f"--workdir: {workdir}: {error}") from error
    print(results["verdict"])
    ends = {
      f"{run['model']}_{run['pursuit']}": [run["mean"]["end"], run["std"]["end"]]
      for run in results["runs"]
    }
    print(json.dumps({"outcome": results["outcome"], "failed_dimensions": ends, "seconds": seconds}))


def settings_from_flags() -> figure3.Settings:
  """The settings that the parsed flags ask for; UsageError where a value is out of range."""
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


def _numbers(name, kind):
  texts = getattr(flags.FLAGS, name)
  try:
    return tuple(map(kind, texts))
  except ValueError:
    wanted = "integers" if kind is int else "numbers"
    raise ValueError(f"{name}: expected {wanted}, got {','.join(texts)!r}") from None


def define_flags() -> None:
  """Defines this command's flags."""
  default = figure3.Settings()
  cli.define_path("workdir", "runs/figure3", "Where figure3.png and figure3.json are written.")
  flags.DEFINE_list("beta", _texts(default.beta), "Penalty of each layer; 2 beta of the first counts.")
  flags.DEFINE_integer("iterations", default.iterations, "Training iterations, minibatches of 128.")
  flags.DEFINE_float("learning_rate", default.learning_rate, "Rate of SGD with momentum 0.9.")
  flags.DEFINE_integer("width", default.width, "Atoms of each layer, beside the identity's.")
  flags.DEFINE_integer("unfolding", default.unfolding, "Iterations of the forward pass after the first.")
  flags.DEFINE_integer(
    "lasso_iterations", default.lasso_iterations, "Iterations of FISTA in each layer."
  )
  flags.DEFINE_bool("nonnegative", default.nonnegative, "Non-negative codes for the Lasso too.")
  flags.DEFINE_list("seeds", _texts(default.seeds), "Of data, parameters and order.")
  flags.DEFINE_list(
    "beta_factors", _texts(default.beta_factors), "Of the penalties, to repeat the first seed with."
  )


def _texts(values):
  return [f"{value:g}" for value in values]


if __name__ == "__main__":
  define_flags()
  cli.run(main)
