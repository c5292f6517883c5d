"""Short descriptions of results, which name the shapes of arrays instead of printing them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cscjax import checks


def compact_repr(result: Any, traces: Sequence[str] = ()) -> str:
  """Describes a named tuple of arrays in one line per field.

  Args:
    result: The named tuple. Fields that are None are left out.
    traces: The fields that have one value per iteration along their first axis: their first and last
      values are shown, averaged over all other axes.

  Returns:
    The text: numbers as they are, other arrays by type and shape, how many values of a boolean array are
    True, and pytrees by the arrays that they contain.

  Example:
    >>> from typing import Any, NamedTuple
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> class Result(NamedTuple):
    ...   code: Any
    ...   objective: Any
    ...   converged: Any
    >>> result = Result(jnp.ones((2, 8, 3)), jnp.array([2.0, 1.0, 0.5]), jnp.array([True, False]))
    >>> print(ops.compact_repr(result, traces=["objective"]))
    Result(
      code=float32[2, 8, 3],
      objective=float32[3] from 2 to 0.5,
      converged=1 of 2,
    )
  """
  fields = zip(result._fields, result, strict=True)
  lines = [f"  {name}={_shown(value, name in traces)},\n" for name, value in fields if value is not None]
  return f"{type(result).__name__}(\n{''.join(lines)})"


def _shown(value: Any, is_trace: bool) -> str:
  """Returns the text for the value of a field."""
  if jax.tree_util.all_leaves([value]):
    return _shown_leaf(value, is_trace)
  parts = ", ".join(_shown_leaf(leaf, False) for leaf in jax.tree.leaves(value))
  if isinstance(value, list):
    return f"[{parts}]"
  return f"({parts})" if type(value) is tuple else f"{type(value).__name__}({parts})"


def _shown_leaf(leaf: Any, is_trace: bool) -> str:
  """Returns the text for an array, or for any other leaf of a pytree."""
  if not hasattr(leaf, "shape"):
    return repr(leaf)
  kind = f"{leaf.dtype}{list(leaf.shape)}"
  if not isinstance(leaf, jax.Array | np.ndarray) or not leaf.size or not _is_readable(leaf):
    return kind
  if leaf.dtype == bool:
    return f"{np.sum(leaf)} of {leaf.size}" if leaf.ndim else str(bool(leaf))
  if not leaf.ndim:
    return f"{leaf.item():.6g}"
  if is_trace:
    first, last = (np.mean(np.asarray(leaf[i], np.float64)) for i in (0, -1))
    return f"{kind} from {first:.4g} to {last:.4g}"
  return kind


def _is_readable(array: Any) -> bool:
  """Returns whether this process has all values of an array."""
  if isinstance(array, np.ndarray):
    return True
  return not checks.is_traced(array) and not array.is_deleted() and array.is_fully_addressable
