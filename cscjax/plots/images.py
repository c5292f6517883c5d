"""What the pictures share: arrays as images, signed values around a neutral colour."""

from typing import Any

import numpy as np
from jax.typing import ArrayLike

from cscjax import checks

SIGNED = "RdBu_r"  # white at 0, red above, blue below


def as_image(name: str, x: ArrayLike) -> np.ndarray:
  """[H, W, 1] -> [H, W] and [H, W, 3] as it is, in NumPy; ValueError for anything else."""
  checks.real_array(name, x)
  image = np.asarray(x, np.float64)
  if image.ndim != 3 or image.shape[-1] not in (1, 3) or not image.size:
    checks.fail(name, image.shape, "an image [H, W, 1] or [H, W, 3]")
  return image[..., 0] if image.shape[-1] == 1 else image


def largest(values: np.ndarray) -> float:
  """max |values|, 1 where all are 0 or none are left: what a signed picture is scaled by."""
  return float(np.nanmax(np.abs(values), initial=0.0)) or 1.0


def show(panel: Any, image: np.ndarray, title: str, **options: Any) -> Any:
  """An image [H, W] or [H, W, 3] without ticks; returns what matplotlib made of it."""
  drawn = panel.imshow(image, interpolation="nearest", **options)
  panel.set_title(title, fontsize="medium")
  panel.set_xticks([])
  panel.set_yticks([])
  return drawn
