"""Derivatives of a converged code by the implicit function theorem."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.sparse.linalg import cg

from cscjax.dictionaries import Code
from cscjax.dictionaries.frame import squared_atom_norm
from cscjax.solvers.lasso import Lasso


def implicitly_differentiable(problem: Lasso, code: Code) -> Code:
  """The same code, with the derivatives of the problem's solution.

  On the support S of a solution, with its signs s, D_S^T mask (D_S code_S - x) + beta s = 0, and a small
  change of the problem leaves S and s as they are (where no coefficient outside S is on the verge of
  entering). So the derivatives solve D_S^T mask D_S u = v, by conjugate gradients in code space: memory
  does not depend on the number of iterations that found the code, and what they left undone is the
  error of the derivative. Forward and reverse mode. Where atoms of the support depend on each other the
  solution is not unique, and a small ridge picks a derivative.
  """
  code = lax.stop_gradient(code)
  support = jax.tree.map(lambda c: (c != 0).astype(c.dtype), code)
  signs = jax.tree.map(jnp.sign, code)

  def restrict(code):
    return jax.tree.map(jnp.multiply, support, code)

  eps = float(jnp.finfo(problem.x.dtype).eps)
  ridge = eps**0.5 * squared_atom_norm(lax.stop_gradient(problem.dictionary))

  def optimality(point):
    """Symmetric in the code: 0 at the solution, the identity outside the support."""
    on = restrict(point)
    rebuilt = problem.dictionary.synthesis(on, problem.x.shape)
    gradient = restrict(problem.dictionary.analysis(problem.residual(rebuilt)))
    return jax.tree.map(
      lambda p, c, o, g, b, s: g + b * s + ridge * (o - c) + (p - o),
      *(point, code, on, gradient, problem.beta, signs),
    )

  def conjugate_gradients(matvec, v):
    return cg(matvec, v, tol=eps**0.6, maxiter=1000)[0]  # 1e-4 in float32: rounding stops it at 1e-5

  def tangent_solve(matvec, v):  # cg alone is not transposed inside custom_root
    return lax.custom_linear_solve(matvec, v, conjugate_gradients, symmetric=True)

  return lax.custom_root(optimality, code, lambda _, found: found, tangent_solve)
