"""Powers of two by which arrays are scaled, so that squares neither overflow nor vanish."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cscjax.ops._precision import common_float

PyTree = Any


def power_of_two(tree: PyTree, axis: int | Sequence[int] | None = None) -> jax.Array:
  """The power of two at or just below the largest magnitude; 1 where that is 0 or not finite.

  Dividing by it is exact, and no gradient flows through it: for a function f that is homogeneous of
  degree k, power^k f(tree / power) has the value and the derivatives of f(tree), at any scale.

  Args:
    tree: A floating array, or a pytree of them.
    axis: The axes over which the largest magnitude is taken, which stay with size 1; if None, it is
      taken over everything.

  Returns:
    A scalar, or an array that broadcasts against `tree`.
  """
  parts = [
    jnp.max(jnp.abs(lax.stop_gradient(leaf)), axis=axis, keepdims=axis is not None, initial=0)
    for leaf in jax.tree.leaves(tree)
  ]
  dtype = common_float(*parts)
  largest = parts[0].astype(dtype)
  for part in parts[1:]:
    largest = jnp.maximum(largest, part.astype(dtype))
  limits = jnp.finfo(dtype)
  exponent = jnp.clip(jnp.frexp(largest)[1] - 1, int(limits.minexp), int(limits.maxexp) - 1)
  power = jnp.ldexp(jnp.ones_like(largest), exponent)
  return jnp.where((largest > 0) & jnp.isfinite(largest), power, 1)


def scaled(array: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(array / power, power) with the power of two of the whole array; integers are converted."""
  array = jnp.asarray(array, common_float(array))
  power = power_of_two(array)
  return array / power, power


def norm(array: jax.Array, axis: int | Sequence[int] | None = None) -> jax.Array:
  """Euclidean norm along `axis` at any scale, with the gradient 0 where it is 0."""
  power = power_of_two(array, axis)
  squares = jnp.sum(jnp.square(array / power), axis=axis)
  root = jnp.sqrt(jnp.where(squares > 0, squares, 1))
  return jnp.where(squares > 0, root, squares) * jnp.reshape(power, squares.shape)
