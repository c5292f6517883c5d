"""Plots of the layers of a network: effective atoms, activity, reconstructions and sparsity."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
from cscjax.plots._images import as_image, new_figure, nonfinite_note, show

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
  """Plots atoms, activity and reconstruction of selected layers, and the sparsity of all layers.

  Each selected layer is one row. Its atoms are the `effective_atoms`, that is, the atoms as they appear
  in the image, of the channels with the most nonzeros; each atom has its own colour scale. The activity
  is the sum of |code| over the channels. The reconstruction is that of `layer_reconstructions`,
  multiplied by the factor that fits the image best; its title gives the relative error.

  Args:
    layers: The layers of a network, as its method `pursuit_layers` returns them, for images
      [N, H, W, 1 or 3]. The first image of the batch is drawn.
    mean: The mean that was subtracted from the images, a scalar or one value per channel [C].
    std: The standard deviation that the images were divided by, a scalar or [C]. Times `std` plus
      `mean`, a pixel is 0 if black and 1 if white.
    reconstructions: `layer_reconstructions(layers)`, if already computed. By default it is computed.
    nonzero_fractions: The fraction of nonzeros of each layer, for example from more images. By default
      that of the first image.
    rows: The largest number of layers to draw, >= 1. The layers are evenly spaced, from the first.
    atoms: The largest number of atoms per layer, >= 1.
    title: The title of the figure.

  Returns:
    A matplotlib `Figure`.

  Raises:
    ValueError: If the signals are not images, if a signal is neither the previous code nor its pooling,
      or if an argument is out of range.
    MissingExtraError: If matplotlib is not installed.

  Example:
    >>> import jax
    >>> import cscjax
    >>> from cscjax import plots
    >>> x = jax.random.normal(jax.random.key(0), (1, 8, 8, 1))
    >>> D = cscjax.ConvDictionary(jax.random.normal(jax.random.key(1), (3, 3, 1, 4)))
    >>> (code,) = cscjax.layered_thresholding([D], x, [0.5])
    >>> figure = plots.layers([cscjax.CodedLayer(D, x, code)])
    >>> figure.axes[0].get_title()
    'layer 1: 4 of 4 atoms, 3×3 pixels'
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
    checks.fail("reconstructions", len(reconstructions), f"one per layer, {len(layers)}")
  if fractions.shape != (len(layers),) or not np.all(np.isfinite(fractions)):
    checks.fail("nonzero_fractions", fractions, f"one finite number per layer, {len(layers)}")
  image = np.asarray(layers[0].signal, np.float64)
  fit = scaled_fit(image, reconstructions)
  chosen = np.unique(np.linspace(0, len(layers) - 1, rows).round().astype(int))

  figure = new_figure(11.4, max(4.2, 0.4 + 1.5 * len(chosen)))
  left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(8.8, 2.6)))
  panels = left.subplots(len(chosen), 3, width_ratios=(5.2, 1.6, 1.6), squeeze=False)

  def picture(panel: Any, values: np.ndarray, name: str) -> None:
    shown = as_image("layers", np.clip(values * std + mean, 0, 1))
    show(panel, shown, name, cmap="gray", vmin=0, vmax=1)

  for i, (tiles, activity, last) in zip(chosen, panels, strict=True):
    _atoms(tiles, layers, i, atoms)
    _activity(activity, layers[i].new_code[0])
    values = fit.scale[i, 0] * reconstructions[i, 0]
    picture(last, values, f"relative error {fit.error[i, 0]:.2f}")
  top, bottom = right.subplots(2, 1, height_ratios=(1, max(1, len(chosen) - 1.5)))
  picture(top, image[0], "image")
  _sparsity(bottom, fractions)
  figure.suptitle(title)
  return figure


def _atoms(panel: Any, layers: Sequence[CodedLayer], i: int, most: int) -> None:
  """Draws the effective atoms of the channels of layer i with the most nonzeros, in one or two rows."""
  code = np.asarray(layers[i].new_code[0])
  used = np.count_nonzero(code, axis=tuple(range(code.ndim - 1)))
  channels = np.argsort(-used, kind="stable")[:most]
  tiles = np.moveaxis(effective_atoms(layers[: i + 1], channels.tolist()), -1, 0)
  draw_tiles(panel, tiles, len(tiles) if len(tiles) <= 4 else -(-len(tiles) // 2))
  size = "×".join(map(str, tiles.shape[1:3]))
  panel.set_title(f"layer {i + 1}: {len(tiles)} of {len(used)} atoms, {size} pixels", fontsize="medium")


def _activity(panel: Any, code: ArrayLike) -> None:
  """Draws the sum of |code| over the channels."""
  code = np.asarray(code, np.float64)
  fraction = np.count_nonzero(code) / code.size
  name = f"Σ|code|, {fraction:.1%} ≠ 0{nonfinite_note(code)}"
  activity = np.abs(code).sum(axis=tuple(range(2, code.ndim)))
  show(panel, activity, name, cmap="magma", vmin=0)


def _sparsity(panel: Any, fractions: np.ndarray) -> None:
  """Draws the fraction of nonzeros per layer; the depth increases downwards, like the rows."""
  from matplotlib.ticker import MaxNLocator

  panel.plot(100 * fractions, np.arange(1, len(fractions) + 1), marker=".")
  panel.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
  panel.set_ylim(len(fractions) + 0.5, 0.5)
  panel.set_xlim(0, 110 * float(np.max(fractions)) or 1)
  panel.set_xlabel("nonzero coefficients (%)")
  panel.set_ylabel("layer")
  panel.grid(alpha=0.3)
