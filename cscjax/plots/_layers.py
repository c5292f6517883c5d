"""A network's layers: their atoms in the image, the code of an image, what is left of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import (
  CodedLayer,
  check_coded_layers,
  effective_atoms,
  layer_reconstructions,
  nonzero_fraction,
  scaled_fit,
)
from cscjax.plots._atoms import draw_tiles
from cscjax.plots._images import as_image, broken, new_figure, show

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def layers(
  layers: Sequence[CodedLayer],
  *,
  mean: ArrayLike = 0.0,
  std: ArrayLike = 1.0,
  reconstructions: ArrayLike | None = None,
  nonzero_fractions: ArrayLike | None = None,
  rows: int = 6,
  atoms: int = 16,
  title: str = "",
) -> "Figure":
  """A row for each of some layers: atoms, activity and reconstruction; and the sparsity of all.

  The atoms are those of the channels with most non-zeros, as `effective_atoms` sees them in the image,
  each in colours of its own. The activity is sum |code| over the channels. The reconstruction is that of
  `layer_reconstructions`, scaled to come closest to the image, with its relative error.

  Args:
    layers: Of a network, as its `pursuit_layers` returns, for images [N, H, W, 1 or 3]; the first of the
      batch is drawn.
    mean: What was taken from the images' channels, a scalar or [C].
    std: What they were divided by, in units of which white is 1 and black 0, likewise.
    reconstructions: `layer_reconstructions(layers)`, where it is known.
    nonzero_fractions: `nonzero_fraction` of each layer, of more images; of these if None.
    rows: How many layers at most, >= 1; the first and the last are among them.
    atoms: How many at most of a layer, >= 1.
    title: Above the picture.

  Raises:
    ValueError: If the signals are no images, a signal is not the code below, or an argument is out of
      range.
  """
  checks.positive_int("rows", rows)
  checks.positive_int("atoms", atoms)
  check_coded_layers(layers)
  if layers[0].signal.ndim != 4 or layers[0].signal.shape[-1] not in (1, 3):
    checks.fail("layers", layers[0].signal.shape, "images [N, H, W, 1 or 3]")
  layers = [CodedLayer(d, *jax.tree.map(lambda part: part[:1], rest)) for d, *rest in layers]
  if reconstructions is None:
    reconstructions = layer_reconstructions(layers)
  reconstructions = np.asarray(reconstructions)[:, :1]
  fractions = np.asarray(nonzero_fraction(layers) if nonzero_fractions is None else nonzero_fractions)
  if len(reconstructions) != len(layers):
    checks.fail("reconstructions", len(reconstructions), f"one for each of {len(layers)} layers")
  if fractions.shape != (len(layers),) or not np.all(np.isfinite(fractions)):
    checks.fail("nonzero_fractions", fractions, f"one finite number for each of {len(layers)} layers")
  image = np.asarray(layers[0].signal, np.float64)
  fit = scaled_fit(image, reconstructions)
  chosen = np.unique(np.linspace(0, len(layers) - 1, rows).round().astype(int))

  figure = new_figure(11.4, max(4.2, 0.4 + 1.5 * len(chosen)))
  left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(8.8, 2.6)))
  panels = left.subplots(len(chosen), 3, width_ratios=(5.2, 1.6, 1.6), squeeze=False)

  def picture(panel, values, name):
    shown = as_image("layers", np.clip(values * std + mean, 0, 1))
    show(panel, shown, name, cmap="gray", vmin=0, vmax=1)

  for i, (tiles, activity, last) in zip(chosen, panels, strict=True):
    _atoms(tiles, layers, i, atoms)
    _activity(activity, layers[i].new_code[0])
    values = fit.scale[i, 0] * reconstructions[i, 0]
    picture(last, values, f"rebuilt, error {fit.error[i, 0]:.2f}")
  top, bottom = right.subplots(2, 1, height_ratios=(1, max(1, len(chosen) - 1.5)))
  picture(top, image[0], "image")
  _sparsity(bottom, fractions)
  figure.suptitle(title)
  return figure


def _atoms(panel, layers, i, most):
  """The most used effective atoms of layer i, in one row or two."""
  code = np.asarray(layers[i].new_code[0])
  used = np.count_nonzero(code, axis=(0, 1))
  channels = np.argsort(-used, kind="stable")[:most]
  tiles = np.moveaxis(effective_atoms(layers[: i + 1], channels.tolist()), -1, 0)
  draw_tiles(panel, tiles, len(tiles) if len(tiles) <= 4 else -(-len(tiles) // 2))
  size = "×".join(map(str, tiles.shape[1:3]))
  panel.set_title(f"layer {i + 1}: {len(tiles)} of {len(used)} atoms, {size} pixels", fontsize="medium")


def _activity(panel, code):
  code = np.asarray(code, np.float64)
  fraction = np.count_nonzero(code) / code.size
  name = f"Σ|code|, {fraction:.1%} ≠ 0{broken(code)}"
  show(panel, np.abs(code).sum(axis=-1), name, cmap="magma", vmin=0)


def _sparsity(panel, fractions):
  """Fraction of non-zeros against depth, which goes down as the rows beside do."""
  from matplotlib.ticker import MaxNLocator

  panel.plot(100 * fractions, np.arange(1, len(fractions) + 1), marker=".")
  panel.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
  panel.set_ylim(len(fractions) + 0.5, 0.5)
  panel.set_xlim(0, 110 * float(np.max(fractions)) or 1)
  panel.set_xlabel("coefficients ≠ 0 (%)")
  panel.set_ylabel("layer")
  panel.grid(alpha=0.3)
