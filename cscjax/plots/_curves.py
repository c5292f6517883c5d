"""Curves: what a run learned, how solvers converged."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.plots._images import new_figure

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def learning_curves(rows: Sequence[dict[str, Any]], *, title: str = "") -> "Figure":
  """Loss and accuracy against the epoch, a line for each split.

  Args:
    rows: Of metrics.jsonl: epoch, split, loss, accuracy (0..1).
    title: Above both panels.

  Raises:
    ValueError: If a row lacks one of these.
  """
  for row in rows:
    if not {"epoch", "split", "loss", "accuracy"} <= set(row):
      checks.fail("rows", row, "epoch, split, loss and accuracy in each")
  figure = new_figure(9, 3.6)
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


def convergence_curves(
  objectives: Mapping[str, ArrayLike], *, optimum: float | None = None, title: str = ""
) -> "Figure":
  """Objectives of several solvers against the iteration, on a logarithmic scale.

  Args:
    objectives: For each solver's name its trace [iterations + 1], as `SolverResult.objective` of one
      signal; the first value is the one before the first iteration.
    optimum: Objective f* > 0 of the solution. With it the relative gap (f - f*) / f* is drawn, where
      it is above 0: in float32 nothing below about 1e-6 means anything.
    title: Above the panel.

  Raises:
    ValueError: If there is no trace, one is no vector of finite values, or `optimum` is not positive.
  """
  if not objectives:
    checks.fail("objectives", objectives, "one trace at least")
  if optimum is not None:
    optimum = checks.in_range("optimum", float(optimum), 0, low_open=True)
  figure = new_figure(6, 4)
  panel = figure.subplots()
  for name, trace in objectives.items():
    values = np.asarray(trace, np.float64)
    if values.ndim != 1 or not values.size or not np.all(np.isfinite(values)):
      checks.fail(f"objectives[{name!r}]", values.shape, "a vector of finite values")
    if optimum is not None:
      values = (values - optimum) / optimum
    panel.plot(values, label=name)
  panel.set_yscale("log")
  panel.set_xlabel("iteration")
  panel.set_ylabel("objective $f$" if optimum is None else "relative gap $(f - f^*) / f^*$")
  panel.grid(alpha=0.3)
  panel.legend()
  panel.set_title(title)
  return figure


def bands(
  x: ArrayLike,
  panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]],
  *,
  xlabel: str,
  ylabel: str,
  title: str = "",
) -> "Figure":
  """Means of several runs as lines, each in a band of one standard deviation; panels side by side.

  Args:
    x: [points], common to all.
    panels: For each panel's title its curves: for each name the mean [points] and the standard
      deviation [points], >= 0. A name has the same colour and dashes in every panel.
    xlabel: Below each panel.
    ylabel: At the first panel.
    title: Above all.

  Raises:
    ValueError: If there is no curve, or one does not fit `x`, or a value is not finite.
  """
  x = np.asarray(x, np.float64)
  if not np.all(np.isfinite(x)):
    checks.fail("x", x, "finite values")
  names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
  if not names:
    checks.fail("panels", panels, "one curve at least")
  figure = new_figure(1 + 4.5 * len(panels), 4)
  axes = figure.subplots(1, len(panels), squeeze=False)[0]
  for panel, (heading, curves) in zip(axes, panels.items(), strict=True):
    for name, curve in curves.items():
      values = np.asarray(curve, np.float64)
      if values.shape != (2, *x.shape) or not np.all(np.isfinite(values)) or np.any(values[1] < 0):
        checks.fail(
          f"panels[{heading!r}][{name!r}]", values.shape, f"finite mean and deviation {x.shape}"
        )
      mean, deviation = values
      index = names.index(name)
      color, dashes = f"C{index}", ("-", "--", "-.", ":")[index % 4]
      panel.fill_between(x, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0)
      panel.plot(x, mean, color=color, linestyle=dashes, label=name)
    panel.set_title(heading)
    panel.set_xlabel(xlabel)
    panel.set_ylim(bottom=min(0, panel.get_ylim()[0]))
    panel.grid(alpha=0.3)
    panel.legend()
  axes[0].set_ylabel(ylabel)
  figure.suptitle(title)
  return figure
