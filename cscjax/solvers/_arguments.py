"""Conversion of the arguments that solvers share: the step, and a penalty for each part of a code."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, lipschitz
from cscjax.ops import expand_rank


def as_step(name: str, step: ArrayLike | None, dictionary: Dictionary, x: jax.Array) -> jax.Array:
  """Returns the step as a positive scalar in the type of `x`.

  If `step` is None, it is 1/L, through which no gradient flows, or 1 if D = 0.
  """
  if step is None:
    bound = lax.stop_gradient(lipschitz(dictionary, x.shape[x.ndim - dictionary.signal_ndim :]))
    step = 1 / jnp.where(bound > 0, bound, 1)
  else:
    check_scalar(name, step, positive=True)
  return jnp.asarray(step, x.dtype)


def check_scalar(name: str, value: ArrayLike, *, positive: bool = False) -> None:
  """Raises ValueError if a value is not a nonnegative or, if `positive`, a positive scalar."""
  checks.all_at_least(name, value, 0, open_bound=positive)
  if jnp.ndim(value) != 0:
    checks.fail(name, jnp.shape(value), "a scalar")


def list_as_code(name: str, values: Any, code: Code) -> Any:
  """Converts a list of numbers to an array if the code is a single array; keeps all other values."""
  is_single = jax.tree_util.treedef_is_leaf(jax.tree.structure(code))
  return checks.list_as_array(name, values) if is_single else values


def per_part(name: str, values: Any, code: Code) -> Any:
  """Returns an array for each part of the code, in the part's type and rank.

  `values` has the structure of the code, or is a single value for all parts.
  """
  values = list_as_code(name, values, code)
  structure = jax.tree.structure(code)
  if jax.tree.structure(values) != structure:
    if values is None or not jax.tree_util.all_leaves([values]):
      parts = str(structure).removeprefix("PyTreeDef(").removesuffix(")")
      checks.fail(name, values, f"one array, or arrays in the structure of the code, {parts}")
    values = jax.tree.map(lambda _: values, code)

  def fit(value: ArrayLike, part: Any) -> jax.Array:
    value = jnp.asarray(value, part.dtype)
    trailing = part.shape[max(part.ndim - value.ndim, 0) :]
    if len(trailing) != value.ndim or any(
      v not in (1, p) for v, p in zip(value.shape, trailing, strict=True)
    ):
      checks.fail(name, value.shape, f"a shape that broadcasts to the code's shape {part.shape}")
    return expand_rank(value, part.ndim)

  return jax.tree.map(fit, values, code)


def iteration_limit(
  iterations: int | None,
  tolerance: ArrayLike | None,
  max_iterations: int | None,
  *,
  name: str = "iterations",
  default: int = 100,
  smallest: int = 0,
) -> int:
  """Checks the arguments that limit a run, and returns its largest number of iterations.

  Args:
    iterations: The number of iterations of a run without a tolerance, or None.
    tolerance: The tolerance, a nonnegative scalar; None if the run has none.
    max_iterations: The largest number of iterations with a tolerance, positive; 1000 if None.
    name: The name of the first argument in errors; that of the third is `max_` with this name.
    default: The number of iterations if both `iterations` and `tolerance` are None.
    smallest: The smallest number of iterations without a tolerance.

  Returns:
    The number of iterations; with a tolerance, the largest number.

  Raises:
    ValueError: If an argument is out of range, or if they contradict each other.

  Example:
    >>> from cscjax.solvers import iteration_limit
    >>> iteration_limit(None, None, None)
    100
    >>> iteration_limit(None, 1e-3, 50)
    50
  """
  if tolerance is None:
    if max_iterations is not None:
      checks.fail(f"max_{name}", max_iterations, f"None if tolerance is None (use {name})")
    return checks.int_at_least(name, default if iterations is None else iterations, smallest)
  if iterations is not None:
    checks.fail(name, iterations, f"None if tolerance is given (use max_{name})")
  check_scalar("tolerance", tolerance)
  return checks.positive_int(f"max_{name}", 1000 if max_iterations is None else max_iterations)
