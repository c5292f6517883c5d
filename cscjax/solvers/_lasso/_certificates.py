"""Certificates of a code: the gradient mapping, the dual of the Lasso, and the largest useful beta."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax.dictionaries import Code, Dictionary
from cscjax.ops import highest_precision
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._regularizer import Regularizer
from cscjax.solvers._lasso._signals import per_signal, sum_signals
from cscjax.solvers._penalty import broadcastable, largest_of_signals


@highest_precision
def beta_max(
  dictionary: Dictionary,
  x: ArrayLike,
  *,
  nonnegative: Any = False,
  mask: ArrayLike | None = None,
  joint_axes: int | Sequence[int] | None = None,
) -> Any:
  """Returns the smallest beta for which the zero code solves the Lasso: max |D^T mask x|.

  Useful penalties are a fraction of it; `relative` makes such a penalty. For coefficients that are
  constrained to be nonnegative, only positive entries of D^T mask x count, and the result is 0 if there
  are none. With `joint_axes`, it is the largest Euclidean norm along these axes. It does not depend on
  `ridge`.

  Args:
    dictionary: The dictionary D.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    nonnegative: Whether the code is constrained to be nonnegative: a bool, or an array of bools, one per
      channel [m] or of any shape that broadcasts against the code. A code of several parts takes one
      value for all parts, or one for each part.
    mask: Weights of the squared errors, in 0..1, that broadcast against `x`, or against `x` without its
      last axis, such as [H, W] for all channels of an image; 1 if None. Where the weight is zero, the
      value of `x` is ignored, even if it is NaN.
    joint_axes: Axis or axes of the code, negative, along which coefficients are zero only jointly (joint
      sparsity): the penalty is beta times the Euclidean norm along these axes. None for the absolute
      value of each coefficient.

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
  problem = Lasso(dictionary, x, 0, nonnegative=nonnegative, mask=mask, joint_axes=joint_axes)
  correlation = problem.correlation()
  largest = largest_of_signals(problem.dual_norms(correlation), problem.batch_ndim)
  return broadcastable(largest.astype(problem.x.dtype), correlation)


