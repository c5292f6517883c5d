"""Scaling by powers of two, so that squares neither overflow nor underflow."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cscjax.ops._precision import common_float


def power_of_two(tree: Any, axis: int | Sequence[int] | None = None) -> jax.Array:
  """Returns the largest power of two, with a normal inverse, that does not exceed the largest magnitude.

  Division by it is exact, and no gradient flows through it. So for a function f that is homogeneous of
  degree k, `power**k * f(tree / power)` has the value and the derivatives of `f(tree)`, and its
  intermediate results stay in range at any scale of the tree.

  Args:
    tree: A floating-point array, or a pytree of them.
    axis: Axes over which the largest magnitude is taken; they are kept with size 1. If None, it is taken
      over all leaves and axes.

  Returns:
    A scalar, or an array that broadcasts against the leaves. It is 1 if the magnitude is zero or not
    finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> float(ops.power_of_two(jnp.array([3.0, -10.0])))
    8.0
  """
  return _power_of_two(tree, axis=_hashable(axis))


# Outside of `jax.jit`, one program for each shape instead of ten, which take a second to compile.
_as_one_program = partial(jax.jit, static_argnames="axis", inline=True)


def _hashable(axis: int | Sequence[int] | None) -> int | tuple[int, ...] | None:
  return tuple(axis) if isinstance(axis, Sequence) else axis


@_as_one_program
def _power_of_two(tree: Any, axis: int | tuple[int, ...] | None) -> jax.Array:
  parts = [
    jnp.max(jnp.abs(lax.stop_gradient(leaf)), axis=axis, keepdims=axis is not None, initial=0)
    for leaf in jax.tree.leaves(tree)
  ]
  dtype = common_float(*parts)
  largest = parts[0].astype(dtype)
  for part in parts[1:]:
    largest = jnp.maximum(largest, part.astype(dtype))
  limits = jnp.finfo(dtype)
  smallest = int(limits.minexp)
  # XLA may multiply by the inverse, and set it to zero if it is subnormal.
  exponent = jnp.clip(jnp.frexp(largest)[1] - 1, smallest, -smallest)
  power = jnp.ldexp(jnp.ones_like(largest), exponent)
  return jnp.where((largest > 0) & jnp.isfinite(largest), power, 1)


def scaled(array: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Divides an array by the power of two of its largest magnitude.

  Args:
    array: An array of real numbers. Integers are converted to floating point.

  Returns:
    The pair (array / power, power), where power is `power_of_two(array)`.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> array, power = ops.scaled(jnp.array([3.0, -10.0]))
    >>> array.tolist(), float(power)
    ([0.375, -1.25], 8.0)
  """
  array = jnp.asarray(array, common_float(array))
  power = power_of_two(array)
  return array / power, power


def norm(array: jax.Array, axis: int | Sequence[int] | None = None) -> jax.Array:
  """Computes the Euclidean norm, safely at any scale and with a zero gradient at zero.

  Args:
    array: A floating-point array.
    axis: Axes over which the norm is taken; all if None.

  Returns:
    The norm, without the axes `axis`.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> vector = jnp.array([3e-30, 4e-30])  # the squares underflow in float32
    >>> round(float(ops.norm(vector)) / 1e-30, 3)
    5.0
  """
  return _norm(array, axis=_hashable(axis))


@_as_one_program
def _norm(array: jax.Array, axis: int | tuple[int, ...] | None) -> jax.Array:
  power = power_of_two(array, axis)
  squares = jnp.sum(jnp.square(array / power), axis=axis)
  root = jnp.sqrt(jnp.where(squares > 0, squares, 1))
  return jnp.where(squares > 0, root, squares) * jnp.reshape(power, squares.shape)
