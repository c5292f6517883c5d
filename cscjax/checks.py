"""Argument checks shared by all layers: a message names the argument, what came and what fits."""

import math
import numbers
from collections.abc import Iterable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def fail(name: str, got: Any, expected: str) -> NoReturn:
  """Raises the ValueError that all checks share, in one line of readable length."""
  raise ValueError(f"{name}: expected {expected}, got {one_line(repr(got))}")


def one_line(text: str | BaseException) -> str:
  """Returns a text, or that of an exception or else its type, on one line of at most 200 characters."""
  shown = " ".join(str(text).split()) or type(text).__name__
  return shown if len(shown) <= 200 else shown[:199] + "…"


def is_traced(value: Any) -> bool:
  """Whether any leaf of `value` has no concrete value, inside a transformation such as `jax.jit`."""
  return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def boolean(name: str, value: Any) -> bool:
  """Returns `value` if it is True or False, else raises ValueError."""
  if not isinstance(value, bool | np.bool_):
    fail(name, value, "True or False")
  return bool(value)


def positive_int(name: str, value: Any) -> int:
  """Returns `value` if it is an integer >= 1 and < 2^31, else raises ValueError."""
  return int_at_least(name, value, 1)


def int_at_least(name: str, value: Any, minimum: int) -> int:
  """Returns `value` if it is an integer >= `minimum` and < 2^31, as JAX counts, else ValueError."""
  is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if not (is_whole and minimum <= int(value) < 2**31):
    fail(name, value, f"an integer >= {minimum} and < 2^31")
  return int(value)


def int_between(name: str, value: Any, low: int, high: int) -> int:
  """Returns `value` if it is an integer in low..high, both included, else raises ValueError."""
  is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if not (is_whole and low <= int(value) <= high):
    fail(name, value, f"an integer in {low}..{high}")
  return int(value)


def in_range(
  name: str, value: Any, low: float, high: float = math.inf, *, low_open: bool = False
) -> float:
  """Returns `value` as a float if it is in [low, high), or in (low, high), else raises ValueError."""
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  try:
    number = float(value) if is_number else math.nan
  except OverflowError:  # an integer beyond all floats
    number = math.inf
  if not (low <= number < high and math.isfinite(number)) or (low_open and number == low):
    lower = "" if math.isinf(low) else f" > {low:g}" if low_open else f" >= {low:g}"
    upper = "" if math.isinf(high) else f" and < {high:g}"
    fail(name, value, f"a finite number{lower}{upper}")
  return number


def one_of(name: str, value: Any, choices: Iterable[Any]) -> Any:
  """Returns the one of `choices` that `value` is, else raises ValueError that lists them."""
  choices = tuple(choices)
  plain = value.item() if isinstance(value, np.generic) else value
  for choice in choices:  # True equals 1 and 2.0 equals 2, but they are none of these choices
    same_kind = isinstance(plain, type(choice)) and isinstance(plain, bool) == isinstance(choice, bool)
    if same_kind and plain == choice:
      return choice
  fail(name, value, "one of " + ", ".join(map(str, choices)))


def real_array(name: str, value: Any) -> jax.Array:
  """Returns `value` as an array if it is one of real numbers, or a tracer of one, else ValueError."""
  try:
    array = jnp.asarray(value)
  except (TypeError, ValueError, OverflowError):
    fail(name, value, "an array of real numbers")
  if not _is_real(array.dtype):
    fail(name, array.dtype.name, "an array of real numbers")
  return array


def broadcast_shape(name: str, shape: tuple[int, ...], others: tuple[int, ...]) -> tuple[int, ...]:
  """The shape that both broadcast to; ValueError that names the argument of shape `shape` if none."""
  try:
    return np.broadcast_shapes(shape, others)
  except ValueError:
    fail(name, shape, f"a shape that broadcasts against {others}")


def list_as_array(name: str, value: Any) -> Any:
  """Returns a list as an array of real numbers, or raises ValueError; other values unchanged.

  The fields of a dictionary hold arrays, but also whatever JAX puts in their place when it rebuilds a
  pytree (None, axes, shapes, objects), so a dictionary cannot ask for an array when it is made.
  """
  return real_array(name, value) if isinstance(value, list) else value


def prng_key(name: str, value: Any) -> None:
  """Raises ValueError if `value` is no random key."""
  try:
    jax.eval_shape(jax.random.bits, value)
  except (TypeError, ValueError):
    fail(name, value, "a key made by jax.random.key")


def all_real(name: str, value: Any) -> None:
  """Raises ValueError unless `value` is an array, or a tracer, of real numbers."""
  if not isinstance(value, jax.Array | np.ndarray):
    fail(name, value, "an array of real numbers")
  if not _is_real(value.dtype):
    fail(name, value.dtype.name, "an array of real numbers")


def all_at_least(name: str, value: Any, minimum: float, *, open_bound: bool = False) -> None:
  """Raises ValueError where a concrete leaf is below `minimum` or not finite; tracers pass if real."""
  for leaf in jax.tree.leaves(value, is_leaf=lambda node: node is None):
    if not _is_real(leaf.dtype if isinstance(leaf, jax.Array) else np.asarray(leaf).dtype):
      fail(name, leaf, "numbers")
    if is_traced(leaf):
      continue
    values = np.asarray(leaf).astype(np.float64)
    above = values > minimum if open_bound else values >= minimum
    if not np.all(above & np.isfinite(values)):
      fail(name, leaf, f"finite values {'>' if open_bound else '>='} {minimum:g}")


def _is_real(dtype: Any) -> bool:
  """Whether numbers of this type are real; truth values are, words, keys and objects are no numbers."""
  kinds = (jnp.floating, jnp.integer, jnp.bool_)
  return any(jnp.issubdtype(dtype, kind) for kind in kinds)