@highest_precision
def duality_gap(
  dictionary: Dictionary,
  x: ArrayLike,
  code: Code,
  beta: Any,
  *,
  nonnegative: Any = False,
  mask: ArrayLike | None = None,
  ridge: Any = None,
  joint_axes: int | Sequence[int] | None = None,
) -> jax.Array:
  """Returns the duality gap of a code: an upper bound of how far its objective is above the minimum.

  The gap is the objective, 1/2 ||x - D code||^2 + beta ||code||_1, minus the dual objective at the
  residual, scaled into the dual feasible set (Fercoq, Gramfort & Salmon 2015; scikit-learn's stopping
  criterion). It is zero only at a solution. If `beta` and `ridge` are both zero for some coefficients,
  the dual feasible set has no interior, and the bound stays wide.

  Args:
    dictionary: The dictionary D.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    code: The code, of the shape of `dictionary.analysis(x)`.
    beta: Penalty, nonnegative: a scalar, one value per channel [m], or an array that broadcasts against
      the code. A code of several parts takes one value for all parts, or one for each part.
      `cscjax.relative(0.1)` is a tenth of `beta_max` for each signal.
    nonnegative: Whether the code is constrained to be nonnegative: a bool, or an array of bools, one per
      channel [m] or of any shape that broadcasts against the code. A code of several parts takes one
      value for all parts, or one for each part.
    mask: Weights of the squared errors, in 0..1, that broadcast against `x`, or against `x` without its
      last axis, such as [H, W] for all channels of an image; 1 if None. Where the weight is zero, the
      value of `x` is ignored, even if it is NaN.
    ridge: Penalty of the squares mu, which adds mu/2 ||code||^2 to the objective (the elastic net):
      nonnegative, in any of the shapes of `beta`; no such term if None.
    joint_axes: Axis or axes of the code, negative, along which coefficients are zero only jointly (joint
      sparsity): the penalty is beta times the Euclidean norm along these axes, in which `beta` and
      `ridge` have size 1. None for the absolute value of each coefficient.

  Returns:
    One value per signal, [batch...]; nonnegative up to rounding, and infinite if the code violates the
    constraint `nonnegative`.

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
  problem = Lasso(
    dictionary, x, beta, nonnegative=nonnegative, mask=mask, ridge=ridge, joint_axes=joint_axes
  )
  code = problem.as_code(code, "code")
  reconstruction = dictionary.synthesis(code, problem.x.shape)
  correlation = dictionary.analysis(-problem.residual(reconstruction))
  gap = problem.scaled_objective(code, reconstruction) - dual_value(problem, reconstruction, correlation)
  gap = problem.in_squared_scale(gap).astype(problem.x.dtype)
  return jnp.where(problem.violates_constraint(code), jnp.inf, gap)


def dual_value(problem: Lasso, reconstruction: jax.Array, correlation: Code) -> jax.Array:
  """Returns the dual objective at mask (x - reconstruction), scaled into the dual feasible set.

  Args:
    problem: The problem.
    reconstruction: Any signal.
    correlation: D^T mask (x - reconstruction).

  Returns:
    A lower bound of the minimum of the problem, [batch...], in unit^2.
  """
  norms = problem.dual_norms(correlation)
  size = problem.energy(problem.x - reconstruction)
  along = problem.inner(-problem.residual(reconstruction), problem.x)

  def value(scale: jax.Array) -> jax.Array:
    return scale * along - 0.5 * scale**2 * size

  bound = value(jnp.clip(along / jnp.where(size > 0, size, 1), 0, _largest_scale(problem, norms)))
  if not problem.has_ridge:
    return bound
  # The conjugate of a ridge is finite everywhere, so that the residual itself, the dual solution if the
  # code is a solution, need not be shrunk for it.
  scale = jnp.minimum(_largest_scale(problem, norms, without_ridge=True), 1)

  def conjugate(norm: jax.Array, regularizer: Regularizer) -> jax.Array:
    excess = jax.nn.relu(per_signal(scale, norm) * norm - regularizer.beta)
    return sum_signals(regularizer.conjugate(problem.in_units(excess)), problem.batch_ndim)

  conjugates = jax.tree.leaves(jax.tree.map(conjugate, norms, problem.regularizer))
  return jnp.maximum(bound, value(scale) - sum(conjugates))


def gradient_mapping(problem: Lasso, point: Code, gradient: Code, step: jax.Array) -> Code:
  """Returns (point - prox(point - step gradient)) / step, which is zero only at a solution.

  By Moreau's decomposition, it is the gradient plus a projection: with a short step, the difference of
  two almost equal codes would be lost to rounding.
  """

  def part(point: jax.Array, gradient: jax.Array, regularizer: Regularizer) -> jax.Array:
    mapping = gradient + regularizer.dual_projection(point * per_signal(1 / step, point) - gradient)
    if regularizer.ridge is None:
      return mapping
    return (mapping + regularizer.ridge * point) / (1 + per_signal(step, point) * regularizer.ridge)

  # XLA would store the broadcast of a constant beta, an array of the code's size.
  return jax.tree.map(part, point, gradient, lax.optimization_barrier(problem.regularizer))


def _largest_scale(problem: Lasso, norms: Code, *, without_ridge: bool = False) -> jax.Array:
  """Returns the largest factor that keeps a correlation in the dual feasible set: [batch...].

  `norms` are the norms of its groups. With `without_ridge`, only groups whose ridge is zero count.
  """

  def inverse(norm: jax.Array, regularizer: Regularizer) -> jax.Array:
    ratio = jnp.where(norm > 0, regularizer.beta / jnp.where(norm > 0, norm, 1), jnp.inf)
    if without_ridge and regularizer.ridge is not None:
      ratio = jnp.where(regularizer.ridge > 0, jnp.inf, ratio)
    return -ratio

  return -largest_of_signals(jax.tree.map(inverse, norms, problem.regularizer), problem.batch_ndim)
