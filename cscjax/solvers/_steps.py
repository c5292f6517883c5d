"""The two formulas that ISTA, FISTA and the unfolded networks are made of."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax.dictionaries import Code, Dictionary

SOLVERS = ("ista", "fista")

Prox = Callable[[Code], Code]
"""A proximal operator, or what a network puts in its place: code -> code."""


def proximal_gradient_step(
  dictionary: Dictionary, point: Code, residual: jax.Array, step: ArrayLike, prox: Prox
) -> Code:
  """prox(point - step D^T (D point - x)) (eq. 1), given the residual D point - x and a scalar step."""
  # The step's gradient is one sum of the residual's size, and not one of each part of the code.
  update = dictionary.analysis(jnp.multiply(step, residual))
  return prox(jax.tree.map(jnp.subtract, point, update))


def momentum(t: Any) -> tuple[Any, Any]:
  """Next t and the weight (t - 1) / t_next of FISTA's extrapolation (Beck & Teboulle 2009, 4.2-4.3)."""
  t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
  return t_next, (t - 1) / t_next


def extrapolate(code: Code, previous: Code, weight: ArrayLike) -> Code:
  """code + weight (code - previous)."""
  return jax.tree.map(lambda c, p: c + weight * (c - p), code, previous)
