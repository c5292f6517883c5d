"""The report as one Markdown text, and its summary for a README."""

from collections.abc import Sequence

from experiments.reproduction import claims, tables
from experiments.reproduction.paper import DATASETS, ROWS, TITLES
from experiments.reproduction.records import Record
from experiments.reproduction.studies import Study

INTRODUCTION = f"""\
# What was reproduced

Zhang & Zhang, "Towards understanding residual and dilated dense neural networks via convolutional
sparse coding", NSR 2020. Made by `python -m experiments.report`.

Accuracies are test accuracies in percent: mean ± sample standard deviation (number of seeds) after the
last epoch; × counts the runs that could not be trained. The best epoch is chosen on the test set and
stands there for comparison only. Differences are between runs with the same seed, without those that
could not be trained, their intervals Student's t at {claims.CONFIDENCE:.0%}, for each pair alone:
*reproduced* where the interval lies on the paper's side of zero, *not reproduced* where it lies on the
other, *undecided* where it holds zero or there is one seed."""

FIGURE_S1 = """\
The paper's example, the filter (1 2, 3 4): at dilation 2 no two of its four positions in an image of 4x4
have a tap in common, and the coherence µ falls from 0.47 to 0. It is the small image that does it: over
all shifts of a longer signal dilation leaves µ as it is, and with a stride or around a circle it can
raise it (`cscjax.mutual_coherence`)."""

NOT_AUGMENTED = """\
Without augmentation Table 3 cannot be reproduced on CIFAR: MSDNet with d = 6 ended at 82.7 on CIFAR10
after 150 epochs, with 100.0 on the training set. With a shift by up to 4 pixels and a horizontal flip it
had 84.1 after 24 epochs, with 87.0 on the training set. The paper has 87.2; ours is one seed each."""

NETWORKS = """\
Of the first seed of each network: the effective atoms D1 ... Dk of its most used channels as the image
shows them, the activity of the code of one test image, the image rebuilt from that code alone, and the
share of coefficients that are not 0 in each layer."""


OTHERS = """\
These runs are of older versions of their networks, which compute something else now (see CHANGELOG.md).
They are in no other table, figure or verdict of this report, and their cells count as missing."""


def report(
  records: Sequence[Record],
  others: Sequence[Record],
  simulation: str | None,
  figures: Sequence[str],
  networks: Sequence[str],
) -> str:
  """report.md.

  Args:
    records: Of all runs of the present networks.
    others: Of the runs of other versions of them.
    simulation: The verdict on Figure 3; None where it was not made.
    figures: Files beside it.
    networks: Pictures of trained networks, relative to it.
  """
  parts = [INTRODUCTION]
  for study in studies(records):
    tables_of_study = tables.markdown(records, [(study, 3), (study, 2)], all_rows=False)
    parts += [f"## {heading(study)}", made(records, study), tables_of_study]
    parts += _images(figures, f"{study.name}-curves")
    verdicts = claims.markdown(records, study)
    parts += [f"### Claims, on {heading(study)}", verdicts] if verdicts else []
  parts += _images(figures, "figure4") + _images(figures, "figure5")
  parts.append("## Figure 3: dimensions of the signal that are not reconstructed")
  parts.append(simulation or "Not made yet: `python -m experiments.gaussian_centers`.")
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
  """What a README shows: the tables of the rows with runs, a verdict a claim, and where the rest is.

  Runs of other versions of the networks are counted there, not shown.
  """
  parts = []
  for study in studies(records):
    parts.append(tables.markdown(records, [(study, 3), (study, 2)], all_rows=False))
    parts.append(made(records, study))
    verdicts = [
      f"- {claims.headline(claim, found)} ({_pairs(found)})"
      for claim in claims.CLAIMS
      if (found := claims.judge(records, study, claim))
    ]
    parts.append("\n".join(verdicts))
  if simulation:
    parts.append(simulation)
  if others:
    parts.append(f"Runs of older versions of the networks, which are not shown here: {len(others)}.")
  parts.append(f"{missing(records, names=False)} All tables, figures and intervals: [{link}]({link}).")
  return "\n\n".join(part for part in parts if part) + "\n"


def studies(records: Sequence[Record]) -> list[Study]:
  """Those that have a finished run, the paper's protocol first."""
  found = {record.job.study for record in records if record.is_finished}
  return sorted(found, key=lambda s: (not s.is_papers, list(TITLES).index(s.dataset), *s[1:]))


def heading(study: Study) -> str:
  """The study's name for people."""
  text = tables.description(study)
  return f"{text}, the paper's protocol" if study.is_papers else text


def made(records: Sequence[Record], study: Study) -> str:
  """On what devices, with what versions and when its runs were made, and by what command."""
  found = [record for record in records if record.job.study == study and record.is_finished]
  devices = sorted({f"{r.device['count']} x {r.device['kind']}" for r in found})
  versions = sorted({r.versions["jax"] for r in found})
  dates = sorted(r.date.split()[0] for r in found)
  days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
  flags = zip(Study._fields, study, Study("", "paper"), strict=True)
  given = " ".join(f"--{name}={value}" for name, value, default in flags if value != default)
  command = f"python -m experiments.reproduce {given}"
  where = f"{', '.join(devices)}, jax {', '.join(versions)}, {study.precision}, {days}"
  text = f"{len(found)} runs by `{command}`; {where}."
  return f"{text} {NOT_AUGMENTED}" if study.augmentation == "none" else text


def missing(records: Sequence[Record], *, names: bool = True) -> str:
  """The cells of the paper that have no finished run of its protocol yet, in whatever precision."""
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
    f"- {TITLES[dataset]}: {'all of them' if len(rows) == len(ROWS) else ', '.join(rows)}"
    for dataset, rows in lacking.items()
    if rows
  ]
  return "\n".join([f"{text} `python -m experiments.reproduce` makes them.", "", *lines])


def _pairs(found):
  return "; ".join(
    f"{better} − {worse} {d.mean:+z.2f}"
    + (f" [{d.low:+z.2f}, {d.high:+z.2f}]" if d.count > 1 else "")
    + f", n = {d.count}"
    for (better, worse), d in found.items()
  )


def _images(figures, start):
  return [_image(name) for name in figures if name.startswith(start)]


def _image(name):
  title = name.removesuffix(".png").rpartition("pictures/")[2]
  return f"**{title}**\n\n![{title}]({name})"
