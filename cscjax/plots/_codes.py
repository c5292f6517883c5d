"""A code and its reconstruction."""

import math
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.plots._images import SIGNED, as_image, broken, largest_magnitude, new_figure, show

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def code(code: ArrayLike, *, channels: int = 5, title: str = "") -> "Figure":
  """Where a code is active, and its most used channels.

  The first panel is the activity, sum |code| over the channels. The others are the channels with most
  non-zeros, each a point (red above 0, blue below) that is large enough to be seen alone.

  Args:
    code: Of one image, [H, W, m]; of a code in parts, one of them.
    channels: How many, >= 1; no more than m are drawn.
    title: Above the panels, before the fraction of coefficients that are not 0, and the number of those
      that are not finite where there are any.

  Raises:
    ValueError: If `code` has another rank, or `channels` is out of range.
  """
  checks.real_array("code", code)
  values = np.asarray(code, np.float64)
  if values.ndim != 3 or not values.size:
    checks.fail("code", values.shape, "the code of one image, [H, W, m]")
  channels = min(checks.positive_int("channels", channels), values.shape[-1])
  used = np.count_nonzero(values, axis=(0, 1))
  most_used = np.argsort(-used, kind="stable")[:channels]
  columns = min(3, channels + 1)
  rows = math.ceil((channels + 1) / columns)
  figure = new_figure(3.2 * columns, 2.9 * rows + 0.4)
  panels = list(figure.subplots(rows, columns, squeeze=False).flat)
  for panel in panels[channels + 1 :]:
    panel.set_axis_off()
  drawn = show(panels[0], np.abs(values).sum(axis=-1), "activity Σ|code|", cmap="magma", vmin=0)
  figure.colorbar(drawn, ax=panels[0], shrink=0.8)
  for panel, channel in zip(panels[1:], most_used, strict=False):
    drawn = _points(panel, values[..., channel])
    panel.set_title(f"channel {channel}: {used[channel]:,} non-zeros", fontsize="medium")
    figure.colorbar(drawn, ax=panel, shrink=0.8)
  density = f"{used.sum() / values.size:.2%} of {values.size:,} coefficients are not 0{broken(values)}"
  figure.suptitle(f"{title}: {density}" if title else density)
  return figure


def _points(panel, channel):
  """The non-zeros of [H, W]; as pixels of a picture most would fall between those of the screen."""
  height, width = channel.shape
  row, column = np.nonzero(channel)
  limit = largest_magnitude(channel)
  pixel = 165 / max(height, width)  # in typographic points, of a panel of this size
  drawn = panel.scatter(
    column,
    row,
    c=channel[row, column],
    s=max(pixel, 2) ** 2,
    marker="s",
    linewidths=0,
    cmap="coolwarm",  # not white near 0
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
  """An image, its reconstruction, and the difference of the two around white (or mid-grey).

  The title of a picture has its PSNR against the image, 10 log10(peak^2 / mean squared difference):
  "inf dB" where they are equal, "nan dB" where a pixel of either is NaN. Such pixels stay empty.

  Args:
    image: The true one, [H, W, 1] or [H, W, 3], values in 0..peak; what lies outside is clipped in
      the picture, not in the PSNR.
    reconstruction: Likewise.
    observed: What the solver saw, noisy or with missing pixels, drawn beside the image.
    peak: Largest value of a pixel, > 0.
    title: Above the panels.

  Raises:
    ValueError: If one is no image, shapes differ, or `peak` is not positive.
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
    label = name if name == "image" else f"{name}: {_psnr(picture, truth, peak):.1f} dB"
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


def _psnr(picture, truth, peak):
  error = np.mean(np.square((picture - truth) / peak))
  with np.errstate(divide="ignore"):  # equal pictures: infinite
    return -10 * np.log10(error)
