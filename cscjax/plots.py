"""Pictures: functions that return a matplotlib Figure. Matplotlib is imported where it is needed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def learning_curves(rows: Sequence[dict[str, Any]], *, title: str = "") -> "Figure":
  """Loss and accuracy against the epoch, a line for each split.

  Args:
    rows: Of metrics.jsonl: epoch, split, loss, accuracy (0..1).
    title: Above both panels.
  """
  from matplotlib.figure import Figure  # no pyplot: no global state, no display

  figure = Figure(figsize=(9, 3.6), layout="constrained")
  panels = figure.subplots(1, 2)
  for panel, quantity, scale in zip(panels, ("loss", "accuracy"), (1, 100), strict=True):
    for split in sorted({row["split"] for row in rows}):
      points = [
        (r["epoch"], scale * r[quantity])
        for r in rows
        if r["split"] == split and r[quantity] is not None
      ]
      if points:
        panel.plot(*zip(*points, strict=True), marker=".", label=split)
    panel.set_xlabel("epoch")
    panel.grid(alpha=0.3)
  panels[0].set_ylabel("cross-entropy loss")
  panels[1].set_ylabel("accuracy (%)")
  if rows:
    panels[1].legend()
  figure.suptitle(title)
  return figure
