"""Checks of the input of networks and layers."""

from typing import Any

import jax
import jax.numpy as jnp

from cscjax import checks

SMALLEST_IMAGE, LARGEST_RATIO = 8, 3
"""Sizes of an image along both axes, by which `check_input` recognizes channels in the wrong axis."""


def check_input(x: jax.Array, *, least: int = 1) -> None:
  """Checks the images or signals that a whole network receives.

  Warns if an array with known values contains integers, or looks like images with channels first. The
  layers within a network do not look for the latter, because a code of any shape is valid.

  Args:
    x: The input of the network.
    least: Smallest size along each spatial axis.

  Raises:
    ValueError: If `x` is not [N, H, W, C] or [N, L, C], or is too small.
  """
  checks.all_real("x", x)
  if x.ndim not in (3, 4) or min(x.shape[1:-1]) < least or x.shape[-1] < 1:
    checks.fail("x", x.shape, f"shape [N, H, W, C] or [N, L, C] with H, W, L >= {least}")
  warn_about_integers(x)
  if checks.is_traced(x) or x.ndim != 4 or x.shape[1] not in (1, 3, 4):
    return
  short, long = sorted(x.shape[2:])
  if SMALLEST_IMAGE <= short and long <= LARGEST_RATIO * short:
    checks.warn(
      f"x: expected channels in the last axis, got {x.shape}, which looks like [N, C, H, W]; pass "
      "jnp.moveaxis(x, 1, -1)"
    )


def warn_about_integers(x: jax.Array) -> None:
  """Warns if an array with known values contains integers above 1, such as pixels in 0..255.

  Args:
    x: The input of a network or a layer.
  """
  is_known = not checks.is_traced(x) and jnp.issubdtype(x.dtype, jnp.integer)
  if is_known and x.size and (largest := int(x.max())) > 1:
    checks.warn(
      f"x: expected normalized floating-point values, got integers ({x.dtype}) up to {largest}; divide "
      "them by their largest value, or use cscjax.training.normalize"
    )


def check_static(name: str, value: Any, position: int) -> None:
  """Checks that an argument of a module's call is True or False, and not traced.

  Flax's transformations trace all arguments that are passed by keyword, and so does `jax.jit`.

  Args:
    name: The name of the argument.
    value: The value to check.
    position: The position of the argument, where that of the module is 0.

  Raises:
    ValueError: If it is not.
  """
  if checks.is_traced(value):
    flax = f"pass it by position with static_argnums=({position},) under nn.remat or nn.jit"
    checks.fail(name, value, f'True or False; {flax}, and with static_argnames="{name}" under jax.jit')
  checks.boolean(name, value)
