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

Operator = Callable[[jax.Array], jax.Array]
Vectors = tuple[jax.Array, jax.Array, jax.Array]  # previous vector, vector, and their coupling beta


def normalize(tree: Any) -> tuple[jax.Array, Any]:
  """Returns the Euclidean norm of all leaves together, and the tree divided by it; zeros stay zero."""
  power = power_of_two(tree)
  tree = jax.tree.map(lambda leaf: leaf / power.astype(leaf.dtype), tree)
  size = jnp.sqrt(sum(jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree)))
  scale = jnp.where(size == 0, 0, 1 / jnp.where(size == 0, 1, size))
  return power * size, jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), tree)


@highest_precision
def power_iteration(
  operator: Callable[[Any], Any], start: Any, iterations: int
) -> tuple[jax.Array, Any]:
  """Estimates the largest eigenvalue of a symmetric positive semidefinite map with the power method.

  Args:
    operator: The linear map v -> A v, for pytrees shaped like `start`.
    start: Initial vector, a pytree of arrays. It must have a component along the leading eigenvector; a
      random vector has one with probability 1.
    iterations: Number of applications of A, at least 1.

  Returns:
    The pair (eigenvalue, vector). The eigenvalue is ||A v|| for the last unit vector v, a lower bound of
    lambda_max that grows with `iterations`. The vector is A v / ||A v||; pass it as `start` to continue.
    Both are zero if A start = 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> diagonal = jnp.array([1.0, 2.0, 5.0])
    >>> eigenvalue, vector = ops.power_iteration(lambda v: diagonal * v, jnp.ones(3), 20)
    >>> round(float(eigenvalue), 3), [round(float(entry), 3) for entry in vector]
    (5.0, [0.0, 0.0, 1.0])
  """

  def body(_: jax.Array, carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
    _, vector = carry
    return normalize(operator(vector))

  start = vary_alike(start, operator(start))
  return jax.lax.fori_loop(0, iterations, body, normalize(start))


@highest_precision
def lanczos_max(operator: Operator, start: jax.Array, iterations: int) -> jax.Array:
  """Computes the largest Ritz value of a symmetric positive semidefinite map with the Lanczos method.

  In exact arithmetic this is the maximum of `v^T A v / v^T v` over the Krylov space spanned by start,
  A start, ..., A^(k-1) start: a lower bound of lambda_max that converges much faster with k than that of
  the power method. The three-term recurrence stores two vectors only and does not reorthogonalize them.
  Rounding therefore destroys the orthogonality of the basis: converged Ritz values are found repeatedly,
  but the largest one stays correct (Paige 1980), and n iterations need not span a space of dimension n.

  Args:
    operator: The linear map v -> A v, for arrays shaped like `start`.
    start: Initial vector, a floating-point array of any shape. It must have a component along the
      leading eigenvector; a random vector has one with probability 1.
    iterations: Number k of applications of A, at least 1. It may exceed the size of `start`: further
      iterations compensate for the loss of orthogonality.

  Returns:
    A scalar of the type of `start`, zero if A start = 0.

  Raises:
    ValueError: If `iterations` is not an integer of at least 1.

  References:
    Paige, C. C.: Accuracy and effectiveness of the Lanczos algorithm for the symmetric eigenproblem.
    Linear Algebra and its Applications 34, 1980.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> diagonal = jnp.array([1.0, 2.0, 5.0])
    >>> round(float(ops.lanczos_max(lambda v: diagonal * v, jnp.ones(3), 3)), 3)
    5.0
  """
  iterations = checks.positive_int("iterations", iterations)
  return jnp.max(jnp.linalg.eigvalsh(_tridiagonal(operator, start, iterations)))


@highest_precision
def lanczos_vector(operator: Operator, start: jax.Array, iterations: int) -> jax.Array:
  """Computes the unit vector whose Rayleigh quotient is the largest Ritz value of the Lanczos method.

  It approximates the leading eigenvector of a symmetric positive semidefinite map A. The recurrence runs
  twice, so that its vectors need not be stored.

  Args:
    operator: The linear map v -> A v, for arrays shaped like `start`.
    start: Initial vector, a floating-point array of any shape. It must have a component along the
      leading eigenvector; a random vector has one with probability 1.
    iterations: Number of iterations of the recurrence, at least 1.

  Returns:
    An array of the shape of `start`, with norm 1; zeros if `start` is zero.

  Raises:
    ValueError: If `iterations` is not an integer of at least 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> diagonal = jnp.array([1.0, 2.0, 5.0])
    >>> vector = ops.lanczos_vector(lambda v: diagonal * v, jnp.ones(3), 3)
    >>> [round(abs(float(entry)), 2) for entry in vector]
    [0.0, 0.0, 1.0]
  """
  iterations = checks.positive_int("iterations", iterations)
  weights = jnp.linalg.eigh(_tridiagonal(operator, start, iterations))[1][:, -1]

  start = vary_alike(start, weights)

  def body(
    carry: tuple[Vectors, jax.Array], weight: jax.Array
  ) -> tuple[tuple[Vectors, jax.Array], None]:
    state, total = carry
    total = total + weight * state[1]
    return (_step(operator, state)[0], total), None

  (_, total), _ = lax.scan(body, (_first(start), jnp.zeros_like(start)), weights)
  return _divide(total, norm(total))


def _tridiagonal(operator: Operator, start: jax.Array, iterations: int) -> jax.Array:
  """Returns the map in the basis of the recurrence, a tridiagonal matrix [k, k]."""
  start = vary_alike(start, operator(start))
  _, (diagonal, off_diagonal) = lax.scan(
    lambda state, _: _step(operator, state), _first(start), length=iterations
  )
  upper = jnp.diag(off_diagonal[:-1], 1)
  return jnp.diag(diagonal) + upper + upper.T


def _first(start: jax.Array) -> Vectors:
  """Returns the initial state of the recurrence: no previous vector, and the normalized start."""
  return jnp.zeros_like(start), _divide(start, norm(start)), jnp.zeros_like(start, shape=())


def _step(operator: Operator, state: Vectors) -> tuple[Vectors, tuple[jax.Array, jax.Array]]:
  """Computes one step of the recurrence: its next state, and its diagonal and off-diagonal entries."""
  previous, vector, beta = state
  image = operator(vector)
  alpha = jnp.vdot(vector, image)
  residual = image - alpha * vector - beta * previous
  size = norm(residual)
  # Once the Krylov space is exhausted, the residual is rounding noise. It is replaced by zero, and so
  # are all later vectors, which only adds Ritz values of zero.
  tiny = math.sqrt(vector.size) * jnp.finfo(vector.dtype).eps
  size = jnp.where(size > tiny * norm(image), size, 0)
  return (vector, _divide(residual, size), size), (alpha, size)


def _divide(array: jax.Array, size: jax.Array) -> jax.Array:
  """Returns array / size, or zeros if `size` is zero."""
  return jnp.where(size > 0, array / jnp.where(size > 0, size, 1), 0)
