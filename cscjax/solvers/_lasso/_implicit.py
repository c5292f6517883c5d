"""Derivatives of the solution of the Lasso by the implicit function theorem."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.typing import ArrayLike

from cscjax.dictionaries import Code, Dictionary
from cscjax.ops import compact_repr, highest_precision
from cscjax.solvers._lasso._polish import face_of, polish, slack, solve_on_face
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._signals import in_precision


class PolishedCode(NamedTuple):
  """The result of `polished`.

  Attributes:
    code: The solution near the given code.
    violation: How much the code violates the optimality conditions beyond rounding, relative to the
      largest |D^T x| of each signal: [batch...]. It is 0 if the solution was found.
    slack: How far the zero coefficients are from becoming nonzero: the smallest beta_j - |d_j^T (x - D
      code)| over them, relative to the same value: [batch...]; inf if no coefficient is zero. At 0 the
      solution is degenerate, and has at most one-sided derivatives.
  """

  code: Code
  violation: jax.Array
  slack: jax.Array

  def __repr__(self) -> str:
    return compact_repr(self)


@highest_precision
def polished(
  dictionary: Dictionary,
  x: ArrayLike,
  code: Code,
  beta: Any,
  *,
  nonnegative: Any = False,
  mask: ArrayLike | None = None,
  ridge: Any = None,
  joint_axes: int | Sequence[int] | None = None,
) -> PolishedCode:
  """Finds the solution of the Lasso near a code, at which implicit derivatives are computed.

  With `differentiate="implicit"`, the derivatives of a solver are those of the exact solution of
  min_code 1/2 ||x - D code||^2 + beta ||code||_1 near the returned code. Its support and signs are found
  when a derivative is taken. This function does the same, and reports whether the derivatives are
  reliable: `violation` must be 0, and `slack` well above the rounding errors, so that the support stays
  the same for small changes. Their error then depends only on the condition number of the atoms in the
  support, which `cscjax.theory.stability` bounds.

  Args:
    dictionary: The dictionary D.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    code: The code from a solver, of the shape of `dictionary.analysis(x)`.
    beta: The penalty that was given to the solver, nonnegative: a scalar, one value per channel [m], or
      an array that broadcasts against the code. A code of several parts takes one value for all parts,
      or one for each part. `cscjax.relative(0.1)` is a tenth of `beta_max` for each signal.
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
    A `PolishedCode`: the solution, its violation of the optimality conditions and its slack. No gradient
    flows through them.

  Raises:
    ValueError: If shapes do not fit, or a value is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.eye(2))
    >>> x = jnp.array([1.0, 0.1])
    >>> result = cscjax.polished(dictionary, x, jnp.array([0.7, 0.0]), beta=0.25)
    >>> [round(value, 3) for value in result.code.tolist()], float(result.violation)
    ([0.75, 0.0], 0.0)
    >>> round(float(result.slack), 3)  # (0.25 - 0.1) / 1
    0.15
  """
  problem = Lasso(
    dictionary, x, beta, nonnegative=nonnegative, mask=mask, ridge=ridge, joint_axes=joint_axes
  )
  return _polished(problem, problem.as_code(code, "code"))


@jax.jit
def _polished(problem: Lasso, code: Code) -> PolishedCode:
  precise, code_in = lax.stop_gradient(in_precision((problem, code), problem.x.dtype))
  solution, violation = polish(precise, code_in)
  measures = [v.astype(problem.x.dtype) for v in (violation, slack(precise, solution))]
  solution = jax.tree.map(lambda s, c: s.astype(c.dtype), solution, code)
  return lax.stop_gradient(PolishedCode(solution, *measures))


def implicitly_differentiable(problem: Lasso, code: Code) -> Code:
  """Returns the code unchanged, with the derivatives of the solution near it.

  On the support S of a solution with signs s, D_S^T mask (D_S code_S - x) + beta s = 0. A small change
  of the problem does not change S and s, unless a coefficient outside S is about to enter it. Hence the
  derivatives solve D_S^T mask D_S u = v, where a ridge or a norm of groups adds its second derivative
  to the matrix. The method of conjugate residuals solves this system in code space, with memory that
  does not depend on the number of iterations that found the code. If the atoms of the support are
  linearly dependent, the solution is not unique, and the derivative is that of least norm.

  S is not the support of `code`, which was stopped at a tolerance, but that of the solution, which
  `polish` finds when a derivative is taken; without derivatives, there is no extra cost. Forward and
  reverse mode of any order are supported.
  """
  exact = _near_solution(*in_precision((problem, code), problem.x.dtype))
  return jax.tree.map(lambda e, c: e.astype(c.dtype), exact, code)


@jax.custom_jvp
def _near_solution(problem: Lasso, code: Code) -> Code:
  del problem
  return code


@_near_solution.defjvp
@highest_precision
def _(primals: tuple[Lasso, Code], tangents: tuple[Lasso, Code]) -> tuple[Code, Code]:
  problem, code = primals
  solution, _ = lax.stop_gradient(polish(*lax.stop_gradient(primals)))
  _, tangent = jax.jvp(lambda p: _solution(p, solution), (problem,), tangents[:1])
  return _near_solution(problem, code), tangent  # this call has the rule again: any order works


def _solution(problem: Lasso, solution: Code) -> Code:
  """Returns the solution as a differentiable function of the problem."""
  face = face_of(problem, solution)
  constants = lax.stop_gradient(problem)

  def optimality(point: Code) -> Code:
    """Returns 0 at the solution; symmetric in `point`, and the identity outside the support."""
    on = face.restrict(point)
    reconstruction = problem.dictionary.synthesis(on, problem.x.shape)
    gradient = problem.gradient(reconstruction)
    return jax.tree.map(
      lambda p, o, f, g, r: f * (g + r.gradient(o)) + (p - o),
      *(point, on, face.free, gradient, problem.regularizer),
    )

  def solve(_: Callable[[Code], Code], v: Code) -> Code:
    on = face.restrict(v)
    u = solve_on_face(constants, face, on)
    return jax.tree.map(lambda u, v, o: u + (v - o), u, v, on)

  def tangent_solve(matvec: Callable[[Code], Code], v: Code) -> Code:
    return lax.custom_linear_solve(matvec, v, solve, symmetric=True)

  return lax.custom_root(optimality, solution, lambda _, found: found, tangent_solve)
