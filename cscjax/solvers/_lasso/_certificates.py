"""What tells how good a code is, or that it must be 0: the gradient mapping and the Lasso's dual."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax.dictionaries import Code, Dictionary
from cscjax.ops import highest_precision
from cscjax.solvers._lasso._problem import Lasso, per_signal


@highest_precision
def beta_max(
  dictionary: Dictionary, x: ArrayLike, *, nonnegative: bool = False, mask: ArrayLike | None = None
) -> jax.Array:
  """The smallest beta for which the code 0 is a solution: max |D^T mask x|, or max (D^T mask x)_+.

  Args:
    dictionary: As in `ista`.
    x: As in `ista`.
    nonnegative: As in `ista`.
    mask: As in `ista`.

  Returns:
    [batch...].

  Raises:
    ValueError: If shapes do not fit or the mask is out of range.
  """
  problem = Lasso.make(dictionary, x, 0, mask, nonnegative)
  correlation = jax.tree.map(problem.magnitude, problem.correlation())
  return _largest(problem, correlation).astype(problem.x.dtype)


@highest_precision
def duality_gap(
  dictionary: Dictionary,
  x: ArrayLike,
  code: Code,
  beta: Any,
  *,
  nonnegative: bool = False,
  mask: ArrayLike | None = None,
) -> jax.Array:
  """How far the objective of a code can lie above the minimum, at most.

  The objective less the dual's value at the residual scaled into the dual's feasible set (Fercoq,
  Gramfort & Salmon 2015; scikit-learn's stopping rule). It is 0 at a solution alone. Where a beta is 0
  the dual set is flat and the bound stays wide.

  Args:
    dictionary: As in `ista`.
    x: As in `ista`.
    code: Of `ista` or any other; >= 0 if `nonnegative`.
    beta: As in `ista`.
    nonnegative: As in `ista`.
    mask: As in `ista`.

  Returns:
    [batch...], >= 0 but for rounding.

  Raises:
    ValueError: If shapes do not fit or a value is out of range.
  """
  problem = Lasso.make(dictionary, x, beta, mask, nonnegative)
  code = problem.as_code(code, "code")
  reconstruction = dictionary.synthesis(code, problem.x.shape)
  correlation = dictionary.analysis(-problem.residual(reconstruction))
  gap = problem.objective(code, reconstruction) - dual_value(problem, reconstruction, correlation)
  return (gap * problem.unit * problem.unit).astype(problem.x.dtype)


def dual_value(problem: Lasso, reconstruction: jax.Array, correlation: Code) -> jax.Array:
  """The dual objective at mask (x - reconstruction), scaled into the dual's feasible set.

  Args:
    problem: The problem.
    reconstruction: Any signal.
    correlation: D^T mask (x - reconstruction).

  Returns:
    [batch...], in unit^2: at most the minimum of the problem.
  """
  ratio = jax.tree.map(
    lambda c, b: jnp.where(c > 0, b / jnp.where(c > 0, c, 1), jnp.inf),
    *(jax.tree.map(problem.magnitude, correlation), problem.beta),
  )
  feasible = -_largest(problem, jax.tree.map(jnp.negative, ratio))
  size = problem.energy(problem.x - reconstruction)
  along = problem.inner(-problem.residual(reconstruction), problem.x)
  scale = jnp.clip(along / jnp.where(size > 0, size, 1), 0, feasible)
  return scale * along - 0.5 * scale**2 * size


def gradient_mapping(problem: Lasso, point: Code, gradient: Code, step: jax.Array) -> jax.Array:
  """||point - prox(point - step gradient)|| / step: [batch...], in units; 0 at a solution alone.

  Where the prox is not 0 the difference is computed as gradient + beta sign(prox): if the step is
  short, the difference of two almost equal codes is lost to rounding.
  """

  def part(point, gradient, after, beta):
    return jnp.where(after != 0, gradient + beta * jnp.sign(after), point / per_signal(step, point))

  moved = jax.tree.map(lambda p, g: p - per_signal(step, p) * g, point, gradient)
  after = problem.prox(moved, step)
  return problem.norm(jax.tree.map(part, point, gradient, after, problem.beta))


def _largest(problem, code):
  """Over all coefficients of each signal."""
  parts = [jnp.max(c, axis=tuple(range(problem.batch_ndim, c.ndim))) for c in jax.tree.leaves(code)]
  return jnp.stack(parts).max(axis=0)
