"""Finds the solution near a code that was stopped early: first its support, then its values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax.dictionaries import Code
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._regularizer import Regularizer
from cscjax.solvers._lasso._signals import per_signal, sum_signals
from cscjax.solvers._penalty import largest_of_signals

ROUNDS = 40  # largest number of rounds, each a step to the minimum on the face
EXPLORATION = 30  # FISTA iterations between two rounds, which change the face
STEP_ITERATIONS = 40  # conjugate residual iterations per step; the next step continues where it ends
SOLVE_ITERATIONS = 1000  # largest number of conjugate residual iterations for a derivative
HALVINGS = 6  # largest number of times that a step which does not lower the objective is halved
# A code counts as a solution if it violates the optimality conditions by at most NOISE rounding errors
# of the largest |D^T x|, and by at most BETA_FRACTION of a positive beta.
NOISE = 32
BETA_FRACTION = 0.1


class Face(NamedTuple):
  """A face of the regularizer: the coefficients that may change without crossing a kink of it.

  Attributes:
    free: 1 for each coefficient that may change, 0 for each that is fixed at zero.
    code: A code on the face. The coefficients that have a kink at zero keep its signs.
  """

  free: Code
  code: Code

  def restrict(self, code: Code) -> Code:
    """Sets the fixed coefficients of a code to zero."""
    return jax.tree.map(jnp.multiply, self.free, code)


def face_of(problem: Lasso, code: Code) -> Face:
  """Returns the face of a code.

  Free are the nonzero coefficients, and those that have neither a penalty nor a constraint.
  """

  def is_free(c: jax.Array, r: Regularizer) -> jax.Array:
    return jnp.where(jnp.isnan(c), c, r.is_free(c).astype(c.dtype))  # the derivatives of a NaN are NaN

  return Face(jax.tree.map(is_free, code, problem.regularizer), code)


def polish(problem: Lasso, code: Code) -> tuple[Code, jax.Array]:
  """Finds the solution near a code.

  Alternates between a Newton step, which solves a linear system for the minimum on the face of the code,
  and a few iterations of FISTA, which change the face, until the optimality conditions hold up to
  rounding.

  Args:
    problem: The problem, in float32 or wider.
    code: The code to start from.

  Returns:
    The solution, and for each signal how much it violates the optimality conditions beyond rounding (or
    beyond a tenth of beta, if that is less), relative to the largest |D^T x|: [batch...], 0 if the
    solution was found.
  """
  from cscjax.solvers._lasso._proximal_gradient import FISTA  # whose method `run` needs this module

  solver = FISTA("adaptive", restart=True)
  scale = _largest(problem, problem.correlation())
  noise = NOISE * jnp.finfo(problem.x.dtype).eps * scale

  def body(carry: Any) -> Any:
    k, code, step, excess = carry
    state = solver.init(problem, code)._replace(step=step)
    state = lax.fori_loop(
      0, jnp.where(k == 0, 0, EXPLORATION), lambda _, state: solver.step(problem, state), state
    )
    moved = _newton(problem, state.code)
    code = _select(excess > 0, moved, code)
    return k + 1, code, state.step, _violation(problem, code, noise)

  def unfinished(carry: Any) -> jax.Array:
    k, *_, excess = carry
    return (k < ROUNDS) & jnp.any(excess > 0)  # False for NaN

  # Without the projection, a face could keep the sign that the constraint forbids.
  start = (0, problem.project(code), solver.init(problem).step, jnp.ones_like(scale))
  _, code, _, excess = lax.while_loop(unfinished, body, start)
  return code, _ratio(excess, scale)


def slack(problem: Lasso, code: Code) -> jax.Array:
  """Returns how far the zero groups of a solution are from becoming nonzero.

  This is the smallest beta - dual norm, relative to the largest |D^T x| of each signal: [batch...], inf
  if no group is zero. At 0 the solution is degenerate.
  """

  def part(g: jax.Array, c: jax.Array, r: Regularizer) -> jax.Array:
    return jnp.where(r.is_zero_group(c) & ~r.is_free(c), jax.nn.relu(-r.distance(g, c)), jnp.inf)

  rooms = jax.tree.map(part, _gradient(problem, code), code, problem.regularizer)
  scale = _largest(problem, problem.correlation())
  smallest = -largest_of_signals(jax.tree.map(jnp.negative, rooms), problem.batch_ndim)
  return jnp.where(jnp.isinf(smallest), smallest, _ratio(smallest, scale))


def solve_on_face(problem: Lasso, face: Face, v: Code, iterations: int = SOLVE_ITERATIONS) -> Code:
  """Solves (D_S^T mask D_S + R'') u = v on the face S, with u = 0 elsewhere.

  R'' is the second derivative of the regularizer at the code of the face.
  """

  def hessian(u: Code) -> Code:
    on = face.restrict(u)
    gram = problem.dictionary.analysis(problem.weigh(problem.dictionary.synthesis(on, problem.x.shape)))
    curved = jax.tree.map(
      lambda g, r, c, o: g + jax.jvp(r.gradient, (c,), (o,))[1],
      *(gram, problem.regularizer, face.code, on),
    )
    return face.restrict(curved)

  return conjugate_residuals(problem, hessian, face.restrict(v), iterations)


def conjugate_residuals(
  problem: Lasso, matvec: Callable[[Code], Code], v: Code, iterations: int
) -> Code:
  """Minimizes ||v - A u|| for a symmetric positive semidefinite A, for each signal, with one refinement.

  Unlike conjugate gradients, the method also converges if A is singular and v is not in its range. The
  refinement solves the system again for the residual of the first solution.
  """
  eps = jnp.finfo(problem.x.dtype).eps

  def solve(v: Code) -> Code:
    size = _largest(problem, v)
    v = _divide(v, size)
    unit = _largest(problem, matvec(v))  # in this unit, squares neither overflow nor underflow

    def product(u: Code) -> Code:
      return _divide(matvec(u), unit)

    def unfinished(carry: Any) -> jax.Array:
      k, *_, active = carry
      return (k < iterations) & jnp.any(active)

    def body(carry: Any) -> Any:
      k, u, r, p, image_p, energy, largest, active = carry
      alpha = jnp.where(active, _ratio(energy, _dot(problem, image_p, image_p)), 0)
      u, r = _add(u, alpha, p), _add(r, -alpha, image_p)
      image_r = product(r)
      new_energy = _dot(problem, r, image_r)
      beta = jnp.where(active, _ratio(new_energy, energy), 0)
      p, image_p = _add(r, beta, p), _add(image_r, beta, image_p)
      left, slope = _dot(problem, r, r), _dot(problem, image_r, image_r)
      largest = jnp.maximum(largest, _ratio(slope, left))
      solved = (left <= eps**2 * start) | (slope <= eps**2 * largest * left)
      return k + 1, u, r, p, image_p, new_energy, largest, active & ~solved & (new_energy > 0)

    start, image = _dot(problem, v, v), product(v)
    energy = _dot(problem, v, image)
    zero = jax.tree.map(jnp.zeros_like, v)
    carry = (0, zero, v, v, image, energy, jnp.zeros_like(energy), energy > 0)
    u = lax.while_loop(unfinished, body, carry)[1]
    return jax.tree.map(lambda c: c * per_signal(_ratio(size, unit), c), u)

  u = solve(v)
  return _add(u, 1, solve(_add(v, -1, matvec(u))))


def _newton(problem: Lasso, code: Code) -> Code:
  """Takes a step to the minimum on the face, halved until it lowers the objective.

  Coefficients that would cross a kink are set to zero.
  """
  face = face_of(problem, code)
  slope = jax.tree.map(
    lambda g, c, r: g + r.gradient(c), _gradient(problem, code), code, problem.regularizer
  )
  direction = solve_on_face(problem, face, slope, STEP_ITERATIONS)
  before = _objective(problem, code)

  def attempt(length: jax.Array) -> Code:
    return jax.tree.map(
      lambda m, c, r: jnp.where((m * jnp.sign(c) > 0) | ~r.has_kink(), m, 0),
      *(_add(code, -length, direction), code, problem.regularizer),
    )

  def body(carry: Any) -> Any:
    k, length, _ = carry
    lower = _objective(problem, attempt(length)) <= before
    return k + 1, jnp.where(lower, length, length / 2), lower

  def unfinished(carry: Any) -> jax.Array:
    k, _, lower = carry
    return (k < HALVINGS) & ~jnp.all(lower)

  start = (0, jnp.ones_like(before), jnp.zeros_like(before, bool))
  _, length, lower = lax.while_loop(unfinished, body, start)
  return _select(lower, attempt(length), code)


def _violation(problem: Lasso, code: Code, noise: jax.Array) -> jax.Array:
  """Returns the largest excess over `noise` of the distance of 0 to the subdifferential: [batch...]."""

  def excess(g: jax.Array, c: jax.Array, r: Regularizer) -> jax.Array:
    level = per_signal(noise, g)
    level = jnp.where(r.beta > 0, jnp.minimum(level, BETA_FRACTION * r.beta), level)
    return jnp.maximum(r.distance(g, c) - level, 0)

  return _largest(problem, jax.tree.map(excess, _gradient(problem, code), code, problem.regularizer))


def _gradient(problem: Lasso, code: Code) -> Code:
  """Returns the gradient of the data term at a code."""
  return problem.gradient(problem.dictionary.synthesis(code, problem.x.shape))


def _objective(problem: Lasso, code: Code) -> jax.Array:
  """Returns the objective of a code, [batch...]."""
  return problem.scaled_objective(code, problem.dictionary.synthesis(code, problem.x.shape))


def _select(where: jax.Array, one: Code, other: Code) -> Code:
  """Returns one code or the other for each signal, as `jnp.where` does."""
  return jax.tree.map(
    lambda a, b: jnp.where(where.reshape(where.shape + (1,) * (a.ndim - where.ndim)), a, b), one, other
  )


def _add(a: Code, weight: ArrayLike, b: Code) -> Code:
  """Returns a + weight b, where the weight is a scalar or one per signal."""
  return jax.tree.map(lambda p, q: p + per_signal(jnp.asarray(weight), q) * q, a, b)


def _divide(code: Code, size: jax.Array) -> Code:
  """Returns code / size for each signal; a code of size 0 stays 0."""
  return jax.tree.map(lambda c: c / per_signal(jnp.where(size > 0, size, 1), c), code)


def _ratio(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns a / b, 0 where b is 0."""
  return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def _dot(problem: Lasso, a: Code, b: Code) -> Any:
  """Returns the inner product of two codes for each signal, [batch...]."""
  products = jax.tree.map(lambda p, q: sum_signals(p * q, problem.batch_ndim), a, b)
  return sum(jax.tree.leaves(products))


def _largest(problem: Lasso, code: Code) -> jax.Array:
  """Returns the largest |coefficient| of each signal, [batch...]."""
  return largest_of_signals(jax.tree.map(jnp.abs, code), problem.batch_ndim)
