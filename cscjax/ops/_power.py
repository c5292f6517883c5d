"""The power method, over any linear map and any pytree."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cscjax.ops._meshes import vary_alike
from cscjax.ops._precision import highest_precision
from cscjax.ops._scale import power_of_two

PyTree = Any


def normalize(tree: PyTree) -> tuple[jax.Array, PyTree]:
  """(norm, tree / norm), the Euclidean norm of all leaves together at any scale; zeros stay zero."""
  power = power_of_two(tree)
  tree = jax.tree.map(lambda leaf: leaf / power.astype(leaf.dtype), tree)
  norm = jnp.sqrt(sum(jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree)))
  scale = jnp.where(norm == 0, 0, 1 / jnp.where(norm == 0, 1, norm))
  return power * norm, jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), tree)


@highest_precision
def power_iteration(
  operator: Callable[[PyTree], PyTree], start: PyTree, iterations: int
) -> tuple[jax.Array, PyTree]:
  """Largest eigenvalue of a symmetric positive semidefinite linear map, by the power method.

  Args:
    operator: The map v -> A v, over pytrees shaped like `start`.
    start: A vector with a part along the leading eigenvector; a random one has it with probability 1.
    iterations: How often A is applied, >= 1.

  Returns:
    (eigenvalue, vector): ||A v|| for the last unit v, a lower bound of lambda_max that rises with
    `iterations`, and A v normalised, from which another call goes on. (0, 0) where A start = 0.
  """

  def body(_, carry):
    _, vector = carry
    return normalize(operator(vector))

  start = vary_alike(start, operator(start))
  return jax.lax.fori_loop(0, iterations, body, normalize(start))
