"""What a solver is to the loops that run it, and how far from the solution it is."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from cscjax.dictionaries import Code
from cscjax.solvers._lasso._problem import Lasso

Stop = Literal["gradient_mapping", "gap"]
STOPS = ("gradient_mapping", "gap")

LEAST_ROOT = 0.01  # where beta is so small that the objective goes to 0


class Algorithm(NamedTuple):
  """An iterative solver of one problem. What nobody reads of all these is not computed.

  Attributes:
    state: To start from.
    advance: State -> (next state, evidence): what the iteration computed on the way.
    solution: State -> (code, D code).
    mapping: (State, evidence) -> norm of the gradient mapping, [batch...], in units.
    dual: (State, evidence) -> a value of the dual objective, [batch...], in unit^2.
    objective_weight: w where the mapping is compared with ||D^T x|| sqrt(w F(code) / F(0)), F the
      objective. At one norm of the mapping a method is farther from the minimum if its error lies
      where the curvature is least.
  """

  state: Any
  advance: Callable[[Any], tuple[Any, Any]]
  solution: Callable[[Any], tuple[Code, jax.Array]]
  mapping: Callable[[Any, Any], jax.Array]
  dual: Callable[[Any, Any], jax.Array]
  objective_weight: float


class Method(Protocol):
  """Sets up an algorithm; hashable, so that a second call with like arguments compiles nothing."""

  def __call__(self, problem: Lasso, parameter: jax.Array | None, init: Code) -> Algorithm:
    """The algorithm for a problem, from a step size or the like (None: its own) and a code."""
    ...


def relative(size: jax.Array, scale: jax.Array) -> jax.Array:
  """size / scale, 0 where both are 0, with finite derivatives where scale is 0."""
  quotient = size / jnp.where(scale == 0, 1, scale)
  return jnp.where(scale == 0, jnp.where(size == 0, 0, jnp.inf), quotient)


class Measure:
  """How far from the solution the states of an algorithm are.

  Attributes:
    unknown: [batch...], infinity.
    lowest: [batch...], 0: a lower bound of every objective.
  """

  def __init__(self, problem: Lasso, algorithm: Algorithm):
    """Of an algorithm for that problem."""
    self._problem, self._algorithm = problem, algorithm
    self._at_zero = 0.5 * problem.energy(problem.x)
    self._correlation = problem.norm(problem.correlation())
    self.lowest = jnp.zeros_like(self._at_zero)
    self.unknown = self.lowest + jnp.inf

  def __call__(
    self, names: Sequence[str], state: Any, evidence: Any, best: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The largest value of the dual so far, given that before, and the measures named: [batch...]."""
    measures = {}
    objective = self._problem.objective(*self._algorithm.solution(state))
    if "gradient_mapping" in names:
      root = jnp.sqrt(self._algorithm.objective_weight * relative(objective, self._at_zero))
      scale = jnp.clip(root, LEAST_ROOT, 1) * self._correlation
      measures["gradient_mapping"] = relative(self._algorithm.mapping(state, evidence), scale)
    if "gap" in names:
      best = jnp.maximum(best, self._algorithm.dual(state, evidence))
      rounding = float(jnp.finfo(self._problem.x.dtype).eps) * objective
      measures["gap"] = relative(jnp.maximum(objective - best, rounding), objective)
    return best, measures
