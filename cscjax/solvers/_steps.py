"""The proximal gradient step and the extrapolation of ISTA, FISTA and the unfolded networks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary

SOLVERS = ("ista", "fista")
"""Names of the solvers that a network can unfold."""

Prox = Callable[[Code], Code]
"""A proximal operator, or the module that a network uses in its place: a function from code to code."""


def proximal_gradient_step(
  dictionary: Dictionary, point: Code, residual: jax.Array, step: ArrayLike, prox: Prox
) -> Code:
  """Returns prox(point - step D^T (D point - x)) (eq. 1 of Zhang & Zhang 2020).

  Args:
    dictionary: The dictionary D.
    point: The code at which the gradient is taken.
    residual: D point - x.
    step: Step size, a scalar.
    prox: The proximal operator.
  """
  # Scale the residual and not the code: the step's gradient is then one sum over the signal.
  update = dictionary.analysis(jnp.multiply(step, residual))
  return prox(jax.tree.map(jnp.subtract, point, update))


def momentum(t: Any) -> tuple[Any, Any]:
  """Returns the next t and the weight (t - 1) / t_next of FISTA (Beck & Teboulle 2009, eq. 4.2-4.3)."""
  t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
  return t_next, (t - 1) / t_next


def momentum_weights(solver: str, count: int) -> list[float]:
  """Computes the weights of the extrapolations of unfolded iterations.

  An iteration starts from code + weight (code - previous). The first weight is zero.

  Args:
    solver: `"ista"`, whose weights are zero, or `"fista"` (Beck & Teboulle 2009, eq. 4.2-4.3).
    count: The number of iterations.

  Returns:
    The weight of each iteration.

  Raises:
    ValueError: If `solver` is unknown.

  References:
    Beck, A. & Teboulle, M. (2009). A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems. SIAM Journal on Imaging Sciences 2(1).

  Example:
    >>> from cscjax.solvers import momentum_weights
    >>> [round(weight, 3) for weight in momentum_weights("fista", 3)]
    [0.0, 0.282, 0.434]
  """
  checks.one_of("solver", solver, SOLVERS)
  weights, t = [], 1.0
  for _ in range(count):
    t, weight = momentum(t)
    weights.append(weight if solver == "fista" else 0.0)
  return weights


def extrapolate(code: Code, previous: Code, weight: ArrayLike) -> Code:
  """Returns code + weight (code - previous)."""
  return jax.tree.map(lambda c, p: c + weight * (c - p), code, previous)
