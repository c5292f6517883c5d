"""Compares the robustness of the ten systems of the paper on the digits.

    python -m experiments.robustness --results=experiments/results/robustness.jsonl

Trains the systems of Tables 2 and 3 at their smallest depth, with 8 channels, on scikit-learn's digits,
each with several seeds, and certifies the labels of the first test images, see
`cscjax.theory.certify_labels`. Stores a row for each network in --results, where it replaces a row with
the same system, seed and settings, and prints two tables in Markdown: one of the systems, and one of the
ratios between systems, which shows whether unfolding, or MSD-CSC in place of MSDNet, changes the
robustness. A run in --workdir that has ended is not trained again.
"""

import functools
import math
import pathlib
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags as absl_flags

from cscjax import runs
from experiments import cli, text_tables
from experiments.cli import UsageError
from experiments.reproduction.claims import paired
from experiments.reproduction.paper import ROWS
from experiments.reproduction.studies import Job, Study
from experiments.result_rows import Row, provenance, stored

STUDY = Study("digits", "reduced")
WIDTH = 8
"""Channels of the first stage or layer, or of each layer of the MSD networks; half or a quarter of the
paper's, so that two CPU cores need minutes."""
SYSTEMS = (
  *("plain20", "res_csc_simplified20", "resnet20", "res_csc20"),
  *("feed_forward", "ml_csc_u2", "ml_csc_u2_fista", "msdnet6", "msdcsc6_u2", "msdcsc6_u2_fista"),
)
PAIRS = (
  *(("ml_csc_u2", "feed_forward"), ("ml_csc_u2_fista", "feed_forward")),
  *(("msdcsc6_u2", "msdnet6"), ("msdcsc6_u2_fista", "msdnet6")),
  *(("res_csc20", "resnet20"), ("res_csc20", "plain20")),
)
"""The systems whose ratios are shown: with unfolding or corrections, and without."""
CASE = ("system", "seed", "width", "epochs", "images", "steps")
"""The fields of a row that say what was measured."""
MEASURES = {
  "lipschitz": "Lipschitz constant",
  "jacobian_norm": "Jacobian's norm",
  "certified_radius": "certified radius",
  "attack_radius": "attack's radius",
}


def rows(
  systems: Sequence[str],
  seeds: Sequence[int],
  images: int,
  steps: int,
  workdir: pathlib.Path,
  **changes: Any,
) -> Iterator[Row]:
  """Trains networks and yields their measurements, one seed after the other.

  Args:
    systems: Names of rows of the paper's tables.
    seeds: Seeds of the runs.
    images: Number of test images, the first ones of the test set.
    steps: Gradient steps of each part of the attack.
    workdir: Folder in which each run has its workdir.
    **changes: Fields of `runs.Config` that replace those of the study.

  Raises:
    UsageError: If a run diverged.
  """
  for seed in seeds:
    for name in systems:
      path = workdir / f"{name}-seed{seed}"
      config = Job(ROWS[name], STUDY, seed).config(**{"width": WIDTH, "workdir": str(path)} | changes)
      summary = runs.execute(runs.make_run(config), progress=False)
      if summary["status"] != "ok":
        raise UsageError(f"the run in {path} ended with the status {summary['status']}")
      yield {
        **{"system": name, "seed": seed, "width": config.width, "epochs": config.epochs},
        **{key: summary[key] for key in ("parameters", "test_accuracy")},
        **certified(runs.load_run(path), images, steps),
        **provenance(),
      }


def certified(network: runs.LoadedRun, images: int, steps: int) -> Row:
  """Returns the medians over test images of what `certify_labels` finds, and the Lipschitz constant."""
  test = network.load_dataset().test.images[:images]
  found = network.certify_labels(test, steps=steps)
  gains = np.asarray(_gains(network.model, test.shape[1:], network.variables))
  is_valid = np.asarray(found.certified_radius <= found.attack_radius)
  return {
    "images": len(test),
    "steps": steps,
    "lipschitz": float(gains.max()),
    **{
      name: float(np.median(getattr(found, name)))
      for name in ("margin", "jacobian_norm", "certified_radius", "attack_radius")
    },
    "certified_below_attack": float(is_valid.mean()),
  }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gains(model: Any, signal_shape: tuple[int, ...], variables: Any) -> jax.Array:
  return model.bind(variables).margin_gains(signal_shape)


def systems_table(found: Iterable[Row]) -> str:
  """Returns the table of the systems: medians over the seeds, with the smallest and largest values."""
  found = list(found)
  head = ("system", "parameters", "test accuracy, %", *MEASURES.values(), "certified <= attack")
  lines = []
  for name in dict.fromkeys(row["system"] for row in found):
    group = [row for row in found if row["system"] == name]
    accuracies = [100 * row["test_accuracy"] for row in group]
    lines.append(
      (
        *(ROWS[name].title, f"{group[0]['parameters']:,}", _spread(accuracies, ".1f")),
        *(_spread([row[measure] for row in group], ".3g") for measure in MEASURES),
        f"{statistics.mean(row['certified_below_attack'] for row in group):.0%}",
      )
    )
  return text_tables.markdown(head, lines)


def _spread(values: Sequence[float], form: str) -> str:
  return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def ratios_table(found: Iterable[Row]) -> str:
  """Returns the table of the ratios between systems.

  A ratio is the geometric mean over the seeds. Its 95 % interval is Student's t for the logarithms of
  the ratios of networks with the same seed.
  """
  logs: dict[tuple[str, str], dict[int, float]] = {}
  for row in found:
    for measure in MEASURES:
      logs.setdefault((row["system"], measure), {})[row["seed"]] = math.log(row[measure])
  lines = []
  for first, second in PAIRS:
    if (first, "attack_radius") in logs and (second, "attack_radius") in logs:
      differences = [paired(logs[first, measure], logs[second, measure]) for measure in MEASURES]
      cells = (
        f"{math.exp(d.mean):.3g} ({math.exp(d.low):.3g} to {math.exp(d.high):.3g})" for d in differences
      )
      lines.append((f"{ROWS[first].title} / {ROWS[second].title}", *cells))
  return text_tables.markdown(("systems", *MEASURES.values()), lines)


def define_flags(values: absl_flags.FlagValues = absl_flags.FLAGS) -> None:
  """Defines the flags of this command."""
  cli.define_path("workdir", "runs/robustness", "Folder of the training runs.", values)
  cli.define_path(
    "results", None, "File in which the rows are stored, beside those of other cases.", values
  )
  absl_flags.DEFINE_list("systems", list(SYSTEMS), "Systems to compare.", flag_values=values)
  text = "Number of runs of each system, with the seeds 0, 1, ...; the intervals need at least 2."
  absl_flags.DEFINE_integer("seeds", 5, text, lower_bound=1, upper_bound=1000, flag_values=values)
  text = "Number of test images whose labels are certified."
  absl_flags.DEFINE_integer("images", 32, text, lower_bound=1, upper_bound=360, flag_values=values)
  text = "Number of gradient steps in each of the two parts of the attack."
  absl_flags.DEFINE_integer("steps", 20, text, lower_bound=1, flag_values=values)


def main(args: absl_flags.FlagValues = absl_flags.FLAGS) -> None:
  """Makes the rows that the flags ask for, writes them, and prints the tables."""
  systems = cli.known("systems", args.systems, SYSTEMS)
  wanted = rows(systems, range(args.seeds), args.images, args.steps, pathlib.Path(args.workdir))
  found = list(stored(wanted, args.results, CASE))
  print(systems_table(found), ratios_table(found), sep="\n\n")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
