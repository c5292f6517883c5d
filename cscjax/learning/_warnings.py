"""Warnings about images and penalties that are probably not meant, or from which nothing is learned."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import ConvDictionary
from cscjax.learning._images import Images
from cscjax.solvers import RelativePenalty, beta_max, looks_like_an_image, warn_about_integers


def warn_about_images(images: Any, beta: Any, has_axes: bool) -> None:
  """Warns about images whose units or axes are probably not meant.

  Args:
    images: The images as the caller gave them, an array or a list of arrays.
    beta: The penalty.
    has_axes: Whether the kernel names its size along each axis, and so the number of axes.
  """
  is_list = isinstance(images, list | tuple)
  warn_about_integers("images", images[0] if is_list else images, beta)
  if checks.is_traced(images):
    return
  shape = (len(images), *np.shape(images[0])) if is_list else jnp.shape(images)
  if not is_list and looks_like_an_image(images) and not has_axes:
    checks.warn(
      f"images: expected [N, H, W, C] or signals [N, L, C], got {shape}, which looks like one image "
      "[H, W, C] and is used as signals; pass images[None] for one image, or, for signals, the kernel "
      "with one size per axis, such as [((8,), 16)]"
    )
  checks.warn_if_channels_first("images", shape)


def warn_if_nothing_was_learned(
  support_size: jax.Array,
  dictionary: ConvDictionary,
  images: Images,
  beta: ArrayLike | RelativePenalty,
  nonnegative: bool,
) -> None:
  """Warns if all codes were zero, so that no atom was learned.

  Args:
    support_size: The support sizes of all steps.
    dictionary: The dictionary after the last step.
    images: All images.
    beta: The penalty.
    nonnegative: Whether the codes are constrained to be nonnegative.
  """
  is_known = not checks.is_traced(support_size) and support_size.is_fully_addressable
  if not is_known or np.any(support_size):
    return
  if isinstance(beta, RelativePenalty):
    expected, given = "a fraction below 1", beta.fraction
  else:
    find = partial(beta_max, dictionary, nonnegative=nonnegative)
    # One image at a time, because the codes of all may not fit into memory.
    weighed = [x if m is None else m * x for x, m in zip(images.stacks, images.masks, strict=True)]
    largest = max(np.max(jax.lax.map(find, stack)) for stack in weighed)
    expected, given = f"less than {largest:.3g}, the beta_max of the images and the atoms", beta
  checks.warn(
    f"beta: expected {expected}, got {np.min(given):g}; all codes were zero, so that nothing was learned"
  )
