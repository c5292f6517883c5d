"""The power method, over any linear map and any pytree."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def tree_norm(tree: PyTree) -> jax.Array:
  """Euclidean norm of all leaves together."""
  return jnp.sqrt(sum(jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree)))


def normalize(tree: PyTree) -> PyTree:
  """The tree divided by its norm; a zero tree stays zero."""
  norm = tree_norm(tree)
  scale = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)
  return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), tree)


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
    image = operator(vector)
    return tree_norm(image), normalize(image)

  start = normalize(start)
  dtype = jnp.result_type(*jax.tree.leaves(start))
  return jax.lax.fori_loop(0, iterations, body, (jnp.zeros((), dtype), start))
