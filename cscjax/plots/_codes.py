"""Plots of a code and of its reconstruction."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.metrics import psnr
from cscjax.plots._images import (
  SIGNED,
  as_image,
  largest_magnitude,
  new_figure,
  nonfinite_note,
  show,
)

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def code(code: ArrayLike, *, channels: int = 5, title: str = "") -> "Figure":
  """Plots where the code of an image or a signal is active, and its channels with the most nonzeros.

  The first panel shows the activity, the sum of |code| over the channels. Each further panel shows one
  channel. Red stands for positive, blue for negative values. For an image, every nonzero is a point that
  is large enough to be visible; for a signal, it is a vertical line at its position.

  Args:
    code: The code of one image, [H, W, m], or of one signal, [L, m]. Of a pair (a, z), pass one part.
    channels: The number of channels to draw, >= 1. At most m are drawn.
    title: The title of the figure. The fraction of nonzeros is added, and the number of coefficients
      that are not finite, if there are any.

  Returns:
    A matplotlib `Figure`.

  Raises:
    ValueError: If `code` has another number of axes or if `channels` is out of range.
    MissingExtraError: If matplotlib is not installed.

  Example:
    >>> import numpy as np
    >>> from cscjax import plots
    >>> code = np.zeros((8, 8, 3))
    >>> code[2, 5, 1] = 1.0
    >>> figure = plots.code(code, channels=2)
    >>> figure.get_suptitle()
    '0.52% of 192 coefficients are nonzero'
  """
  checks.real_array("code", code)
  values = np.asarray(code, np.float64)
  if values.ndim not in (2, 3) or not values.size:
    checks.fail("code", values.shape, "the code of one image, [H, W, m], or of one signal, [L, m]")
  channels = min(checks.positive_int("channels", channels), values.shape[-1])
  used = np.count_nonzero(values, axis=tuple(range(values.ndim - 1)))
  most_used = np.argsort(-used, kind="stable")[:channels]
  shown = {"activity Σ|code|": np.abs(values).sum(axis=-1)}
  shown |= {f"channel {i}: {used[i]:,} nonzeros": values[..., i] for i in most_used}
  figure = _maps(shown) if values.ndim == 3 else _stems(shown)
  density = (
    f"{used.sum() / values.size:.2%} of {values.size:,} coefficients are nonzero{nonfinite_note(values)}"
  )
  figure.suptitle(f"{title}: {density}" if title else density)
  return figure


def _maps(shown: dict[str, np.ndarray]) -> "Figure":
  """Draws the activity of an image as a picture, and each channel [H, W] as points."""
  columns = min(3, len(shown))
  rows = math.ceil(len(shown) / columns)
  figure = new_figure(3.2 * columns, 2.9 * rows + 0.4)
  panels = list(figure.subplots(rows, columns, squeeze=False).flat)
  for panel in panels[len(shown) :]:
    panel.set_axis_off()
  for panel, (name, values) in zip(panels, shown.items(), strict=False):
    if panel is panels[0]:
      drawn = show(panel, values, name, cmap="magma", vmin=0)
    else:
      drawn = _points(panel, values)
      panel.set_title(name, fontsize="medium")
    figure.colorbar(drawn, ax=panel, shrink=0.8)
  return figure


def _stems(shown: dict[str, np.ndarray]) -> "Figure":
  """Draws the activity and the channels [L] of a signal as vertical lines, one panel below the other."""
  figure = new_figure(9, 0.8 + 1.1 * len(shown))
  panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
  for panel, (name, values) in zip(panels, shown.items(), strict=True):
    (places,) = np.nonzero(values)
    colors = np.where(values[places] > 0, "firebrick", "royalblue")
    panel.axhline(0, color="lightgrey", linewidth=0.8)
    panel.vlines(places, 0, values[places], colors=colors, linewidth=1.2)
    panel.set_title(name, fontsize="medium")
  panels[-1].set_xlim(-0.5, len(values) - 0.5)
  panels[-1].set_xlabel("position")
  return figure


def _points(panel: Any, channel: np.ndarray) -> Any:
  """Draws the nonzeros of a channel [H, W] as points; single pixels could vanish on the screen."""
  height, width = channel.shape
  row, column = np.nonzero(channel)
  limit = largest_magnitude(channel)
  pixel = 165 / max(height, width)  # size of a pixel in points, for a panel of this size
  drawn = panel.scatter(
    column,
    row,
    c=channel[row, column],
    s=max(pixel, 2) ** 2,
    marker="s",
    linewidths=0,
    cmap="coolwarm",  # visible on white also near zero
    vmin=-limit,
    vmax=limit,
  )
  panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
  return drawn


def reconstruction(
  image: ArrayLike,
  reconstruction: ArrayLike,
  *,
  observed: ArrayLike | None = None,
  peak: float = 1.0,
  title: str = "",
) -> "Figure":
  """Plots an image, its reconstruction and their difference, with the PSNR.

  The title of a panel gives its PSNR with respect to the image, 10 log10(peak^2 / mean squared error).
  It is "inf dB" for equal images and "nan dB" if a pixel is NaN; such pixels stay empty. The difference
  is white at zero (mid-grey for colour images). Use `signal` for one-dimensional signals.

  Args:
    image: The true image, of shape [H, W, 1] or [H, W, 3] with values in 0..peak. Other values are
      clipped in the plot but not in the PSNR.
    reconstruction: The reconstruction, of the same shape.
    observed: The input of the solver, for example a noisy image, which is drawn after the image. By
      default it is not drawn.
    peak: The largest possible value of a pixel, > 0.
    title: The title of the figure.

  Returns:
    A matplotlib `Figure`.

  Raises:
    ValueError: If an argument is not an image, if the shapes differ or if `peak` is not positive.
    MissingExtraError: If matplotlib is not installed.

  Example:
    >>> import numpy as np
    >>> from cscjax import plots
    >>> image = np.full((8, 8, 1), 0.5)
    >>> figure = plots.reconstruction(image, image + 0.1)
    >>> [panel.get_title() for panel in figure.axes[:3]]
    ['image', 'reconstruction: 20.0 dB', 'difference']
  """
  peak = checks.in_range("peak", peak, 0, low_open=True)
  pictures = {"image": as_image("image", image)}
  if observed is not None:
    pictures["observed"] = as_image("observed", observed)
  pictures["reconstruction"] = as_image("reconstruction", reconstruction)
  truth = pictures["image"]
  figure = new_figure(3.2 * (len(pictures) + 1) + 0.6, 3.4)
  panels = figure.subplots(1, len(pictures) + 1)
  for panel, (name, picture) in zip(panels, pictures.items(), strict=False):
    if picture.shape != truth.shape:
      checks.fail(name, picture.shape, f"the shape of the image, {truth.shape}")
    label = name if name == "image" else f"{name}: {psnr(picture, truth, data_range=peak):.1f} dB"
    show(panel, np.clip(picture / peak, 0, 1), label, cmap="gray", vmin=0, vmax=1)
  difference = pictures["reconstruction"] - truth
  limit = largest_magnitude(difference)
  if difference.ndim == 3:
    show(panels[-1], 0.5 + 0.5 * difference / limit, f"difference, ±{limit:.2g}")
  else:
    drawn = show(panels[-1], difference, "difference", cmap=SIGNED, vmin=-limit, vmax=limit)
    figure.colorbar(drawn, ax=panels[-1], shrink=0.8)
  figure.suptitle(title)
  return figure
