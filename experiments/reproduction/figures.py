"""Figures 4 and 5: test accuracy against the training epoch, in the panels of the paper."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cscjax.extras import needs
from experiments.reproduction.paper import DATASETS, ROWS, TITLES
from experiments.reproduction.records import Record
from experiments.reproduction.studies import Study
from experiments.reproduction.tables import description

if TYPE_CHECKING:
  from matplotlib.figure import Figure


MARGIN = 15  # percentage points shown below the lowest final accuracy


class Panel(NamedTuple):
  """One row of panels of a figure, with a panel for each data set.

  Attributes:
    letter: Letter that the paper gives to the panels.
    title: What the panels compare.
    rows: Names of the rows whose curves are drawn.
  """

  letter: str
  title: str
  rows: tuple[str, ...]


FIGURES = {
  "figure4": (
    Panel("A", "56 layers", ("plain56", "res_csc_simplified56", "resnet56", "res_csc56", "plain20")),
    Panel("B", "Res-CSC", tuple(f"res_csc{depth}" for depth in (20, 32, 44, 56, 110, 218))),
    Panel(
      "C",
      "Res-CSC and ResNet",
      tuple(f"{rule}{depth}" for rule in ("res_csc", "resnet") for depth in (56, 110, 218)),
    ),
  ),
  "figure5": (
    Panel("A", "MSD-CSC-FISTA, d = 12", ("msdnet12", "msdcsc12_u1", "msdcsc12_u2_fista")),
    Panel(
      "B",
      "d = 6, unfolding 2",
      ("feed_forward", "ml_csc_u2", "ml_csc_u2_fista", "msdcsc6_u2", "msdcsc6_u2_fista"),
    ),
  ),
}


def figure(name: str, records: Sequence[Record]) -> "Figure | None":
  """Draws Figure 4 or 5 from the float32 runs of the paper's protocol.

  A line is the mean over the seeds and its band their range. The diamond at the end is the accuracy that
  the paper reports. Returns None if there are no such runs.

  Args:
    name: "figure4" or "figure5".
    records: Records of any runs.
  """
  wanted = {row for panel in FIGURES[name] for row in panel.rows}
  studies = [Study(dataset, "paper") for dataset in DATASETS]
  studies = [s for s in studies if any(r.job.study == s and r.row in wanted for r in records)]
  if not studies:
    return None
  panels = FIGURES[name]
  drawn = _figure(len(panels), len(studies))
  for panel, line in zip(panels, drawn.subplots(len(panels), len(studies), squeeze=False), strict=True):
    for study, axes in zip(studies, line, strict=True):
      _draw(axes, records, study, panel.rows)
      axes.set_title(f"({panel.letter}) {TITLES[study.dataset]}: {panel.title}", fontsize="medium")
  drawn.suptitle(f"Figure {name[-1]}: mean of our seeds and their range; ◆ the paper's accuracy")
  return drawn


def curves(study: Study, records: Sequence[Record]) -> "Figure | None":
  """Draws all runs of a study in one panel per table; returns None if Figures 4 and 5 show the study."""
  if study == Study(study.dataset, "paper"):
    return None
  names = [row for row in ROWS if any((r.job.study, r.row) == (study, row) for r in records)]
  tables = sorted({ROWS[name].table for name in names})
  drawn = _figure(1, len(tables))
  for table, axes in zip(tables, drawn.subplots(1, len(tables), squeeze=False)[0], strict=True):
    _draw(axes, records, study, [name for name in names if ROWS[name].table == table])
    axes.set_title(f"networks of Table {table}", fontsize="medium")
  drawn.suptitle(f"{description(study)}:\nmean of the seeds and their range")
  return drawn


def _figure(rows: int, columns: int) -> "Figure":
  with needs("plots", "the report's figures need matplotlib"):
    from matplotlib.figure import Figure
  return Figure(figsize=(5.2 * columns, 4.6 * rows + 0.5), layout="constrained")


def _draw(axes: Any, records: Sequence[Record], study: Study, rows: Sequence[str]) -> None:
  """Draws the curves of some rows into one panel."""
  from matplotlib import colormaps
  from matplotlib.ticker import MaxNLocator

  ends = []
  colors = colormaps["tab10" if len(rows) <= 10 else "tab20"]
  for i, row in enumerate(rows):
    color = colors(i)
    found = [r for r in records if (r.job.study, r.row) == (study, row)]
    epochs, means, lows, highs = _over_seeds(found)
    if not epochs:
      continue
    ends.append(means[-1])
    seeds = len(found)
    axes.plot(
      epochs, means, color=color, linewidth=1.4, label=f"{row} ({seeds} seed{'s' * (seeds > 1)})"
    )
    axes.fill_between(epochs, lows, highs, color=color, alpha=0.2, linewidth=0)
    paper = ROWS[row].accuracy[study.dataset] if study.is_papers else None
    if paper is not None:
      axes.plot([epochs[-1]], [paper], marker="D", color=color, markeredgecolor="black", clip_on=False)
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  if ends:  # showing the first epochs too would hide the differences between the final accuracies
    axes.set_ylim(max(0, min(ends) - MARGIN), min(101, axes.get_ylim()[1]))
  axes.set_xlabel("epoch")
  axes.set_ylabel("test accuracy (%)")
  axes.grid(alpha=0.3)
  if axes.lines:
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def _over_seeds(
  records: Sequence[Record],
) -> tuple[list[float], list[float], list[float], list[float]]:
  """Returns the evaluated epochs, and the mean, lowest and highest accuracy in percent at each."""
  at: dict[float, list[float]] = {}
  for record in records:
    for epoch, accuracy in record.curve:
      if accuracy is not None:
        at.setdefault(epoch, []).append(100 * accuracy)
  epochs = sorted(at)
  values = [at[epoch] for epoch in epochs]
  return epochs, [statistics.mean(v) for v in values], [min(v) for v in values], [max(v) for v in values]
