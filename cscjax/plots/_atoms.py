"""Plots of the atoms of a dictionary."""

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.plots._images import SIGNED, largest_magnitude, new_figure, nonfinite_note, show

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def atoms(
  filters: ArrayLike,
  *,
  scale: Literal["each", "shared"] = "each",
  columns: int | None = None,
  title: str = "",
) -> "Figure":
  """Plots all atoms of a dictionary: image atoms as tiles, one-dimensional atoms as lines.

  The atoms are in reading order. Tiles with one channel are white at zero, red for positive and blue for
  negative values. Tiles with three channels are colours around mid-grey. Lines have a colour for each
  channel, which a colour bar explains if there are several. Zeros at the border of an atom, which
  `learn_dictionary` leaves around small atoms, are cut off.

  Args:
    filters: The `filters` of a `ConvDictionary`: [kh, kw, C, m] with C = 1 or 3, or [k, C, m] with any
      C, which draws one line per channel.
    scale: "each" scales every atom to the full range. "shared" uses one scale for all atoms, shown by a
      colour bar (one channel) or by the y axes (lines).
    columns: The number of columns of the tiling, >= 1. By default the tiling is about square.
    title: The title of the figure. The number of values that are not finite is added, if there are any.

  Returns:
    A matplotlib `Figure`.

  Raises:
    ValueError: If `filters` has another shape or if an argument is out of range.
    MissingExtraError: If matplotlib is not installed.

  Example:
    >>> import numpy as np
    >>> from cscjax import plots
    >>> filters = np.random.default_rng(0).normal(size=(5, 5, 1, 8))
    >>> figure = plots.atoms(filters, title="8 atoms")
    >>> figure.savefig("atoms.png")
    >>> figure.get_suptitle()
    '8 atoms'
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
  width, height = (0.5, 0.5) if images else (1.4, 1.0)  # inches of an atom
  figure = new_figure(min(10, 2 + width * columns), min(12, 1 + height * rows))
  note, values = nonfinite_note(values), np.moveaxis(values, -1, 0)
  if images:
    panel, shared = figure.subplots(), scale == "shared"
    drawn = draw_tiles(panel, values, columns, largest_magnitude(values) if shared else None)
    if shared and values.shape[-1] == 1:
      figure.colorbar(drawn, ax=panel, label="filter value", shrink=0.8)
  else:
    _lines(figure, values, scale, rows, columns)
  figure.suptitle((title + note).removeprefix(", "))
  return figure


def draw_tiles(panel: Any, atoms: np.ndarray, columns: int, limit: float | None = None) -> Any:
  """Draws atoms as tiles and returns matplotlib's image object.

  Args:
    panel: The axes to draw on.
    atoms: The atoms in reading order, [m, kh, kw, 1 or 3].
    columns: The number of columns of the tiling.
    limit: The magnitude at the ends of the colour scale. By default each atom has its own.
  """
  tiles = [_trimmed(atom) / (largest_magnitude(atom) if limit is None else limit) for atom in atoms]
  picture = _mosaic(tiles, math.ceil(len(tiles) / columns), columns)
  panel.spines[:].set_visible(False)
  if picture.shape[-1] == 3:
    return show(panel, np.where(np.isnan(picture), 1, 0.5 + 0.5 * picture), "")
  limit = 1 if limit is None else limit
  panel.patch.set_facecolor("0.6")  # the colour of NaN; grey is not part of the colour map
  return show(panel, picture[..., 0] * limit, "", cmap=SIGNED, vmin=-limit, vmax=limit)


def _trimmed(atom: np.ndarray) -> np.ndarray:
  """Replaces values outside the bounding box of the nonzeros by NaN."""
  used = np.any(atom != 0, axis=-1)
  inside = np.ones_like(used)
  for axis in range(used.ndim):
    others = tuple(other for other in range(used.ndim) if other != axis)
    taps = np.flatnonzero(used.any(axis=others))
    outside = np.ones(used.shape[axis], bool)
    outside[taps.min(initial=len(outside)) : taps.max(initial=-1) + 1] = False
    inside &= ~np.expand_dims(outside, others)
  return np.where(inside[..., None], atom, np.nan)


def _mosaic(tiles: list[np.ndarray], rows: int, columns: int) -> np.ndarray:
  """Arranges tiles [h, w, C] in one array [rows (h + 1) + 1, columns (w + 1) + 1, C] with NaN gaps."""
  height, width, channels = tiles[0].shape
  picture = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), np.nan)
  for index, tile in enumerate(tiles):
    row, column = divmod(index, columns)
    top, left = row * (height + 1) + 1, column * (width + 1) + 1
    picture[top : top + height, left : left + width] = tile
  return picture


def _lines(figure: "Figure", atoms: np.ndarray, scale: str, rows: int, columns: int) -> None:
  """Draws one-dimensional atoms [m, k, C], one panel per atom."""
  from matplotlib import colormaps
  from matplotlib.cm import ScalarMappable
  from matplotlib.colors import Normalize
  from matplotlib.ticker import MaxNLocator

  channels = atoms.shape[-1]
  colors = ScalarMappable(Normalize(-0.5, channels - 0.5), colormaps["viridis"].resampled(channels))
  panels = figure.subplots(rows, columns, sharex=True, sharey=scale == "shared", squeeze=False)
  for panel in panels.flat:
    panel.set_axis_off()
  for panel, atom in zip(panels.flat, atoms, strict=False):  # the last row can have unused panels
    panel.set_axis_on()
    panel.axhline(0, color="lightgrey", linewidth=0.8)
    for channel, color in zip(_trimmed(atom).T, colors.to_rgba(np.arange(channels)), strict=True):
      panel.plot(channel, color=color, linewidth=1.2)
    if scale == "each":
      limit = 1.1 * largest_magnitude(atom)
      panel.set_ylim(-limit, limit)
      panel.set_yticks([])
  if channels > 1:
    figure.colorbar(colors, ax=panels, label="channel", ticks=MaxNLocator(integer=True))
  figure.supxlabel("tap")
