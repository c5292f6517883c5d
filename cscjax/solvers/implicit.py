"""Derivatives of the solution by the implicit function theorem."""

import jax
import jax.numpy as jnp
from jax import lax

from cscjax.dictionaries import Code
from cscjax.solvers.lasso import Lasso
from cscjax.solvers.polish import face_of, polish, solve_on_face


def implicitly_differentiable(problem: Lasso, code: Code) -> Code:
  """Returns the same code, with the derivatives of the solution near it.

  On the support S of a solution, with its signs s, D_S^T mask (D_S code_S - x) + beta s = 0, and a small
  change of the problem leaves S and s as they are (where no coefficient outside S is on the verge of
  entering). So the derivatives solve D_S^T mask D_S u = v, by conjugate residuals in code space, whose
  memory does not depend on the number of iterations that found the code. Where atoms of the support
  depend on each other the solution is not unique, and the derivative is that of least norm.

  S is not that of `code`, which was stopped at a tolerance, but that of the solution, which `polish` finds
  when a derivative is taken: a call without one costs nothing more. Forward and reverse mode, any order.
  """
  precise = jnp.promote_types(problem.x.dtype, jnp.float32)
  exact = jax.tree.map(lambda leaf: leaf.astype(precise), (problem, code))
  return jax.tree.map(lambda e, c: e.astype(c.dtype), _near_solution(*exact), code)


@jax.custom_jvp
def _near_solution(problem: Lasso, code: Code) -> Code:
  del problem
  return code


@_near_solution.defjvp
def _(primals, tangents):
  problem, code = primals
  solution, _ = lax.stop_gradient(polish(*lax.stop_gradient(primals)))
  _, tangent = jax.jvp(lambda p: _solution(p, solution), (problem,), tangents[:1])
  return code, tangent


def _solution(problem, solution):
  """The solution, as a function of the problem that can be differentiated."""
  face = face_of(problem, solution)
  constants = lax.stop_gradient(problem)

  def optimality(point):
    """0 at the solution; symmetric in the point, and the identity outside the support."""
    on = face.restrict(point)
    rebuilt = problem.dictionary.synthesis(on, problem.x.shape)
    gradient = problem.dictionary.analysis(problem.residual(rebuilt))
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
