"""The atoms of a dictionary."""

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.plots._images import SIGNED, broken, largest_magnitude, new_figure, show

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def atoms(
  filters: ArrayLike,
  *,
  scale: Literal["each", "shared"] = "each",
  columns: int | None = None,
  title: str = "",
) -> "Figure":
  """All atoms as tiles in reading order; those of one-dimensional signals as lines.

  Atoms of one channel are white at 0, red above and blue below; those of three are colours around
  mid-grey. An atom smaller than the array it is stored in, zeros around it as `learn_dictionary` leaves
  them, is a smaller tile.

  Args:
    filters: [kh, kw, C, m] with C = 1 or 3, or [k, C, m] with any C, a line a channel: the `filters` of
      a ConvDictionary.
    scale: Of the colours or the lines: "each" atom fills the range, or one "shared" by all, with its
      scale beside it.
    columns: Of the tiling, >= 1; about square if None.
    title: Above the picture, before the number of taps that are not finite where there are any.

  Raises:
    ValueError: If `filters` has another shape or an argument is out of range.
  """
  checks.real_array("filters", filters)
  values = np.asarray(filters, np.float64)
  images = values.ndim == 4 and values.shape[-2] in (1, 3)
  if not (images or values.ndim == 3) or not values.size:
    checks.fail("filters", values.shape, "[kh, kw, 1 or 3, m] or [k, C, m]")
  checks.one_of("scale", scale, ("each", "shared"))
  count = values.shape[-1]
  columns = math.ceil(math.sqrt(count)) if columns is None else checks.positive_int("columns", columns)
  columns = min(columns, count)
  rows = math.ceil(count / columns)
  figure = new_figure(min(10, 2 + 0.5 * columns), min(12, 1 + 0.5 * rows))
  unfit, values = broken(values), np.moveaxis(values, -1, 0)
  if images:
    panel, shared = figure.subplots(), scale == "shared"
    drawn = draw_tiles(panel, values, columns, largest_magnitude(values) if shared else None)
    if shared and values.shape[-1] == 1:
      figure.colorbar(drawn, ax=panel, label="value of a tap", shrink=0.8)
  else:
    _lines(figure, values, scale, rows, columns)
  figure.suptitle((title + unfit).removeprefix(", "))
  return figure


def draw_tiles(panel: Any, atoms: np.ndarray, columns: int, limit: float | None = None) -> Any:
  """Atoms [m, kh, kw, 1 or 3] as tiles; returns what matplotlib made of them.

  Args:
    panel: To draw on.
    atoms: In reading order.
    columns: Of the tiling.
    limit: Magnitude at the end of the colours; None: each atom's own.
  """
  tiles = [_trimmed(atom) / (largest_magnitude(atom) if limit is None else limit) for atom in atoms]
  picture = _mosaic(tiles, math.ceil(len(tiles) / columns), columns)
  panel.spines[:].set_visible(False)
  if picture.shape[-1] == 3:
    return show(panel, np.where(np.isnan(picture), 1, 0.5 + 0.5 * picture), "")
  limit = 1 if limit is None else limit
  panel.patch.set_facecolor("0.6")  # shows where the picture is NaN; the colours of taps hold no grey
  return show(panel, picture[..., 0] * limit, "", cmap=SIGNED, vmin=-limit, vmax=limit)


def _trimmed(atom):
  """NaN outside the smallest box that holds all taps but zeros."""
  used = np.any(atom != 0, axis=-1)
  inside = np.ones_like(used)
  for axis in range(2):
    taps = np.flatnonzero(used.any(axis=1 - axis))
    outside = np.ones(used.shape[axis], bool)
    outside[taps.min(initial=len(outside)) : taps.max(initial=-1) + 1] = False
    inside &= ~np.expand_dims(outside, 1 - axis)
  return np.where(inside[..., None], atom, np.nan)


def _mosaic(tiles: list[np.ndarray], rows: int, columns: int) -> np.ndarray:
  """Tiles [h, w, C] in one array [rows (h + 1) + 1, columns (w + 1) + 1, C], NaN between them."""
  height, width, channels = tiles[0].shape
  picture = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), np.nan)
  for index, tile in enumerate(tiles):
    row, column = divmod(index, columns)
    top, left = row * (height + 1) + 1, column * (width + 1) + 1
    picture[top : top + height, left : left + width] = tile
  return picture


def _lines(figure, atoms, scale, rows, columns):
  panels = figure.subplots(rows, columns, sharex=True, sharey=scale == "shared", squeeze=False)
  for panel in panels.flat:
    panel.set_axis_off()
  for panel, atom in zip(panels.flat, atoms, strict=False):  # the last row may have panels to spare
    panel.set_axis_on()
    panel.axhline(0, color="lightgrey", linewidth=0.8)
    panel.plot(atom)
    if scale == "each":
      limit = 1.1 * largest_magnitude(atom)
      panel.set_ylim(-limit, limit)
      panel.set_yticks([])
  figure.supxlabel("tap")
