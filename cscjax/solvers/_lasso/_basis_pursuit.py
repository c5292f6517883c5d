"""Basis pursuit denoising: the sparsest code, in the l1 norm, whose residual is within the noise."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary
from cscjax.ops import at_least_float32, compact_repr, highest_precision, shard_batch, vary_alike
from cscjax.solvers._lasso._implicit import implicitly_differentiable
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._proximal_gradient import FISTA
from cscjax.solvers._lasso._signals import in_precision, safe_sqrt
from cscjax.solvers._penalty import broadcastable

ROUNDS = 40  # largest number of penalties that are tried
# The tolerance of a solution, relative to that of the norm of its residual: first ACCURACY, and in each
# round a tenth less, because an inexact solution can lie on the wrong side of the root.
ACCURACY, SHARPENING = 0.3, 0.9
SOLVER = FISTA("adaptive", restart=True)


class BasisPursuitResult(NamedTuple):
  """The result of `basis_pursuit`.

  Attributes:
    code: The code, with the batch axes of the signal.
    beta: The factor of `weights` for which the code solves the Lasso: it broadcasts against the code, as
      the result of `beta_max` does.
    residual_norm: ||x - D code|| of each signal, [batch...].
    iterations: Number of iterations of FISTA that were run, for all penalties, an int32 scalar.
    converged: Whether the norm of the residual equals the noise up to the tolerance, or the zero code
      is the solution, for each signal: [batch...]. It is False if no code reaches the noise.
  """

  code: Code
  beta: Any
  residual_norm: jax.Array
  iterations: jax.Array
  converged: jax.Array

  def __repr__(self) -> str:
    return compact_repr(self)


class _Bracket(NamedTuple):
  """Squared penalties on either side of the root, [batch...], and the excess of the misfit there.

  Penalties are relative to the largest one, so that `low` and `high` are in 0..1.
  """

  low: jax.Array
  below: jax.Array  # the excess at `low`, negative
  high: jax.Array
  above: jax.Array  # the excess at `high`, positive
  side: jax.Array  # -1 or 1: the end that the last step has moved; 0 at the start

  def next(self) -> jax.Array:
    """Returns the root of the line through both ends."""
    return (self.low * self.above - self.high * self.below) / (self.above - self.below)

  def shrink(self, point: jax.Array, excess: jax.Array) -> "_Bracket":
    """Moves an end to a point.

    The excess at an end that stays for a second time is halved (the Illinois algorithm): otherwise, it
    could stay forever, and the method would converge slowly.
    """
    up = excess > 0
    side = jnp.sign(excess)
    half = jnp.where(side == self.side, 0.5, 1)
    return _Bracket(
      low=jnp.where(up, self.low, point),
      below=jnp.where(up, half * self.below, excess),
      high=jnp.where(up, point, self.high),
      above=jnp.where(up, excess, half * self.above),
      side=side,
    )

  def reopen(self, tolerance: jax.Array) -> "_Bracket":
    """Widens a bracket that has closed: it has missed the root, by an inexact solution."""
    closed = self.high - self.low <= tolerance * self.high
    size = jnp.maximum(self.above, -self.below)
    return _Bracket(
      low=jnp.where(closed, 0.8 * self.low, self.low),
      below=jnp.where(closed, -size, self.below),
      high=jnp.where(closed, jnp.minimum(1.25 * self.high, 1), self.high),
      above=jnp.where(closed, size, self.above),
      side=jnp.where(closed, 0, self.side),
    )


@highest_precision
def basis_pursuit(
  dictionary: Dictionary,
  x: ArrayLike,
  noise: ArrayLike,
  *,
  weights: Any = 1.0,
  tolerance: float = 1e-3,
  max_iterations: int = 1000,
  nonnegative: Any = False,
  mask: ArrayLike | None = None,
  joint_axes: int | Sequence[int] | None = None,
) -> BasisPursuitResult:
  """Solves min_code ||code||_1 subject to ||x - D code|| <= noise (basis pursuit denoising).

  This is the Lasso with the penalty for which the residual is as large as the noise, which is often
  known when a useful penalty is not. The norm of the residual increases with the penalty, and its square
  is a linear function of the squared penalty while the support stays the same. The penalty is found as
  the root of this function, by secants within a bracket. Each secant solves a Lasso with FISTA, from the
  code of the previous penalty.

  The function works under `jax.jit`, `jax.vmap` and `jax.grad`. Derivatives are those of the solution,
  by the implicit function theorem (see `polished`), and include those of the penalty.

  Args:
    dictionary: The dictionary D.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    noise: Largest norm of the residual, positive: a scalar, or one value per signal, [batch...]. For
      white noise of standard deviation sigma, it is about sigma sqrt(n) for n samples. If it is at
      least ||x||, the code is zero.
    weights: Weights of the absolute values in the norm, positive: a scalar, one value per channel [m],
      or an array that broadcasts against the code. A code of several parts takes one value for all
      parts, or one for each part.
    tolerance: Relative accuracy, a positive number: of the norm of the residual and, as in `fista`, of
      the solution of each Lasso.
    max_iterations: Largest number of iterations of FISTA for each penalty; at most 40 penalties are
      tried.
    nonnegative: Whether the code is constrained to be nonnegative: a bool, or an array of bools, one per
      channel [m] or of any shape that broadcasts against the code. A code of several parts takes one
      value for all parts, or one for each part.
    mask: Weights of the squared errors, in 0..1, that broadcast against `x`, or against `x` without its
      last axis, such as [H, W] for all channels of an image; 1 if None. Where the weight is zero, the
      value of `x` is ignored, even if it is NaN. The norm of the residual is sqrt(sum mask error^2).
    joint_axes: Axis or axes of the code, negative, along which coefficients are zero only jointly (joint
      sparsity): the norm is the sum of the Euclidean norms along these axes, in which `weights` have
      size 1. None for the absolute value of each coefficient.

  Returns:
    A `BasisPursuitResult`: the code, the penalty, the norm of the residual, and whether the noise was
    reached. If no code has a residual within the noise, `converged` is False and `residual_norm` is
    near the smallest possible one.

  Raises:
    ValueError: If shapes do not fit, or an argument is out of range.

  References:
    Chen, S. S., Donoho, D. L. & Saunders, M. A. (1998). Atomic decomposition by basis pursuit. SIAM
    Journal on Scientific Computing 20(1).

    van den Berg, E. & Friedlander, M. P. (2008). Probing the Pareto frontier for basis pursuit
    solutions. SIAM Journal on Scientific Computing 31(2).

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.eye(2))
    >>> x = jnp.array([3.0, 1.0])
    >>> result = cscjax.basis_pursuit(dictionary, x, noise=1.0, tolerance=1e-5)
    >>> [round(value, 3) for value in result.code.tolist()], bool(result.converged)
    ([2.293, 0.293], True)
    >>> round(float(result.residual_norm), 3), round(result.beta.item(), 3)
    (1.0, 0.707)
    >>> same = cscjax.fista(dictionary, x, result.beta, tolerance=1e-5)
    >>> bool(jnp.allclose(result.code, same.code, atol=1e-4))
    True
  """
  checks.all_at_least("weights", weights, 0, open_bound=True)
  checks.all_at_least("noise", noise, 0, open_bound=True)
  checks.all_at_least("tolerance", tolerance, 0, open_bound=True)
  max_iterations = checks.positive_int("max_iterations", max_iterations)
  problem = Lasso(dictionary, x, 1, nonnegative=nonnegative, mask=mask, joint_axes=joint_axes)
  problem = problem.with_beta(weights, "weights")
  batch = problem.x.shape[: problem.batch_ndim]
  if checks.broadcast_shape("noise", jnp.shape(noise), batch) != batch:
    checks.fail("noise", jnp.shape(noise), f"a scalar, or one value per signal, {batch}")
  precise = at_least_float32(problem.x.dtype)
  noise = jnp.broadcast_to(jnp.asarray(noise, precise), batch)
  return shard_batch(
    lambda _, *arguments: _pursue(*arguments, max_iterations=max_iterations),
    *(problem.x, problem, noise, jnp.asarray(tolerance, precise)),
    batch_ndim=len(batch),
    layout=BasisPursuitResult._make((0, 0, 0, -1, 0)),
  )


@partial(jax.jit, static_argnames="max_iterations")
def _pursue(
  problem: Lasso, noise: jax.Array, tolerance: jax.Array, *, max_iterations: int
) -> BasisPursuitResult:
  problem, noise, tolerance = vary_alike((problem, noise, tolerance))
  dtype = problem.x.dtype
  problem = in_precision(problem, dtype)  # in half precision, rounding would hide the root
  found = lax.stop_gradient(_search(*lax.stop_gradient((problem, noise, tolerance)), max_iterations))

  def code_at(penalty: jax.Array) -> Code:
    return implicitly_differentiable(problem.scale_beta(penalty), found.code)

  def excess(penalty: jax.Array) -> jax.Array:
    return _misfit(problem, code_at(penalty)) - jnp.square(noise / problem.unit)

  def divide(slope: Callable[[jax.Array], jax.Array], y: jax.Array) -> jax.Array:
    slopes = slope(jnp.ones_like(y))  # 0 for the zero code
    return jnp.where(slopes == 0, 0, y / jnp.where(slopes == 0, 1, slopes))

  penalty = lax.custom_root(excess, found.penalty, lambda _, root: root, divide)
  code = code_at(penalty)
  residual_norm = safe_sqrt(_misfit(problem, code)) * problem.unit
  code, beta, residual_norm = jax.tree.map(
    lambda array: array.astype(dtype), (code, broadcastable(penalty, code), residual_norm)
  )
  return BasisPursuitResult(code, beta, residual_norm, found.iterations, found.converged)


class _Found(NamedTuple):
  code: Code
  penalty: jax.Array  # factor of the weights, [batch...]
  iterations: jax.Array
  converged: jax.Array


def _search(problem: Lasso, noise: jax.Array, tolerance: jax.Array, max_iterations: int) -> _Found:
  """Finds the penalty for which the residual is as large as the noise."""
  noise = noise / problem.unit
  at_zero = problem.energy(problem.x)
  largest = problem.largest_factor()
  is_zero = jnp.sqrt(at_zero) <= noise

  def unfinished(carry: Any) -> jax.Array:
    k, _, fraction, _, converged, _ = carry
    return (k < ROUNDS) & ~jnp.all(converged | jnp.isnan(fraction))  # NaN in the signal remains

  def body(carry: Any) -> Any:
    k, code, fraction, bracket, converged, iterations = carry
    root = jnp.sqrt(bracket.next())
    fraction = jnp.where(converged, fraction, root)
    result = SOLVER.run(
      problem.scale_beta(fraction * largest),
      tolerance=ACCURACY * SHARPENING**k * tolerance,
      max_iterations=max_iterations,
      init=code,
      record=(),
    )
    misfit = _misfit(problem, result.code)
    is_close = jnp.abs(jnp.sqrt(misfit) - noise) <= tolerance * noise
    converged = converged | (jnp.asarray(result.converged) & is_close)
    bracket = bracket.shrink(jnp.square(fraction), misfit - jnp.square(noise)).reopen(tolerance)
    return k + 1, result.code, fraction, bracket, converged, iterations + result.iterations

  zero, one = jnp.zeros_like(at_zero), jnp.ones_like(at_zero)
  bracket = _Bracket(zero, -jnp.square(noise), one, at_zero - jnp.square(noise), zero)
  carry = (0, problem.zero_code(), one, bracket, is_zero, jnp.int32(0))
  _, code, fraction, _, converged, iterations = lax.while_loop(unfinished, body, carry)
  return _Found(code, fraction * largest, iterations, converged)


def _misfit(problem: Lasso, code: Code) -> jax.Array:
  """Returns sum mask (x - D code)^2, [batch...], in unit^2."""
  return problem.energy(problem.x - problem.dictionary.synthesis(code, problem.x.shape))
