"""The text of the report in Markdown, and of its summary for a README."""

from collections.abc import Collection, Sequence
from typing import Any

from experiments import text_tables
from experiments.reproduction import claims, figure3, figures, tables
from experiments.reproduction.paper import DATASETS, ROWS, TITLES
from experiments.reproduction.records import Record
from experiments.reproduction.studies import Study

INTRODUCTION = """\
# Reproduction of the paper's results

The paper is Zhang & Zhang, "Towards understanding residual and dilated dense neural networks via
convolutional sparse coding", NSR 2020. `python -m experiments.report` writes this file."""

_LEVEL, _MARGIN_LEVEL = f"{claims.CONFIDENCE:.0%}", f"{claims.MARGIN_CONFIDENCE:.0%}"
_MARGIN, _ONE_SIDED = f"{claims.MARGIN:g}", f"{(1 - claims.MARGIN_CONFIDENCE) / 2:.0%}"
READING = f"""\
## How to read the numbers

**Accuracies** are test accuracies in percent after the last epoch: mean ± sample standard deviation
(number of seeds). Runs that diverged are left out of all means, curves and differences; × (n) counts
them. The column "Best epoch" is for comparison only, because the best epoch is chosen on the test set.

**Differences** between two networks are in percentage points. A difference is the mean over the n seeds
with which both networks were trained. Its interval is Student's t, for the variation between seeds.

**A pair of networks** is judged by its interval.

- Where the paper finds the first network *more accurate*, the pair is *reproduced* if the {_LEVEL}
  interval lies above zero, and *not reproduced* if it lies below zero.
- Where the paper finds both *as accurate*, the pair is *reproduced* if the {_MARGIN_LEVEL} interval lies
  above −{_MARGIN} points, and *not reproduced* if it lies below −{_MARGIN} points. The two networks are
  *equivalent* if the interval also lies below +{_MARGIN} points: these are two one-sided tests at
  {_ONE_SIDED}. Finding no difference is not enough. The margin is smaller than every loss from 20 to 56
  layers that the paper reports for plain networks, so that no effect it reports can pass as equality.
- Otherwise, and with a single seed, the pair is *undecided*.
- A network that diverged with at least two seeds and was trained with none is less accurate than one
  that was trained with at least two.

**A claim** is *reproduced* if all its pairs are, *partly reproduced* if some are and none is *not
reproduced*, *not reproduced* if some are not and none is reproduced, and *mixed* if there are pairs of
both kinds. Since all pairs must hold, *reproduced* needs no correction for their number; the counts of
pairs are not corrected."""

FIGURE_S1 = """\
The convolutional matrices of the paper's example, the filter (1 2, 3 4) on an image of 4x4 pixels; a row
is the filter at one position. At dilation 2 no two of its four positions share a pixel, so the mutual
coherence µ falls from 0.47 to 0. The small image causes this: over all shifts of an unbounded signal,
dilation does not change µ. With a stride or circular boundaries it can increase µ (see
`cscjax.mutual_coherence`)."""

NOT_AUGMENTED = f"""\
Table 3 cannot be reproduced on CIFAR without augmentation. MSDNet with d = 6 reached a test accuracy of
82.7 on CIFAR10 after 150 epochs, with a training accuracy of 100.0. With shifts by up to 4 pixels and
horizontal flips it reached 84.1 after 24 epochs, with a training accuracy of 87.0. The paper reports
{ROWS["msdnet6"].accuracy["cifar10"]:.1f}. Each of our two numbers is of one seed."""

NETWORKS = """\
Each plot shows one trained network. A row is a layer k. From left to right it shows the effective atoms
D1 ... Dk of the most active channels, drawn in the space of the image; the activity (the sum of |code|
over the channels) for one test image; and the reconstruction of the image from that code alone, with its
relative error. On the right are the image and the fraction of nonzero coefficients in each layer, over
many test images."""


OTHERS = """\
These runs are of older versions of the networks, which computed different functions (see CHANGELOG.md).
No other table, figure or verdict of this report contains them, and their cells count as missing."""


def report(
  records: Sequence[Record],
  others: Sequence[Record],
  simulation: dict[str, Any] | None,
  drawn: Collection[str],
  networks: Sequence[tuple[Record, str]],
) -> str:
  """Returns the text of report.md.

  Args:
    records: Records of all runs of the current versions of the networks.
    others: Records of the runs of other versions.
    simulation: Contents of figure3.json; None if the simulation was not run.
    drawn: Names of the figures in the folder of the report.
    networks: Records with the path of the plot of their network, relative to the folder of the report.
  """
  parts = [INTRODUCTION, "## Overview", overview(records, simulation), READING]
  for study in studies(records):
    parts += [f"## {tables.label(study)}", f"{protocol(study)}. {made(records, study)}"]
    parts += _tables(records, study)
    for name in figures.FIGURES:
      if picture_name(name, study) in drawn:
        title = f"Figure {name[-1]} on {tables.label(study)}"
        parts.append(_image(picture_name(name, study), title, figures.caption(name, records, study)))
    verdicts = claims.markdown(records, study)
    parts += [f"### Claims on {tables.label(study)}", verdicts] if verdicts else []
  parts.append("## Figure 3: dimensions of the signal that are not reconstructed")
  if simulation:
    parts += [figure3.markdown(simulation), _image("figure3.png", "Figure 3", figure3.CAPTION)]
  else:
    parts.append("Not run yet: `python -m experiments.gaussian_centers`.")
  parts += ["## Figure S1: coherence and dilation", _image("figureS1.png", "Figure S1", FIGURE_S1)]
  if networks:
    parts += ["## Dictionaries and codes", NETWORKS]
    parts += [_network(record, path) for record, path in networks]
  if others:
    parts += ["## Older versions of the networks", OTHERS]
    for study in studies(others):
      parts += [f"**{protocol(study)}**", *_tables(others, study)]
  parts += ["## Missing", missing(records)]
  return "\n\n".join(part for part in parts if part) + "\n"


