"""What the solvers make of their arguments: one floating type, one penalty for each part of a code."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, check_dictionary, floating_type, lipschitz
from cscjax.ops import expand_rank


def check_lengths(dictionaries: Sequence[Dictionary], **values: Any) -> None:
  """ValueError where an argument has not one value for each dictionary, or there is none."""
  if not isinstance(dictionaries, Sequence) or not dictionaries:
    checks.fail("dictionaries", dictionaries, "a sequence of at least one")
  for name, value in values.items():
    count = len(value) if isinstance(value, Sequence) or np.ndim(value) else None
    if count != len(dictionaries):
      checks.fail(
        name, value if count is None else count, f"one for each of {len(dictionaries)} dictionaries"
      )


def as_signal(dictionary: Dictionary, x: ArrayLike) -> jax.Array:
  """`x` in the floating type of signal and dictionary together (integers are converted)."""
  check_dictionary(dictionary)
  x = checks.real_array("x", x)
  ndim = dictionary.signal_ndim
  if x.ndim < ndim:
    checks.fail("x", x.shape, f"at least {ndim} axes")
  try:
    dtype = floating_type(dictionary, x.shape[x.ndim - ndim :], x)
  except TypeError as error:  # JAX's, for shapes that do not fit
    checks.fail("x", x.shape, f"a shape that the dictionary takes ({str(error)[:100]})")
  return x.astype(dtype)


def as_step(name: str, step: ArrayLike | None, dictionary: Dictionary, x: jax.Array) -> jax.Array:
  """A positive scalar step in the type of `x`; 1/L if None, without a gradient (1 where D = 0)."""
  if step is None:
    bound = lax.stop_gradient(lipschitz(dictionary, x.shape[x.ndim - dictionary.signal_ndim :]))
    step = 1 / jnp.where(bound > 0, bound, 1)
  else:
    checks.all_at_least(name, step, 0, open_bound=True)
    if jnp.ndim(step) != 0:
      checks.fail(name, jnp.shape(step), "a scalar")
  return jnp.asarray(step, x.dtype)


def list_as_code(name: str, values: Any, code: Code) -> Any:
  """A list of numbers as an array, where a code is a single array; other values unchanged."""
  is_single = jax.tree_util.treedef_is_leaf(jax.tree.structure(code))
  return checks.list_as_array(name, values) if is_single else values


def per_part(name: str, values: Any, code: Code) -> Any:
  """An array for each part of the code, of its type, from values of its structure or one for all."""
  values = list_as_code(name, values, code)
  structure = jax.tree.structure(code)
  if jax.tree.structure(values) != structure:
    if values is None or not jax.tree_util.all_leaves([values]):
      parts = str(structure).removeprefix("PyTreeDef(").removesuffix(")")
      checks.fail(name, values, f"one array, or one for each part of a code {parts}")
    values = jax.tree.map(lambda _: values, code)

  def fit(value, part):
    value = jnp.asarray(value, part.dtype)
    trailing = part.shape[max(part.ndim - value.ndim, 0) :]
    if len(trailing) != value.ndim or any(
      v not in (1, p) for v, p in zip(value.shape, trailing, strict=True)
    ):
      checks.fail(name, value.shape, f"a shape that broadcasts to the code's {part.shape}")
    return expand_rank(value, part.ndim)

  return jax.tree.map(fit, values, code)
