"""Convolutions as matrices (Fig. S1)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import ConvDictionary, mutual_coherence, to_matrix
from cscjax.ops import Padding
from cscjax.plots._images import SIGNED, largest_magnitude, new_figure, show

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def convolutional_matrices(
  filters: ArrayLike,
  signal_shape: Sequence[int],
  *,
  dilations: Sequence[int] = (1, 2),
  padding: Padding = "VALID",
  title: str = "",
) -> "Figure":
  """The convolutional matrix of some filters at several dilations, with its coherence (Fig. S1).

  A row is an atom of the dictionary D = F^T, a filter at one position; the title of a matrix has its
  mu(D), `mutual_coherence(D, signal_shape)`.

  Args:
    filters: [kh, kw, C, m] or [k, C, m]. The example of Fig. S1 has the filter (1 2, 3 4) and images
      of 3x3 or 4x4: mu = 0.47 at dilation 1, and 0 at 2.
    signal_shape: Of one signal, small: (H, W, C) or (L, C).
    dilations: One matrix each.
    padding: As in ConvDictionary.
    title: Above the matrices.

  Raises:
    ValueError: If the shape does not fit the filters at one of the dilations, or there is none.
  """
  if not dilations:
    checks.fail("dilations", dilations, "one at least")
  figure = new_figure(4 * len(dilations) + 0.8, 4)
  panels = figure.subplots(1, len(dilations), squeeze=False)[0]
  limit = largest_magnitude(np.asarray(filters))
  for panel, dilation in zip(panels, dilations, strict=True):
    dictionary = ConvDictionary(jnp.asarray(filters, float), dilation=dilation, padding=padding)
    matrix = np.asarray(to_matrix(dictionary, signal_shape)).T
    coherence = float(mutual_coherence(dictionary, signal_shape))
    name = f"dilation {dilation}: µ = {coherence:.2f}"
    show(panel, matrix, name, cmap=SIGNED, vmin=-limit, vmax=limit)
    panel.set_xlabel(f"{matrix.shape[1]} values of the signal")
    panel.set_ylabel(f"{matrix.shape[0]} atoms")
  figure.colorbar(panels[0].images[0], ax=list(panels), label="value of a tap", shrink=0.8)
  figure.suptitle(title)
  return figure
