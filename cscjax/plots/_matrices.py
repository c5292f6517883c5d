"""Plots of convolutional dictionaries as matrices (Fig. S1 of the paper)."""

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
  """Plots the convolutional matrix of filters at several dilations, with its coherence (Fig. S1).

  Each row is one atom of the dictionary D = F^T, that is, a filter at one position. The title of a
  matrix gives its mutual coherence mu(D), `mutual_coherence(D, signal_shape)`.

  Args:
    filters: The filters, [kh, kw, C, m] or [k, C, m].
    signal_shape: The shape of one small signal, (H, W, C) or (L, C).
    dilations: The dilations, one matrix each.
    padding: "SAME", "CIRCULAR", "VALID" or the numbers of zeros ((low, high), ...) per spatial axis, as
      in `ConvDictionary`.
    title: The title of the figure.

  Returns:
    A matplotlib `Figure`.

  Raises:
    ValueError: If the shape does not fit the filters at one of the dilations, or if there is no
      dilation.
    MissingExtraError: If matplotlib is not installed.

  References:
    Fig. S1 of the supplement of Zhang & Zhang, National Science Review 2020: the filter
    [[1, 2], [3, 4]], with mu = 0.47 at dilation 1 and mu = 0 at dilation 2.

  Example:
    >>> import numpy as np
    >>> from cscjax import plots
    >>> filters = np.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None]
    >>> figure = plots.convolutional_matrices(filters, (4, 4, 1))
    >>> [panel.get_title() for panel in figure.axes[:2]]
    ['dilation 1: µ = 0.47', 'dilation 2: µ = 0.00']
  """
  if not isinstance(dilations, Sequence | np.ndarray) or not len(dilations):
    checks.fail("dilations", dilations, "a sequence of at least one dilation")
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
  figure.colorbar(panels[0].images[0], ax=list(panels), label="filter value", shrink=0.8)
  figure.suptitle(title)
  return figure
