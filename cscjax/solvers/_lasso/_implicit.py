"""Derivatives of the solution by the implicit function theorem."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax.dictionaries import Code, Dictionary
from cscjax.ops import at_least_float32, highest_precision
from cscjax.solvers._lasso._polish import face_of, polish, solve_on_face
from cscjax.solvers._lasso._problem import Lasso


class PolishedCode(NamedTuple):
  """A code, polished.

  Attributes:
    code: The solution near the code that was given.
    violation: [batch...], by how much it violates the optimality conditions beyond rounding, relative to
      the largest |D^T x|: 0 where the solution was found.
  """

  code: Code
  violation: jax.Array


@highest_precision
def polished(
  dictionary: Dictionary,
  x: ArrayLike,
  code: Code,
  beta: Any,
  *,
  nonnegative: bool = False,
  mask: ArrayLike | None = None,
) -> PolishedCode:
  """Finds the solution of the problem of `ista` near a code, the point of implicit derivatives.

  Derivatives by `differentiate="implicit"` are those of the solution, whose support and signs are found
  when a derivative is taken. This does the same, and tells whether it succeeded: where `violation` is 0,
  a derivative is right up to the condition of the support's atoms; elsewhere do not rely on it.

  Args:
    dictionary: The dictionary D.
    x: Signals, batch axes first.
    code: The code of a solver, shaped like `dictionary.analysis(x)`.
    beta: Penalty >= 0, as it was given to the solver.
    nonnegative: Whether the code is constrained to be >= 0.
    mask: Weights in 0..1 of the squared errors that broadcast against `x`; all 1 if None.

  Returns:
    The polished code and its violation of the optimality conditions, without derivatives.

  Raises:
    ValueError: If shapes do not fit or a value is out of range.

  Example:
    >>> dictionary = cscjax.MatrixDictionary(jnp.eye(2))
    >>> result = cscjax.polished(dictionary, jnp.array([1.0, 0.1]), jnp.array([0.7, 0.0]), 0.2)
    >>> result.code.round(3).tolist(), float(result.violation)
    ([0.8, 0.0], 0.0)
  """
  problem = Lasso.make(dictionary, x, beta, mask, nonnegative)
  return _polished(problem, problem.as_code(code, "code"))


@jax.jit
def _polished(problem, code):
  solution, violation = polish(*lax.stop_gradient(_precise(problem, code)))
  solution = jax.tree.map(lambda s, c: s.astype(c.dtype), solution, code)
  return lax.stop_gradient(PolishedCode(solution, violation.astype(problem.x.dtype)))


def implicitly_differentiable(problem: Lasso, code: Code) -> Code:
  """Returns the same code, with the derivatives of the solution near it.

  On the support S of a solution, with its signs s, D_S^T mask (D_S code_S - x) + beta s = 0, and a small
  change of the problem leaves S and s as they are (where no coefficient outside S is on the verge of
  entering). So the derivatives solve D_S^T mask D_S u = v, by conjugate residuals in code space, whose
  memory does not depend on the number of iterations that found the code. Where atoms of the support
  depend on each other the solution is not unique, and the derivative is that of least norm.

  S is not that of `code`, which was stopped at a tolerance, but that of the solution, which `polish`
  finds when a derivative is taken: a call without one costs nothing more. Forward and reverse mode, any
  order.
  """
  exact = _near_solution(*_precise(problem, code))
  return jax.tree.map(lambda e, c: e.astype(c.dtype), exact, code)


def _precise(problem, code):
  """Both in float32 at least; a dictionary's integers, such as indices, stay as they are."""
  precise = at_least_float32(problem.x.dtype)

  def convert(leaf):
    return leaf.astype(precise) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

  return jax.tree.map(convert, (problem, code))


@jax.custom_jvp
def _near_solution(problem: Lasso, code: Code) -> Code:
  del problem
  return code


@_near_solution.defjvp
@highest_precision
def _(primals, tangents):
  problem, code = primals
  solution, _ = lax.stop_gradient(polish(*lax.stop_gradient(primals)))
  _, tangent = jax.jvp(lambda p: _solution(p, solution), (problem,), tangents[:1])
  return _near_solution(problem, code), tangent  # and so any order


def _solution(problem, solution):
  """The solution, as a function of the problem that can be differentiated."""
  face = face_of(problem, solution)
  constants = lax.stop_gradient(problem)

  def optimality(point):
    """0 at the solution; symmetric in the point, and the identity outside the support."""
    on = face.restrict(point)
    reconstruction = problem.dictionary.synthesis(on, problem.x.shape)
    gradient = problem.dictionary.analysis(problem.residual(reconstruction))
    return jax.tree.map(
      lambda p, o, f, g, b, s: f * (g + b * s) + (p - o),
      *(point, on, face.free, gradient, problem.beta, face.signs),
    )

  def solve(_, v):
    on = face.restrict(v)
    u = solve_on_face(constants, face, on)
    return jax.tree.map(lambda u, v, o: u + (v - o), u, v, on)

  def tangent_solve(matvec, v):
    return lax.custom_linear_solve(matvec, v, solve, symmetric=True)

  return lax.custom_root(optimality, solution, lambda _, found: found, tangent_solve)
