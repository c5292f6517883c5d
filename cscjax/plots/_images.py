"""Helpers shared by the plots: figures, arrays as images, and colours for signed values."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.extras import needs

if TYPE_CHECKING:
  from matplotlib.figure import Figure

SIGNED = "RdBu_r"  # white at zero, red for positive and blue for negative values


def new_figure(width: float, height: float) -> "Figure":
  """Returns an empty figure of a size in inches, whose layout keeps panels from overlapping."""
  with needs("plots", "plots need matplotlib"):
    from matplotlib.figure import Figure
  return Figure(figsize=(width, height), layout="constrained")


def as_image(name: str, x: ArrayLike) -> np.ndarray:
  """Returns an image [H, W, 1] as [H, W], and an image [H, W, 3] unchanged, as a NumPy array."""
  checks.real_array(name, x)
  image = np.asarray(x, np.float64)
  if image.ndim != 3 or image.shape[-1] not in (1, 3) or not image.size:
    checks.fail(name, image.shape, "an image [H, W, 1] or [H, W, 3]")
  return image[..., 0] if image.shape[-1] == 1 else image


def largest_magnitude(values: np.ndarray) -> float:
  """Largest magnitude of the finite values, or 1 if it is zero, to scale signed colours."""
  return float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values))) or 1.0


def nonfinite_note(values: np.ndarray) -> str:
  """Suffix for a title that counts the values that are not finite; empty if all are finite."""
  count = np.count_nonzero(~np.isfinite(values))
  return f", {count:,} not finite" if count else ""


def show(panel: Any, image: np.ndarray, title: str, **options: Any) -> Any:
  """Draws an image [H, W] or [H, W, 3] without ticks and returns matplotlib's image object.

  NaN pixels stay empty. Matplotlib does this only for [H, W], so a colour image gets an alpha channel.
  """
  valid = ~np.isnan(image)
  if image.ndim == 3 and not valid.all():
    alpha = valid.all(axis=-1, keepdims=True)
    image = np.concatenate([np.where(alpha, image, 0), alpha], axis=-1)
  drawn = panel.imshow(image, interpolation="nearest", **options)
  panel.set_title(title, fontsize="medium")
  panel.set_xticks([])
  panel.set_yticks([])
  return drawn
