"""Largest eigenvalues of symmetric linear maps: the power method and the Lanczos method."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cscjax import checks
from cscjax.ops._meshes import vary_alike
from cscjax.ops._precision import highest_precision
from cscjax.ops._scale import norm, power_of_two

PyTree = Any


def normalize(tree: PyTree) -> tuple[jax.Array, PyTree]:
  """(norm, tree / norm), the Euclidean norm of all leaves together at any scale; zeros stay zero."""
  power = power_of_two(tree)
  tree = jax.tree.map(lambda leaf: leaf / power.astype(leaf.dtype), tree)
  size = jnp.sqrt(sum(jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree)))
  scale = jnp.where(size == 0, 0, 1 / jnp.where(size == 0, 1, size))
  return power * size, jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), tree)


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


Operator = Callable[[jax.Array], jax.Array]


@highest_precision
def lanczos_max(operator: Operator, start: jax.Array, iterations: int) -> jax.Array:
  """Largest Ritz value of a symmetric positive semidefinite linear map A in a Krylov space.

  In exact arithmetic it is the maximum of v^T A v / v^T v over the span of start, A start, ...,
  A^(k-1) start: a lower bound of lambda_max that rises with k, far faster than the power method's. The
  three-term recurrence without reorthogonalisation keeps two vectors only. Rounding takes their
  orthogonality away: Ritz values that have converged are found again and again, the largest one stays
  right (Paige 1980), and n iterations need not span the whole space of dimension n.

  Args:
    operator: v -> A v, for arrays shaped like `start`.
    start: Floating array of any shape, with a part along the leading eigenvector; a random one has it
      with probability 1.
    iterations: k >= 1, how often A is applied. More than the size of `start` repair what rounding
      delayed.

  Returns:
    A scalar of the type of `start`; 0 where A start = 0.

  Raises:
    ValueError: If `iterations` is below 1.
  """
  iterations = checks.positive_int("iterations", iterations)
  return jnp.max(jnp.linalg.eigvalsh(_tridiagonal(operator, start, iterations)))


@highest_precision
def lanczos_vector(operator: Operator, start: jax.Array, iterations: int) -> jax.Array:
  """The Ritz vector of `lanczos_max`, of norm 1, from a second pass of the recurrence.

  Args:
    operator: See `lanczos_max`.
    start: See `lanczos_max`.
    iterations: See `lanczos_max`.

  Returns:
    An array of the shape of `start`; zeros where `start` is zero.

  Raises:
    ValueError: If `iterations` is below 1.
  """
  iterations = checks.positive_int("iterations", iterations)
  weights = jnp.linalg.eigh(_tridiagonal(operator, start, iterations))[1][:, -1]

  start = vary_alike(start, weights)

  def body(carry, weight):
    state, total = carry
    total = total + weight * state[1]
    return (_step(operator, state)[0], total), None

  (_, total), _ = lax.scan(body, (_first(start), jnp.zeros_like(start)), weights)
  return _divide(total, norm(total))


def _tridiagonal(operator, start, iterations):
  """[k, k], the map in the basis of the recurrence."""
  start = vary_alike(start, operator(start))
  _, (diagonal, beside) = lax.scan(
    lambda state, _: _step(operator, state), _first(start), length=iterations
  )
  beside = jnp.diag(beside[:-1], 1)
  return jnp.diag(diagonal) + beside + beside.T


def _first(start):
  """(previous vector, vector, what couples them)."""
  return jnp.zeros_like(start), _divide(start, norm(start)), jnp.zeros_like(start, shape=())


def _step(operator, state):
  previous, vector, beta = state
  image = operator(vector)
  alpha = jnp.vdot(vector, image)
  rest = image - alpha * vector - beta * previous
  size = norm(rest)
  # What is left of an exhausted space is rounding: zeros from here on, which add the Ritz value 0.
  tiny = math.sqrt(vector.size) * jnp.finfo(vector.dtype).eps
  size = jnp.where(size > tiny * norm(image), size, 0)
  return (vector, _divide(rest, size), size), (alpha, size)


def _divide(array, size):
  return jnp.where(size > 0, array / jnp.where(size > 0, size, 1), 0)
