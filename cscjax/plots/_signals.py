"""Plots of one-dimensional signals with one or many channels."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.metrics import snr
from cscjax.plots._images import largest_magnitude, new_figure

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_LABELS = 12  # largest number of channels that are labelled


def signal(
  signal: ArrayLike,
  reconstruction: ArrayLike | None = None,
  *,
  observed: ArrayLike | None = None,
  title: str = "",
) -> "Figure":
  """Plots a signal with its channels below each other, its reconstruction and their difference.

  All channels have the same scale, which the label of the axis tells. The legend gives the
  signal-to-noise ratio, `cscjax.metrics.snr`. It is "inf dB" for equal signals and "nan dB" if a sample
  is NaN; such samples are left out of the lines.

  Args:
    signal: The true signal, of shape [L, C].
    reconstruction: The reconstruction, of the same shape. By default neither it nor the difference is
      drawn.
    observed: The input of the solver, for example a noisy signal, which is drawn in grey behind the
      signal. By default it is not drawn.
    title: The title of the figure.

  Returns:
    A matplotlib `Figure`.

  Raises:
    ValueError: If an argument is not a signal or if the shapes differ.
    MissingExtraError: If matplotlib is not installed.

  Example:
    >>> import numpy as np
    >>> from cscjax import plots
    >>> signal = np.sin(np.arange(200)[:, None] / [5, 8, 13])  # three channels
    >>> figure = plots.signal(signal, 0.9 * signal)
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['signal', 'reconstruction: 20.0 dB']
  """
  given = {"observed": observed, "signal": signal, "reconstruction": reconstruction}
  drawn = {name: _as_signal(name, values) for name, values in given.items() if values is not None}
  truth = drawn["signal"]
  for name, values in drawn.items():
    if values.shape != truth.shape:
      checks.fail(name, values.shape, f"the shape of the signal, {truth.shape}")
  spacing = max(map(largest_magnitude, drawn.values()))  # the largest peak ends at the next channel
  rows = 1 if reconstruction is None else 2
  figure = new_figure(9, 0.8 + rows * min(5.0, 1.2 + 0.3 * truth.shape[1]))
  panels = figure.subplots(rows, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
  colors = {"observed": "0.7", "signal": "black", "reconstruction": "C1"}
  for name, values in drawn.items():
    label = name if name == "signal" else f"{name}: {snr(values, truth):.1f} dB"
    _traces(panels[0], values, spacing, color=colors[name], label=label)
  if len(drawn) > 1:
    panels[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(drawn), frameon=False)
  if reconstruction is not None:
    _traces(panels[1], drawn["reconstruction"] - truth, spacing, color="black")
    panels[1].set_title("difference", fontsize="medium")
  panels[-1].set_xlabel("sample")
  figure.suptitle(title)
  return figure


def _as_signal(name: str, x: ArrayLike) -> np.ndarray:
  """Returns a signal [L, C] as a NumPy array."""
  checks.real_array(name, x)
  values = np.asarray(x, np.float64)
  if values.ndim != 2 or not values.size:
    checks.fail(name, values.shape, "a signal [L, C]")
  return values


def _traces(panel: Any, values: np.ndarray, spacing: float, *, color: str, label: str = "") -> None:
  """Draws the channels of a signal [L, C] as lines below each other, the first one on top."""
  length, channels = values.shape
  offsets = -spacing * np.arange(channels)
  lines = panel.plot(values + offsets, color=color, linewidth=0.9)
  lines[0].set_label(label or None)  # one entry of the legend for all channels
  if channels > 1:
    labelled = range(0, channels, math.ceil(channels / _LABELS))
    panel.set_yticks(offsets[labelled], labels=list(map(str, labelled)))
    panel.set_ylabel(f"channel, {spacing:.2g} apart")
  panel.set_xlim(0, max(length - 1, 1))
  panel.set_ylim(offsets[-1] - 1.1 * spacing, 1.1 * spacing)
