"""What the pictures share: arrays as images, signed values around a neutral colour."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.extras import needs

if TYPE_CHECKING:
  from matplotlib.figure import Figure

SIGNED = "RdBu_r"  # white at 0, red above, blue below


def new_figure(width: float, height: float) -> "Figure":
  """An empty figure, in inches, whose panels share the place without overlapping."""
  with needs("plots", "plots need matplotlib"):
    from matplotlib.figure import Figure
  return Figure(figsize=(width, height), layout="constrained")


def as_image(name: str, x: ArrayLike) -> np.ndarray:
  """[H, W, 1] -> [H, W] and [H, W, 3] as it is, in NumPy; ValueError for anything else."""
  checks.real_array(name, x)
  image = np.asarray(x, np.float64)
  if image.ndim != 3 or image.shape[-1] not in (1, 3) or not image.size:
    checks.fail(name, image.shape, "an image [H, W, 1] or [H, W, 3]")
  return image[..., 0] if image.shape[-1] == 1 else image


def largest_magnitude(values: np.ndarray) -> float:
  """max |values| of the finite ones, 1 if that is 0: what a signed picture is scaled by."""
  return float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values))) or 1.0


def broken(values: np.ndarray) -> str:
  """The end of a title that says how many values are not finite; empty if all are."""
  count = np.count_nonzero(~np.isfinite(values))
  return f", {count:,} not finite" if count else ""


def show(panel: Any, image: np.ndarray, title: str, **options: Any) -> Any:
  """An image [H, W] or [H, W, 3] without ticks; returns what matplotlib made of it.

  Pixels that are NaN stay empty: matplotlib sees to that in [H, W] alone.
  """
  seen = ~np.isnan(image)
  if image.ndim == 3 and not seen.all():
    alpha = seen.all(axis=-1, keepdims=True)
    image = np.concatenate([np.where(alpha, image, 0), alpha], axis=-1)
  drawn = panel.imshow(image, interpolation="nearest", **options)
  panel.set_title(title, fontsize="medium")
  panel.set_xticks([])
  panel.set_yticks([])
  return drawn
