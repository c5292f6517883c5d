"""The proximal gradient step and the extrapolation of ISTA, FISTA and the unfolded networks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

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


def extrapolate(code: Code, previous: Code, weight: ArrayLike) -> Code:
  """Returns code + weight (code - previous)."""
  return jax.tree.map(lambda c, p: c + weight * (c - p), code, previous)
