"""Certificates of a code: the gradient mapping, the dual of the Lasso, and the largest useful beta."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax.dictionaries import Code, Dictionary
from cscjax.ops import highest_precision
from cscjax.solvers._lasso._problem import Lasso, per_signal
from cscjax.solvers._penalty import largest_magnitude, per_coefficient


@highest_precision
def beta_max(
  dictionary: Dictionary, x: ArrayLike, *, nonnegative: bool = False, mask: ArrayLike | None = None
) -> Any:
  """Returns the smallest beta for which the zero code solves the Lasso: max |D^T mask x|.

  A useful penalty is a fraction of it, which `relative` also expresses. For nonnegative codes, it is the
  largest positive entry of D^T mask x, or 0 if there is none.

  Args:
    dictionary: The dictionary D.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., n] for a dense dictionary).
    nonnegative: Whether the code is constrained to be nonnegative.
    mask: Weights of the squared errors, in 0..1, that broadcast against `x`, or against `x` without its
      last axis, such as [H, W] for all channels of an image; 1 if None. Where the weight is zero, the
      value of `x` is ignored, even if it is NaN.

  Returns:
    A scalar; for a batch an array [batch..., 1, ..., 1] that broadcasts against the code, or against
    each part of it. If the parts differ in their number of axes, a pytree with an array for each part.

  Raises:
    ValueError: If shapes do not fit, or `mask` is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]))
    >>> x = jnp.array([2.0, -4.0])
    >>> beta = cscjax.beta_max(dictionary, x)
    >>> float(beta), float(cscjax.beta_max(dictionary, x, nonnegative=True))
    (4.0, 2.0)
    >>> bool(jnp.all(cscjax.ista(dictionary, x, 1.01 * beta).code == 0))
    True
    >>> cscjax.beta_max(dictionary, jnp.stack([x, 3 * x, x, x])).tolist()  # one value per signal
    [[4.0], [12.0], [4.0], [4.0]]
  """
  problem = Lasso(dictionary, x, 0, nonnegative=nonnegative, mask=mask)
  correlation = problem.correlation()
  largest = largest_magnitude(correlation, problem.batch_ndim, nonnegative).astype(problem.x.dtype)
  parts = per_coefficient(largest, correlation)
  leaves = jax.tree.leaves(parts)
  return leaves[0] if len({leaf.ndim for leaf in leaves}) == 1 else parts


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
  """Returns the duality gap of a code: an upper bound of how far its objective is above the minimum.

  The gap is the objective, 1/2 ||x - D code||^2 + beta ||code||_1, minus the dual objective at the
  residual, scaled into the dual feasible set (Fercoq, Gramfort & Salmon 2015; scikit-learn's stopping
  criterion). It is zero only at a solution. If some values of beta are zero, the dual feasible set has
  no interior, and the bound stays wide.

  Args:
    dictionary: The dictionary D.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., n] for a dense dictionary).
    code: The code, of the shape of `dictionary.analysis(x)`; nonnegative if `nonnegative`.
    beta: Penalty, nonnegative: a scalar, one value per channel [m], or an array that broadcasts against
      the code. A code of several parts takes one value for all parts, or one for each part.
      `cscjax.relative(0.1)` is a tenth of `beta_max` for each signal.
    nonnegative: Whether the code is constrained to be nonnegative.
    mask: Weights of the squared errors, in 0..1, that broadcast against `x`, or against `x` without its
      last axis, such as [H, W] for all channels of an image; 1 if None. Where the weight is zero, the
      value of `x` is ignored, even if it is NaN.

  Returns:
    One value per signal, [batch...]; nonnegative up to rounding.

  Raises:
    ValueError: If shapes do not fit, or a value is out of range.

  References:
    Fercoq, O., Gramfort, A. & Salmon, J. (2015). Mind the duality gap: safer rules for the Lasso. ICML.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.eye(2))
    >>> x = jnp.array([1.0, 0.0])
    >>> codes = [jnp.zeros(2), jnp.array([0.5, 0.0])]  # the second one is the solution
    >>> [float(cscjax.duality_gap(dictionary, x, code, beta=0.5)) for code in codes]
    [0.125, 0.0]
  """
  problem = Lasso(dictionary, x, beta, nonnegative=nonnegative, mask=mask)
  code = problem.as_code(code, "code")
  reconstruction = dictionary.synthesis(code, problem.x.shape)
  correlation = dictionary.analysis(-problem.residual(reconstruction))
  gap = problem.scaled_objective(code, reconstruction) - dual_value(problem, reconstruction, correlation)
  return problem.in_squared_scale(gap).astype(problem.x.dtype)


def dual_value(problem: Lasso, reconstruction: jax.Array, correlation: Code) -> jax.Array:
  """Returns the dual objective at mask (x - reconstruction), scaled into the dual feasible set.

  Args:
    problem: The problem.
    reconstruction: Any signal.
    correlation: D^T mask (x - reconstruction).

  Returns:
    A lower bound of the minimum of the problem, [batch...], in unit^2.
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
  """Returns ||point - prox(point - step gradient)|| / step: [batch...], in units.

  It is zero only at a solution. Where the prox is not zero, the difference is computed as gradient +
  beta sign(prox): with a short step, the difference of two almost equal codes would be lost to rounding.
  """

  def part(point: jax.Array, gradient: jax.Array, after: jax.Array, beta: jax.Array) -> jax.Array:
    return jnp.where(after != 0, gradient + beta * jnp.sign(after), point / per_signal(step, point))

  moved = jax.tree.map(lambda p, g: p - per_signal(step, p) * g, point, gradient)
  after = problem.prox(moved, step)
  return problem.norm(jax.tree.map(part, point, gradient, after, problem.beta))


def _largest(problem: Lasso, code: Code) -> jax.Array:
  """Returns the maximum over all coefficients of each signal, [batch...]."""
  parts = [jnp.max(c, axis=tuple(range(problem.batch_ndim, c.ndim))) for c in jax.tree.leaves(code)]
  return jnp.stack(parts).max(axis=0)
