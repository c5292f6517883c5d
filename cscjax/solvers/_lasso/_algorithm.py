"""A solver applied to a problem, as the loops see it, and its stopping criteria."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cscjax.dictionaries import Code
from cscjax.solvers._lasso._problem import Lasso

Stop = Literal["gradient_mapping", "gap"]
STOPS = ("gradient_mapping", "gap")

MIN_ROOT = 0.01  # of `relative_mapping`, for a beta so small that the objective is near zero


class Algorithm(NamedTuple):
  """A solver of one problem: functions of its state. XLA removes outputs that are not used.

  Attributes:
    state: The state before the first iteration.
    advance: Maps a state to (the next state, aux), where aux holds intermediate values of the iteration.
    solution: Maps a state to (code, D code).
    objective: Maps a state to the objective of its solution, [batch...], in unit^2.
    mapping: Maps (state, aux) to the norm of the gradient mapping, [batch...], in units.
    dual: Maps (state, aux) to a value of the dual objective, [batch...], in unit^2.
    objective_weight: The factor w in the criterion that compares the gradient mapping with ||D^T x||
      sqrt(w F(code) / F(0)), where F is the objective. At the same norm, a solver is farther from the
      minimum if its error lies where the curvature is small; a smaller w makes up for this.
  """

  state: Any
  advance: Callable[[Any], tuple[Any, Any]]
  solution: Callable[[Any], tuple[Code, jax.Array]]
  objective: Callable[[Any], jax.Array]
  mapping: Callable[[Any, Any], jax.Array]
  dual: Callable[[Any, Any], jax.Array]
  objective_weight: float


def relative_size(size: jax.Array, scale: jax.Array) -> jax.Array:
  """Returns size / scale, 0 if both are 0, with finite derivatives where `scale` is 0."""
  quotient = size / jnp.where(scale == 0, 1, scale)
  return jnp.where(scale == 0, jnp.where(size == 0, 0, jnp.inf), quotient)


def relative_mapping(norm: jax.Array, correlation: jax.Array, decrease: jax.Array) -> jax.Array:
  """Returns the norm of a gradient mapping, relative to ||D^T x|| and to the decrease of the objective.

  Args:
    norm: The norm of the gradient mapping.
    correlation: ||D^T x||.
    decrease: w F(code) / F(0), where F is the objective and w the weight of `Algorithm`.
  """
  return relative_size(norm, jnp.clip(jnp.sqrt(decrease), MIN_ROOT, 1) * correlation)


class StoppingCriteria:
  """The stopping criteria of an algorithm, as functions of its state.

  Attributes:
    unknown: Infinity for each signal, [batch...]: the criteria before the first iteration.
    lowest: Zero for each signal, [batch...]: a lower bound of every objective.
  """

  def __init__(self, problem: Lasso, algorithm: Algorithm):
    """Computes what the criteria compare with: norms of `problem`."""
    self._problem, self._algorithm = problem, algorithm
    self._at_zero = 0.5 * problem.energy(problem.x)
    self._correlation = problem.norm(problem.correlation())
    self.lowest = jnp.zeros_like(self._at_zero)
    self.unknown = self.lowest + jnp.inf

  def __call__(
    self, names: Sequence[str], state: Any, aux: Any, best: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes criteria after an iteration.

    Args:
      names: The criteria to compute, some of `STOPS`.
      state: The state after the iteration.
      aux: The intermediate values of the iteration.
      best: The largest dual value before the iteration, [batch...].

    Returns:
      The largest dual value so far, and a dictionary of the criteria, each [batch...].
    """
    measures = {}
    objective = self._algorithm.objective(state)
    if "gradient_mapping" in names:
      decrease = self._algorithm.objective_weight * relative_size(objective, self._at_zero)
      mapping = self._algorithm.mapping(state, aux)
      measures["gradient_mapping"] = relative_mapping(mapping, self._correlation, decrease)
    if "gap" in names:
      best = jnp.maximum(best, self._algorithm.dual(state, aux))
      rounding = float(jnp.finfo(self._problem.x.dtype).eps) * objective
      measures["gap"] = relative_size(jnp.maximum(objective - best, rounding), objective)
    return best, measures