def summary(
  records: Sequence[Record],
  others: Sequence[Record],
  simulation: dict[str, Any] | None,
  link: str,
) -> str:
  """Returns the summary for a README: a table of the verdicts, what is missing, and a link.

  Args:
    records: Records of all runs of the current versions of the networks.
    others: Records of the runs of other versions, which are only counted.
    simulation: Contents of figure3.json; None if the simulation was not run.
    link: Path of report.md, relative to the README.
  """
  parts = [overview(records, simulation)]
  if others:
    parts.append(f"Runs of older versions of the networks, which are not shown here: {len(others)}.")
  parts.append(f"{missing(records, names=False)} All tables, figures and intervals: [{link}]({link}).")
  return "\n\n".join(parts) + "\n"


def overview(records: Sequence[Record], simulation: dict[str, Any] | None) -> str:
  """Returns a table with a line for each claim of the paper and each study that has runs for it."""
  found = {study: claims.verdicts(records, study) for study in studies(records)}
  lines = []
  for title in (*(claim.title for claim in claims.CLAIMS), claims.UNTRAINABLE_TITLE):
    judged = [(protocol(study), texts[title]) for study, texts in found.items() if title in texts]
    lines += [[title, *line] for line in judged or [("–", "no runs")]]
  verdict = figure3.verdict(simulation) if simulation else "no runs"
  lines.append([f"Figure 3: {figure3.TITLE}", "Gaussian centers" if simulation else "–", verdict])
  return text_tables.markdown(["Claim of the paper", "Data and protocol", "Verdict on them"], lines)


def picture_name(name: str, study: Study) -> str:
  """Returns the file name of Figure 4 or 5 of a study."""
  return f"{study.name}-{name}.png"


def studies(records: Sequence[Record]) -> list[Study]:
  """Returns the studies that have a finished run, those with the paper's protocol first."""
  found = {record.job.study for record in records if record.is_finished}
  return sorted(found, key=lambda s: (not s.is_papers, list(TITLES).index(s.dataset), *s[1:]))


def protocol(study: Study) -> str:
  """Describes the data set and the protocol of a study."""
  text = tables.description(study)
  return f"{text}, the paper's protocol" if study.is_papers else text


def made(records: Sequence[Record], study: Study) -> str:
  """Returns how the runs of a study were made: their command, devices, version of JAX and dates."""
  found = [record for record in records if record.job.study == study and record.is_finished]
  devices = sorted({f"{r.device['count']} x {r.device['kind']}" for r in found})
  versions = sorted({r.versions["jax"] for r in found})
  dates = sorted(r.date.split()[0] for r in found)
  days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
  flags = zip(Study._fields, study, Study("", "paper"), strict=True)
  given = " ".join(f"--{name}={value}" for name, value, default in flags if value != default)
  command = f"python -m experiments.reproduce {given}"
  where = f"{', '.join(devices)}, jax {', '.join(versions)}, {study.precision}, {days}"
  text = f"{len(found)} runs, made by `{command}`: {where}."
  return f"{text}\n\n{NOT_AUGMENTED}" if study.augmentation == "none" else text


def missing(records: Sequence[Record], *, names: bool = True) -> str:
  """Returns a text about the cells of the paper's tables without a finished run of its protocol.

  A run in any precision counts.

  Args:
    records: Records of all runs of the current versions of the networks.
    names: Whether to list the missing cells.
  """
  done = {(r.dataset, r.row) for r in records if r.job.study.is_papers and r.is_finished}
  lacking = {d: [row for row in ROWS if (d, row) not in done] for d in DATASETS}
  count = sum(map(len, lacking.values()))
  cells = len(DATASETS) * len(ROWS)
  if not count:
    return f"All {cells} cells of Tables 2 and 3 have a run of the paper's protocol."
  text = f"{count} of the {cells} cells of Tables 2 and 3 have no run of the paper's protocol yet."
  if not names:
    return text
  lines = [
    f"- {TITLES[dataset]}: {'all' if len(rows) == len(ROWS) else ', '.join(rows)}"
    for dataset, rows in lacking.items()
    if rows
  ]
  return "\n".join([f"{text} `python -m experiments.reproduce` makes the missing runs.", "", *lines])


def _tables(records: Sequence[Record], study: Study) -> list[str]:
  """Returns the tables of a study that have runs, each after its heading."""
  found = {number: tables.table(records, study, number, all_rows=False) for number in (3, 2)}
  return [
    part for number, text in found.items() if text for part in (f"### Networks of Table {number}", text)
  ]


def _network(record: Record, path: str) -> str:
  """Returns the Markdown of the plot of a trained network."""
  title = f"{ROWS[record.row].title}, on {tables.label(record.job.study)}"
  accuracy = f"{record.test_accuracy:.1%}" if record.test_accuracy is not None else "not evaluated"
  text = f"Seed {record.seed}, {record.epochs:g} epochs, test accuracy {accuracy}."
  return _image(path, title, text)


def _image(path: str, title: str, caption: str) -> str:
  return f"![{title}]({path})\n\n**{title}.** {caption}"
