"""Tables, figures and verdicts: python -m experiments.report --results=DIR --out=DIR.

Reads what experiments.reproduce and experiments.gaussian_centers left in --results and trains nothing.
Writes report.md and its figures to --out; pictures of trained networks it links where they are. With
--readme=FILE the part of that file between the two comments `<!-- results -->` and
`<!-- /results -->` is replaced by a summary.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
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
  """Writes what the flags ask for and says where it is."""
  results = pathlib.Path(args.results)
  out = pathlib.Path(args.out) if args.out else results / "report"
  if not results.is_dir():
    raise cli.UsageError(f"--results: no such directory: {results}")
  found, others = records.by_architecture(records.read(results))
  simulated = read_simulation(results)
  readme = pathlib.Path(args.readme) if args.readme else None
  around = _around(readme) if readme else None
  verdict = figure3.verdict(simulated) if simulated else None
  brief = figure3.verdict(simulated, details=False) if simulated else None
  with _writing("out", out):
    out.mkdir(parents=True, exist_ok=True)
    pictures = draw(found, simulated, out)
    networks = [results / records.PICTURES / f"{record.job.name}.png" for record in found]
    links = [os.path.relpath(picture, out) for picture in sorted(networks) if picture.exists()]
    (out / "report.md").write_text(
      document.report(found, others, verdict, pictures, links), encoding="utf-8"
    )
  if readme and around:
    link = os.path.relpath(out / "report.md", readme.parent)
    with _writing("readme", readme), replaced(readme) as scratch:
      scratch.write_text(document.summary(found, others, brief, link).join(around), encoding="utf-8")
  print(out / "report.md")


def draw(found: Sequence[Record], simulated: dict[str, Any] | None, out: pathlib.Path) -> list[str]:
  """Writes the figures to `out`; returns their names there."""
  drawn = {name: figures.figure(name, found) for name in figures.FIGURES}
  for study in document.studies(found):
    drawn[f"{study.name}-curves"] = figures.curves(study, found)
  drawn["figure3"] = figure3.figure(simulated) if simulated else None
  # The filter and the image of the paper's example.
  drawn["figureS1"] = convolutional_matrices(jnp.array([[1.0, 2], [3, 4]])[..., None, None], (4, 4, 1))
  names = []
  for name, figure in drawn.items():
    if figure is not None:
      figure.savefig(out / f"{name}.png", dpi=110)
      names.append(f"{name}.png")
  return names


def read_simulation(results: pathlib.Path) -> dict[str, Any] | None:
  """What experiments.gaussian_centers left; None if nothing, or, after a warning, if it is damaged."""
  path = results / "figure3.json"
  return read_checked(path, figure3_schema.checked) if path.exists() else None


def _around(readme):
  """The text before and after what is replaced."""
  try:
    before, rest = readme.read_text(encoding="utf-8").split(MARKS[0])
    return before + MARKS[0], MARKS[1] + rest.split(MARKS[1])[1]
  except OSError as error:
    raise cli.UsageError(f"--readme: cannot read {readme}: {error.strerror}") from error
  except (ValueError, IndexError) as error:
    raise cli.UsageError(f"--readme: {readme} has no lines {MARKS[0].strip()} and {MARKS[1]}") from error


@contextlib.contextmanager
def _writing(flag: str, path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise cli.UsageError(f"--{flag}: cannot write to {path}: {error.strerror}") from error


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines this command's flags."""
  cli.define_path("results", "runs/reproduction", "Folder that experiments.reproduce fills.", values)
  text = "Where report.md and its pictures go; DIR/report of --results if not given."
  cli.define_path("out", None, text, values)
  cli.define_path("readme", None, "File whose marked part becomes a summary.", values)


if __name__ == "__main__":
  define_flags()
  cli.run(main)
