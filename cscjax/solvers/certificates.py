"""What tells how good a code is, or that it must be 0: the dual of the Lasso."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary
from cscjax.solvers.lasso import Lasso, sum_signals


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
  pull = _pull(problem, problem.weigh(problem.x))
  return _largest(problem, jax.tree.map(_positive(problem), pull)).astype(problem.x.dtype)


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
  rebuilt = dictionary.synthesis(code, problem.x.shape)
  dual = -problem.residual(rebuilt)
  pull = jax.tree.map(_positive(problem), _pull(problem, dual))
  ratio = jax.tree.map(
    lambda p, b: jnp.where(p > 0, b / jnp.where(p > 0, p, 1), jnp.inf), pull, problem.beta
  )
  feasible = -_largest(problem, jax.tree.map(jnp.negative, ratio))
  size = sum_signals(dual * (problem.x - rebuilt), problem.batch_ndim)
  along = sum_signals(dual * problem.x, problem.batch_ndim)
  scale = jnp.clip(along / jnp.where(size > 0, size, 1), 0, feasible)
  value = scale * along - 0.5 * scale**2 * size
  return (problem.objective(code, rebuilt) - value).astype(problem.x.dtype)


def check_beta_below_max(problem: Lasso) -> None:
  """ValueError that names beta_max where the code 0 is the solution of a signal; not under jit."""
  leaves = jax.tree.leaves(problem)
  if any(isinstance(leaf, Tracer) for leaf in leaves):
    checks.fail("check_beta", True, "concrete arguments: under jit nothing can be raised")
  pull = jax.tree.map(_positive(problem), _pull(problem, problem.weigh(problem.x)))
  excess = _largest(problem, jax.tree.map(lambda p, b: p - b, pull, problem.beta))
  if bool(jnp.any(excess <= 0)):
    largest = float(jnp.min(_largest(problem, pull)))
    got = jax.tree.map(lambda b: b.tolist(), problem.beta)
    checks.fail("beta", got, f"a penalty below beta_max = {largest:g}, above which the code is 0")


def _pull(problem, signal):
  return problem.dictionary.analysis(signal)


def _positive(problem):
  return (lambda p: jnp.maximum(p, 0)) if problem.nonnegative else jnp.abs


def _largest(problem, code):
  """Over all coefficients of each signal."""
  parts = [jnp.max(c, axis=tuple(range(problem.batch_ndim, c.ndim))) for c in jax.tree.leaves(code)]
  return jnp.stack(parts).max(axis=0)
