"""Plots of curves: training metrics, convergence of solvers, stability, means with deviations."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.plots._images import new_figure

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def learning_curves(rows: Sequence[dict[str, Any]], *, title: str = "") -> "Figure":
  """Plots loss and accuracy against the epoch, one line per split.

  Args:
    rows: The rows of a run's metrics.jsonl, each with the keys epoch, split, loss and accuracy (in
      0..1). A value None is left out.
    title: The title of the figure.

  Returns:
    A matplotlib `Figure`.

  Raises:
    ValueError: If a row lacks one of the keys.
    MissingExtraError: If matplotlib is not installed.

  Example:
    >>> from cscjax import plots
    >>> rows = [
    ...   {"epoch": 1, "split": "train", "loss": 2.0, "accuracy": 0.3},
    ...   {"epoch": 2, "split": "train", "loss": 1.5, "accuracy": 0.5},
    ... ]
    >>> figure = plots.learning_curves(rows)
    >>> [panel.get_ylabel() for panel in figure.axes]
    ['cross-entropy loss', 'accuracy (%)']
  """
  for row in rows:
    if not {"epoch", "split", "loss", "accuracy"} <= set(row):
      checks.fail("rows", row, "the keys epoch, split, loss and accuracy in each row")
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
  if panels[1].get_lines():
    panels[1].legend()
  figure.suptitle(title)
  return figure


def convergence_curves(
  objectives: Mapping[str, ArrayLike], *, optimum: float | None = None, title: str = ""
) -> "Figure":
  """Plots the objectives of several solvers against the iteration, on a logarithmic scale.

  Args:
    objectives: The trace of each solver, keyed by its name: a vector [iterations + 1], such as
      `SolverResult.objective` of one signal. The first value is that before the first iteration.
    optimum: The objective f* > 0 of the solution. If given, the relative gap (f - f*) / f* is drawn
      where it is positive. In float32, gaps below about 1e-6 are rounding errors. By default f is drawn.
    title: The title of the plot.

  Returns:
    A matplotlib `Figure`.

  Raises:
    ValueError: If there is no trace, if a trace is not a vector of finite values or if `optimum` is not
      positive.
    MissingExtraError: If matplotlib is not installed.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax import plots
    >>> D, x = cscjax.MatrixDictionary(jnp.array([[1.0, 0.5], [0.0, 1.0]])), jnp.ones(2)
    >>> solvers = {"ISTA": cscjax.ista, "FISTA": cscjax.fista}
    >>> traces = {name: f(D, x, 0.1, iterations=9).objective for name, f in solvers.items()}
    >>> figure = plots.convergence_curves(traces)
    >>> [line.get_label() for line in figure.axes[0].get_lines()]
    ['ISTA', 'FISTA']
  """
  if not isinstance(objectives, Mapping) or not objectives:
    checks.fail("objectives", objectives, "a dict with at least one trace")
  if optimum is not None:  # an array without axes becomes a number
    optimum = checks.in_range("optimum", np.asarray(optimum)[()], 0, low_open=True)
  figure = new_figure(6, 4)
  panel = figure.subplots()
  for name, trace in objectives.items():
    checks.real_array(f"objectives[{name!r}]", trace)
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


def stability(noise: ArrayLike, changes: Mapping[str, ArrayLike], *, title: str = "") -> "Figure":
  """Plots changes of a code against the noise in its signal, both on logarithmic scales.

  Args:
    noise: The levels of the noise, a vector of positive values.
    changes: The curves, keyed by their names, each with one nonnegative value per level, such as a bound
      of `cscjax.theory.stability`, and the changes by adversarial and by random noise. Values that are
      zero or inf are left out.
    title: The title of the plot.

  Returns:
    A matplotlib `Figure`.

  Raises:
    ValueError: If there is no curve, if a curve does not match `noise`, if a level is not positive, or
      if a value is negative or NaN.
    MissingExtraError: If matplotlib is not installed.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax import plots
    >>> D = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> result = cscjax.theory.stability(D, jnp.array([2.0, 0.1]), beta=0.5)
    >>> noise = jnp.array([0.01, 0.03, 0.1, 0.3, 1.0])
    >>> figure = plots.stability(noise, {"bound": result.bound(noise)})
    >>> len(figure.axes[0].get_lines()[0].get_xdata())  # the bound for the last level is inf
    4
  """
  if not isinstance(changes, Mapping) or not changes:
    checks.fail("changes", changes, "a dict with at least one curve")
  checks.all_at_least("noise", noise, 0, open_bound=True)
  levels = np.asarray(noise, np.float64)
  if levels.ndim != 1 or not levels.size:
    checks.fail("noise", levels.shape, "a vector of levels")
  figure = new_figure(6, 4)
  panel = figure.subplots()
  for name, curve in changes.items():
    values = np.asarray(curve, np.float64)
    if values.shape != levels.shape or not np.all(values >= 0):
      checks.fail(f"changes[{name!r}]", curve, f"nonnegative values of shape {levels.shape}")
    shown = (values > 0) & (values < np.inf)
    panel.plot(levels[shown], values[shown], marker=".", label=name)
  if not any(np.size(line.get_xdata()) for line in panel.get_lines()):  # logarithmic axes need limits
    panel.set(xlim=(0.5 * levels.min(), 2 * levels.max()), ylim=(0.1, 10))
  panel.set_xscale("log")
  panel.set_yscale("log")
  panel.set_xlabel("norm of the noise")
  panel.set_ylabel("change of the code")
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
  """Plots mean curves with bands of one standard deviation, in panels side by side.

  Args:
    x: The common x values, of shape [points].
    panels: The curves of each panel, keyed by the panel's title. The curves of a panel are keyed by
      their name and are pairs (mean, standard deviation), each of shape [points]; deviations are
      nonnegative. A name has the same colour and line style in every panel.
    xlabel: The label of each x axis.
    ylabel: The label of the first y axis.
    title: The title of the figure.

  Returns:
    A matplotlib `Figure`.

  Raises:
    ValueError: If there is no curve, if a curve does not match `x` or if a value is not finite.
    MissingExtraError: If matplotlib is not installed.

  Example:
    >>> import numpy as np
    >>> from cscjax import plots
    >>> mean, deviation = np.array([3.0, 2.0, 1.0]), np.array([0.5, 0.3, 0.1])
    >>> panels = {"train": {"ML-CSC": (mean, deviation)}, "test": {"ML-CSC": (mean + 1, deviation)}}
    >>> figure = plots.bands([1, 2, 3], panels, xlabel="epoch", ylabel="failed dimensions")
    >>> [panel.get_title() for panel in figure.axes]
    ['train', 'test']
  """
  x = np.asarray(x, np.float64)
  if x.ndim != 1 or not np.all(np.isfinite(x)):
    checks.fail("x", x, "a vector of finite values")
  names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
  if not names:
    checks.fail("panels", panels, "at least one curve")
  figure = new_figure(1 + 4.5 * len(panels), 4)
  axes = figure.subplots(1, len(panels), squeeze=False)[0]
  for panel, (heading, curves) in zip(axes, panels.items(), strict=True):
    for name, curve in curves.items():
      checks.real_array(f"panels[{heading!r}][{name!r}]", curve)
      values = np.asarray(curve, np.float64)
      if values.shape != (2, *x.shape) or not np.all(np.isfinite(values)) or np.any(values[1] < 0):
        checks.fail(
          f"panels[{heading!r}][{name!r}]", values.shape, f"finite mean and deviation of shape {x.shape}"
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
    if curves:
      panel.legend()
  axes[0].set_ylabel(ylabel)
  figure.suptitle(title)
  return figure
