"""The Lanczos method, over any symmetric linear map."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cscjax import checks


def lanczos_max(
  operator: Callable[[jax.Array], jax.Array], start: jax.Array, iterations: int
) -> jax.Array:
  """Largest Ritz value of a symmetric positive semidefinite linear map A in a Krylov space.

  It is the maximum of v^T A v / v^T v over the span of start, A start, ..., A^(k-1) start: a lower bound
  of lambda_max that rises with k, far faster than the power method's. The three-term recurrence without
  reorthogonalisation keeps two vectors only; what rounding then takes from their orthogonality repeats
  Ritz values that have converged, and leaves the largest one right (Paige 1980).

  Args:
    operator: v -> A v, for arrays shaped like `start`.
    start: Floating array of any shape, with a part along the leading eigenvector; a random one has it
      with probability 1.
    iterations: k >= 1, how often A is applied; no more often than the size of `start`, where the space
      is whole.

  Returns:
    A scalar of the type of `start`; 0 where A start = 0.

  Raises:
    ValueError: If `iterations` is below 1.
  """
  iterations = min(checks.positive_int("iterations", iterations), start.size)
  tiny = math.sqrt(start.size) * jnp.finfo(start.dtype).eps

  def body(carry, _):
    previous, vector, beta = carry
    image = operator(vector)
    alpha = jnp.vdot(vector, image)
    rest = image - alpha * vector - beta * previous
    norm = jnp.linalg.norm(rest)
    # What is left of an exhausted space is rounding: zeros from here on, which add the Ritz value 0.
    norm = jnp.where(norm > tiny * jnp.linalg.norm(image), norm, 0)
    return (vector, _divide(rest, norm), norm), (alpha, norm)

  vector = _divide(start, jnp.linalg.norm(start))
  carry = (jnp.zeros_like(start), vector, jnp.zeros((), start.dtype))
  _, (diagonal, beside) = lax.scan(body, carry, length=iterations)
  beside = jnp.diag(beside[:-1], 1)
  return jnp.max(jnp.linalg.eigvalsh(jnp.diag(diagonal) + beside + beside.T))


def _divide(array, norm):
  return jnp.where(norm > 0, array / jnp.where(norm > 0, norm, 1), 0)
