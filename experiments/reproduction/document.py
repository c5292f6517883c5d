"""The text of the report in Markdown, and of its summary for a README."""

from collections.abc import Sequence

from experiments.reproduction import claims, tables
from experiments.reproduction.paper import DATASETS, ROWS, TITLES
from experiments.reproduction.records import Record
from experiments.reproduction.studies import Study

INTRODUCTION = f"""\
# Reproduction of the paper's results

The paper is Zhang & Zhang, "Towards understanding residual and dilated dense neural networks via
convolutional sparse coding", NSR 2020. `python -m experiments.report` writes this file.

**Accuracies** are test accuracies in percent after the last epoch: mean ± sample standard deviation
(number of seeds). × (n) counts the runs that diverged. The column "Best epoch" is for comparison only,
because the best epoch is chosen on the test set.

**Verdicts** compare pairs of networks. The difference of a pair is the mean over runs with the same
seed that did not diverge. Its interval is Student's t at {claims.CONFIDENCE:.0%}, not corrected for
the number of pairs. A claim is *reproduced* for a pair if the interval lies on the paper's side of
zero, *not reproduced* if it lies on the other side, and *undecided* if it contains zero or if there is
only one seed."""

FIGURE_S1 = """\
The paper's example is the filter (1 2, 3 4) on an image of 4x4 pixels. At dilation 2 no two of its four
positions share a pixel, so the mutual coherence µ falls from 0.47 to 0. The small image causes this:
over all shifts of an unbounded signal, dilation does not change µ. With a stride or circular boundaries
it can increase µ (see `cscjax.mutual_coherence`)."""

NOT_AUGMENTED = f"""\
Table 3 cannot be reproduced on CIFAR without augmentation. MSDNet with d = 6 reached a test accuracy of
82.7 on CIFAR10 after 150 epochs, with a training accuracy of 100.0. With shifts by up to 4 pixels and
horizontal flips it reached 84.1 after 24 epochs, with a training accuracy of 87.0. The paper reports
{ROWS["msdnet6"].accuracy["cifar10"]:.1f}. Each of our two numbers is of one seed."""

NETWORKS = """\
Each plot shows one network, trained with the first seed: the effective atoms D1 ... Dk of its most
active channels, drawn in the space of the image; the activity of the code of one test image; the
reconstruction of the image from that code alone; and the fraction of nonzero coefficients in each
layer."""


OTHERS = """\
These runs are of older versions of the networks, which computed different functions (see CHANGELOG.md).
No other table, figure or verdict of this report contains them, and their cells count as missing."""


def report(
  records: Sequence[Record],
  others: Sequence[Record],
  simulation: str | None,
  figures: Sequence[str],
  networks: Sequence[str],
) -> str:
  """Returns the text of report.md.

  Args:
    records: Records of all runs of the current versions of the networks.
    others: Records of the runs of other versions.
    simulation: Verdict on Figure 3; None if the simulation was not run.
    figures: Names of the figures in the folder of the report.
    networks: Paths of the plots of trained networks, relative to the folder of the report.
  """
  parts = [INTRODUCTION]
  for study in studies(records):
    tables_of_study = tables.markdown(records, [(study, 3), (study, 2)], all_rows=False)
    parts += [f"## {heading(study)}", made(records, study), tables_of_study]
    parts += _images(figures, f"{study.name}-curves")
    verdicts = claims.markdown(records, study)
    parts += [f"### Claims on {heading(study)}", verdicts] if verdicts else []
  parts += _images(figures, "figure4") + _images(figures, "figure5")
  parts.append("## Figure 3: dimensions of the signal that are not reconstructed")
  parts.append(simulation or "Not run yet: `python -m experiments.gaussian_centers`.")
  parts += _images(figures, "figure3")
  parts += ["## Figure S1: coherence and dilation", FIGURE_S1, *_images(figures, "figureS1")]
  if networks:
    parts += ["## Dictionaries and codes", NETWORKS, *map(_image, networks)]
  if others:
    found = [(study, table) for study in studies(others) for table in (3, 2)]
    parts += [
      "## Older versions of the networks",
      OTHERS,
      tables.markdown(others, found, all_rows=False),
    ]
  parts += ["## Missing", missing(records)]
  return "\n\n".join(part for part in parts if part) + "\n"


def summary(
  records: Sequence[Record], others: Sequence[Record], simulation: str | None, link: str
) -> str:
  """Returns the summary for a README: tables of the rows with runs, a verdict per claim, and a link.

  Runs of other versions of the networks are counted, but not shown.

  Args:
    records: Records of all runs of the current versions of the networks.
    others: Records of the runs of other versions.
    simulation: Short verdict on Figure 3; None if the simulation was not run.
    link: Path of report.md, relative to the README.
  """
  parts = []
  for study in studies(records):
    parts.append(tables.markdown(records, [(study, 3), (study, 2)], all_rows=False))
    parts.append(made(records, study))
    verdicts = [
      f"- {claims.headline(claim, found)} ({_pairs(found)})"
      for claim in claims.CLAIMS
      if (found := claims.compare_pairs(records, study, claim))
    ]
    parts.append("\n".join(verdicts))
  if simulation:
    parts.append(simulation)
  if others:
    parts.append(f"Runs of older versions of the networks, which are not shown here: {len(others)}.")
  parts.append(f"{missing(records, names=False)} All tables, figures and intervals: [{link}]({link}).")
  return "\n\n".join(part for part in parts if part) + "\n"


def studies(records: Sequence[Record]) -> list[Study]:
  """Returns the studies that have a finished run, those with the paper's protocol first."""
  found = {record.job.study for record in records if record.is_finished}
  return sorted(found, key=lambda s: (not s.is_papers, list(TITLES).index(s.dataset), *s[1:]))


def heading(study: Study) -> str:
  """Returns the name of a study for a heading."""
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


def _pairs(found: dict[tuple[str, str], claims.Difference]) -> str:
  """Formats the difference of each pair of a claim."""
  return "; ".join(
    f"{better} − {worse} {d.mean:+z.2f}"
    + (f" [{d.low:+z.2f}, {d.high:+z.2f}]" if d.count > 1 else "")
    + f", n = {d.count}"
    for (better, worse), d in found.items()
  )


def _images(figures: Sequence[str], start: str) -> list[str]:
  """Returns the Markdown of the figures whose names begin with `start`."""
  return [_image(name) for name in figures if name.startswith(start)]


def _image(name: str) -> str:
  title = name.removesuffix(".png").rpartition("pictures/")[2]
  return f"**{title}**\n\n![{title}]({name})"
