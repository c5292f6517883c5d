"""Writes a report with the tables, figures and verdicts of the reproduction.

    python -m experiments.report --results=DIR --out=DIR

Reads the results of experiments.reproduce and experiments.gaussian_centers in --results, without any
training. Writes report.md and its figures to --out, and links to the plots of trained networks in
--results. With --readme=FILE a summary replaces the part of that file between the two comments
`<!-- results -->` and `<!-- /results -->`.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from absl import flags

from cscjax.plots import convolutional_matrices
from cscjax.runs import replaced
from experiments import cli
from experiments.reproduction import document, figure3, figure3_schema, figures, records
from experiments.reproduction.records import Record
from experiments.reproduction.schema import read_checked

MARKS = ("<!-- results -->\n", "<!-- /results -->")


def main(args: flags.FlagValues = flags.FLAGS) -> None:
  """Writes the report, and the summary if asked for, and prints the path of the report."""
  results = pathlib.Path(args.results)
  out = pathlib.Path(args.out) if args.out else results / "report"
  if not results.is_dir():
    raise cli.UsageError(f"--results: no such directory: {results}")
  found, others = records.by_architecture(records.read(results))
  simulated = read_simulation(results)
  readme = pathlib.Path(args.readme) if args.readme else None
  around = _around(readme) if readme else None
  with cli.writing("out", out):
    out.mkdir(parents=True, exist_ok=True)
    drawn = draw(found, simulated, out)
    plots = [(record, results / records.PICTURES / f"{record.job.name}.png") for record in found]
    networks = [(record, os.path.relpath(plot, out)) for record, plot in plots if plot.exists()]
    text = document.report(found, others, simulated, drawn, networks)
    (out / "report.md").write_text(text, encoding="utf-8")
  if readme and around:
    link = os.path.relpath(out / "report.md", readme.parent)
    with cli.writing("readme", readme), replaced(readme) as scratch:
      text = document.summary(found, others, simulated, link)
      scratch.write_text(text.join(around), encoding="utf-8")
  print(out / "report.md")


def draw(found: Sequence[Record], simulated: dict[str, Any] | None, out: pathlib.Path) -> list[str]:
  """Writes the figures of the report to `out` and returns their file names."""
  drawn = {
    document.picture_name(name, study): figures.figure(name, found, study)
    for study in document.studies(found)
    for name in figures.FIGURES
  }
  drawn["figure3.png"] = figure3.figure(simulated) if simulated else None
  # The filter and the image size of the example in the paper.
  drawn["figureS1.png"] = convolutional_matrices(
    jnp.array([[1.0, 2], [3, 4]])[..., None, None], (4, 4, 1)
  )
  made = {name: figure for name, figure in drawn.items() if figure is not None}
  for name, figure in made.items():
    figure.savefig(out / name, dpi=110)
  return list(made)


def read_simulation(results: pathlib.Path) -> dict[str, Any] | None:
  """Returns the results of experiments.gaussian_centers; None if there are none, or if they are damaged.

  A damaged file also gives a warning.
  """
  path = results / "figure3.json"
  return read_checked(path, figure3_schema.checked) if path.exists() else None


def _around(readme: pathlib.Path) -> tuple[str, str]:
  """Returns the text of the file before and after the part that is replaced."""
  try:
    before, rest = readme.read_text(encoding="utf-8").split(MARKS[0])
    return before + MARKS[0], MARKS[1] + rest.split(MARKS[1])[1]
  except OSError as error:
    raise cli.UsageError(f"--readme: cannot read {readme}: {error.strerror}") from error
  except (ValueError, IndexError) as error:
    raise cli.UsageError(f"--readme: {readme} has no lines {MARKS[0].strip()} and {MARKS[1]}") from error


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of this command."""
  cli.define_path(
    "results", "runs/reproduction", "Folder of the results of experiments.reproduce.", values
  )
  text = "Folder for report.md and its figures; the folder report in --results if not given."
  cli.define_path("out", None, text, values)
  cli.define_path("readme", None, "File in which a summary replaces the marked part.", values)


if __name__ == "__main__":
  define_flags()
  cli.run(main)
