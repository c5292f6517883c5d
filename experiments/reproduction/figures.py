"""Figures 4 and 5: test accuracy against the training epoch, in the panels of the paper."""

import statistics
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cscjax.extras import needs
from experiments.reproduction.paper import ROWS
from experiments.reproduction.records import Record
from experiments.reproduction.studies import Study
from experiments.reproduction.tables import Cell, cell, description

if TYPE_CHECKING:
  from matplotlib.figure import Figure


BELOW = 15  # percentage points that are shown below the lowest final accuracy


class Panel(NamedTuple):
  """A panel of a figure.

  Attributes:
    letter: Letter that the paper gives to the panel.
    choices: Names of the rows to draw, by the title of the panel. The first choice is the paper's; the
      others are for studies that lack its networks.
  """

  letter: str
  choices: dict[str, tuple[str, ...]]


FIGURES = {
  "figure4": (
    Panel(
      "A",
      {
        "56 layers, and a plain network with 20": (
          "plain56",
          "res_csc_simplified56",
          "resnet56",
          "res_csc56",
          "plain20",
        ),
        "20 layers": ("plain20", "res_csc_simplified20", "resnet20", "res_csc20"),
      },
    ),
    Panel("B", {"Res-CSC by depth": tuple(f"res_csc{depth}" for depth in (20, 32, 44, 56, 110, 218))}),
    Panel(
      "C",
      {
        "Res-CSC and ResNet": tuple(
          f"{network}{depth}" for network in ("res_csc", "resnet") for depth in (56, 110, 218)
        )
      },
    ),
  ),
  "figure5": (
    Panel(
      "A",
      {
        f"MSD-CSC by unfolding, d = {depth}": (
          f"msdnet{depth}",
          *(f"msdcsc{depth}_{unfolding}" for unfolding in ("u1", "u2", "u2_fista")),
        )
        for depth in (12, 9, 6)
      },
    ),
    Panel(
      "B",
      {
        "MSD-CSC and ML-CSC, unfolding 2": (
          *("feed_forward", "ml_csc_u2", "ml_csc_u2_fista"),
          *("msdcsc6_u2", "msdcsc6_u2_fista"),
        )
      },
    ),
  ),
}


def figure(name: str, records: Sequence[Record], study: Study) -> "Figure | None":
  """Draws the panels of Figure 4 or 5 for a study, side by side.

  A line is the mean over the seeds and its band their range, without runs that diverged. Under the
  paper's protocol a diamond at the end marks the accuracy that the paper reports. Only panels with two
  networks or more are drawn; returns None if there are none.

  Args:
    name: A key of `FIGURES`.
    records: Records of any runs.
    study: The study whose runs are drawn.
  """
  panels = _panels(name, records, study)
  if not panels:
    return None
  with needs("plots", "the report's figures need matplotlib"):
    from matplotlib.figure import Figure
  drawn = Figure(figsize=(5.2 * len(panels), 5.6), layout="constrained")
  for axes, (letter, title, rows) in zip(
    drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
  ):
    _draw(axes, records, study, rows)
    axes.set_title(f"({letter}) {title}", fontsize="medium")
  text = f"Figure {name[-1]}: {description(study)}"
  drawn.suptitle(textwrap.fill(text, 55 * len(panels)), fontsize="medium")
  return drawn


def caption(name: str, records: Sequence[Record], study: Study) -> str:
  """Returns the caption of what `figure` draws."""
  texts = [
    "Test accuracy against the training epoch. A line is the mean over the seeds and its band their"
    " range. Runs that diverged are left out, as in the tables; the legend counts them. Low"
    " accuracies of early epochs are cut off."
  ]
  if study.is_papers:
    texts.append("A diamond is the accuracy that the paper reports after the last epoch.")
  papers = {panel.letter: next(iter(panel.choices)) for panel in FIGURES[name]}
  for letter, title, _ in _panels(name, records, study):
    if title != papers[letter]:
      texts.append(f"The paper's panel {letter} shows: {papers[letter]}.")
  return " ".join(texts)


def _panels(name: str, records: Sequence[Record], study: Study) -> list[tuple[str, str, list[str]]]:
  """Returns letter, title and rows of each panel, with the choice that has the most networks."""
  panels = []
  for panel in FIGURES[name]:
    found = {
      title: [row for row in rows if cell(records, study, row).parameters is not None]
      for title, rows in panel.choices.items()
    }
    title = max(found, key=lambda title: len(found[title]))
    if len(found[title]) > 1:
      panels.append((panel.letter, title, found[title]))
  return panels


def _draw(axes: Any, records: Sequence[Record], study: Study, rows: Sequence[str]) -> None:
  """Draws the curves of some rows into one panel."""
  from matplotlib.ticker import MaxNLocator

  ends = []
  for i, row in enumerate(rows):
    found, color = cell(records, study, row), f"C{i}"
    epochs, means, lows, highs = _over_seeds(found.trained)
    ends += means[-1:]
    marker = "." if len(epochs) < 10 else None
    label = f"{ROWS[row].title} ({_runs(found)})"
    axes.plot(epochs, means, color=color, linewidth=1.4, marker=marker, label=label)
    axes.fill_between(epochs, lows, highs, color=color, alpha=0.2, linewidth=0)
    paper = ROWS[row].accuracy[study.dataset] if study.is_papers else None
    if epochs and paper is not None:
      axes.plot([epochs[-1]], [paper], marker="D", color=color, markeredgecolor="black", clip_on=False)
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  if ends:  # showing the first epochs too would hide the differences between the final accuracies
    axes.set_ylim(max(0, min(ends) - BELOW), min(101, axes.get_ylim()[1]))
  axes.set_xlabel("epoch")
  axes.set_ylabel("test accuracy (%)")
  axes.grid(alpha=0.3)
  axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _runs(found: Cell) -> str:
  """Returns how many runs are drawn, and how many diverged."""
  count = len(found.trained)
  parts = [f"{count} seed{'s' * (count > 1)}"] if count else []
  parts += [f"{found.diverged} diverged"] if found.diverged else []
  return ", ".join(parts)


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
