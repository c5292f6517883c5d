"""Checks of arguments, with one form of message: `name: expected ..., got ...`.

These functions are used by all packages of cscjax, and by code that extends them.
"""

import math
import numbers
import sys
import warnings
from collections.abc import Iterable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_LIBRARIES = ("cscjax", "flax", "jax", "contextlib")  # modules between a user's program and the warning


def fail(name: str, got: Any, expected: str) -> NoReturn:
  """Raises the ValueError that reports an invalid argument, in one line.

  Args:
    name: The name of the argument.
    got: The value that was given; its repr is shown, shortened to 200 characters.
    expected: A description of the valid values.

  Returns:
    Never, because the function always raises.

  Raises:
    ValueError: Always.

  Example:
    >>> from cscjax import checks
    >>> checks.fail("beta", -1, "a number >= 0")
    Traceback (most recent call last):
    ValueError: beta: expected a number >= 0, got -1
  """
  raise ValueError(f"{name}: expected {expected}, got {one_line(repr(got))}")


def warn(text: str) -> None:
  """Gives a warning about an argument, at the line of the user's program that called the library.

  Args:
    text: The warning, in the form `name: expected ..., got ...`.

  Example:
    >>> import warnings
    >>> from cscjax import checks
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...   checks.warn("x: expected values in 0..1, got 255")
    >>> caught[0].category.__name__, str(caught[0].message)
    ('UserWarning', 'x: expected values in 0..1, got 255')
  """
  level, frame = 1, sys._getframe()
  while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
    level, frame = level + 1, frame.f_back
  warnings.warn(text, stacklevel=level)


def warn_if_channels_first(name: str, shape: tuple[int, ...]) -> None:
  """Warns about a batch whose second axis, of length 1, 3 or 4, probably holds the channels.

  Args:
    name: The name of the argument, which starts the message.
    shape: The shape of the batch: [N, L, C], [N, H, W, C] or [N, D, H, W, C].

  Example:
    >>> import warnings
    >>> from cscjax import checks
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...   checks.warn_if_channels_first("images", (8, 3, 32, 32))
    >>> print(caught[0].message)
    images: expected channels in the last axis, got (8, 3, 32, 32), which looks like [N, C, H, W]; pass
    np.moveaxis(images, 1, -1)
  """
  if shape[1] in (1, 3, 4) and min(shape[2:]) > shape[1]:
    axes = {3: "[N, C, L]", 4: "[N, C, H, W]", 5: "[N, C, D, H, W]"}[len(shape)]
    warn(
      f"{name}: expected channels in the last axis, got {shape}, which looks like {axes}; pass "
      "np.moveaxis(images, 1, -1)"
    )


def one_line(text: str | BaseException) -> str:
  """Returns a text or the message of an exception on one line of at most 200 characters.

  Args:
    text: The text or the exception.

  Returns:
    The text, with each run of whitespace replaced by a space. For an empty text, the name of its type,
    such as the type of the exception.

  Example:
    >>> from cscjax import checks
    >>> checks.one_line(OSError("no space   left"))
    'no space left'
    >>> checks.one_line(TimeoutError())
    'TimeoutError'
  """
  shown = " ".join(str(text).split()) or type(text).__name__
  return shown if len(shown) <= 200 else shown[:199] + "…"


def is_traced(value: Any) -> bool:
  """Tests whether a leaf of a pytree is a tracer, as inside `jax.jit` and other transformations.

  Args:
    value: Any pytree.

  Returns:
    Whether the value of at least one leaf is unknown.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from cscjax import checks
    >>> checks.is_traced(jnp.ones(3))
    False
    >>> bool(jax.jit(lambda x: checks.is_traced(x))(jnp.ones(3)))
    True
  """
  return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def boolean(name: str, value: Any) -> bool:
  """Checks that an argument is True or False.

  Args:
    name: The name of the argument.
    value: The value to check; NumPy booleans are accepted.

  Returns:
    The value as a bool.

  Raises:
    ValueError: If the value is neither True nor False.

  Example:
    >>> from cscjax import checks
    >>> checks.boolean("nonnegative", 1)
    Traceback (most recent call last):
    ValueError: nonnegative: expected True or False, got 1
  """
  if not isinstance(value, bool | np.bool_):
    fail(name, value, "True or False")
  return bool(value)


def positive_int(name: str, value: Any) -> int:
  """Checks that an argument is an integer >= 1 and < 2^31.

  Args:
    name: The name of the argument.
    value: The value to check.

  Returns:
    The value as an int.

  Raises:
    ValueError: If the value is not such an integer; booleans are not accepted.

  Example:
    >>> from cscjax import checks
    >>> checks.positive_int("iterations", 0)
    Traceback (most recent call last):
    ValueError: iterations: expected an integer >= 1 and < 2^31, got 0
  """
  return int_at_least(name, value, 1)


def int_at_least(name: str, value: Any, minimum: int) -> int:
  """Checks that an argument is an integer >= `minimum` and < 2^31, the range of JAX's int32.

  Args:
    name: The name of the argument.
    value: The value to check.
    minimum: The smallest valid value.

  Returns:
    The value as an int.

  Raises:
    ValueError: If the value is not such an integer; booleans are not accepted.

  Example:
    >>> from cscjax import checks
    >>> checks.int_at_least("seed", 3, 0)
    3
  """
  is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if not (is_whole and minimum <= int(value) < 2**31):
    fail(name, value, f"an integer >= {minimum} and < 2^31")
  return int(value)


def int_between(name: str, value: Any, low: int, high: int) -> int:
  """Checks that an argument is an integer in low..high, both included.

  Args:
    name: The name of the argument.
    value: The value to check.
    low: The smallest valid value.
    high: The largest valid value.

  Returns:
    The value as an int.

  Raises:
    ValueError: If the value is not such an integer; booleans are not accepted.

  Example:
    >>> from cscjax import checks
    >>> checks.int_between("port", 8080, 0, 65535)
    8080
  """
  is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if not (is_whole and low <= int(value) <= high):
    fail(name, value, f"an integer in {low}..{high}")
  return int(value)


def in_range(
  name: str, value: Any, low: float, high: float = math.inf, *, low_open: bool = False
) -> float:
  """Checks that an argument is a finite number in [low, high), or in (low, high).

  Args:
    name: The name of the argument.
    value: The value to check: a Python or NumPy number, not an array.
    low: The lower end of the interval; -inf for none.
    high: The upper end, which is not included. By default there is none.
    low_open: Whether `low` itself is invalid.

  Returns:
    The value as a float.

  Raises:
    ValueError: If the value is not such a number; booleans are not accepted.

  Example:
    >>> from cscjax import checks
    >>> checks.in_range("validation_fraction", 0.1, 0, 1)
    0.1
    >>> checks.in_range("step", 0, 0, low_open=True)
    Traceback (most recent call last):
    ValueError: step: expected a finite number > 0, got 0
  """
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  try:
    number = float(value) if is_number else math.nan
  except OverflowError:  # the integer is too large for a float
    number = math.inf
  if not (low <= number < high and math.isfinite(number)) or (low_open and number == low):
    lower = "" if math.isinf(low) else f" > {low:g}" if low_open else f" >= {low:g}"
    upper = "" if math.isinf(high) else f" and < {high:g}"
    fail(name, value, f"a finite number{lower}{upper}")
  return number


def one_of(name: str, value: Any, choices: Iterable[Any]) -> Any:
  """Checks that an argument is one of several choices.

  Args:
    name: The name of the argument.
    value: The value to check. It must have the type of a choice: True is not accepted for 1.
    choices: The valid values.

  Returns:
    The choice that equals the value.

  Raises:
    ValueError: If the value is not one of the choices, which the message lists.

  Example:
    >>> from cscjax import checks
    >>> checks.one_of("solver", "lars", ("ista", "fista"))
    Traceback (most recent call last):
    ValueError: solver: expected one of ista, fista, got 'lars'
  """
  choices = tuple(choices)
  plain = value.item() if isinstance(value, np.generic) else value
  for choice in choices:  # the types must agree too, because True == 1 and 2.0 == 2
    same_kind = isinstance(plain, type(choice)) and isinstance(plain, bool) == isinstance(choice, bool)
    if same_kind and plain == choice:
      return choice
  fail(name, value, "one of " + ", ".join(map(str, choices)))


def real_array(name: str, value: Any) -> jax.Array:
  """Converts an argument to an array of real numbers.

  Args:
    name: The name of the argument.
    value: An array, a tracer, a number or nested lists of numbers.

  Returns:
    The value as a JAX array; its type may be floating, integer or boolean.

  Raises:
    ValueError: If the value cannot be converted to an array or is not real.

  Example:
    >>> from cscjax import checks
    >>> checks.real_array("x", [1, 2]).shape
    (2,)
    >>> checks.real_array("x", 1j)
    Traceback (most recent call last):
    ValueError: x: expected an array of real numbers, got 'complex64'
  """
  try:
    array = jnp.asarray(_in_native_order(value))
  except (TypeError, ValueError, OverflowError):
    fail(name, value, "an array of real numbers")
  if not _is_real(array.dtype):
    fail(name, array.dtype.name, "an array of real numbers")
  return array


def broadcast_shape(name: str, shape: tuple[int, ...], others: tuple[int, ...]) -> tuple[int, ...]:
  """Checks that the shape of an argument broadcasts against another shape.

  Args:
    name: The name of the argument.
    shape: Its shape.
    others: The other shape.

  Returns:
    The shape to which both broadcast.

  Raises:
    ValueError: If the shapes do not broadcast.

  Example:
    >>> from cscjax import checks
    >>> checks.broadcast_shape("beta", (4,), (3, 4))
    (3, 4)
  """
  try:
    return np.broadcast_shapes(shape, others)
  except ValueError:
    fail(name, shape, f"a shape that broadcasts against {others}")


def list_as_array(name: str, value: Any) -> Any:
  """Converts a list to an array of real numbers and returns any other value as it is.

  An array of NumPy in another byte order than that of this machine is converted, too. This is meant for
  the fields of a dictionary. They contain arrays, but also the placeholders that JAX puts there when it
  rebuilds a pytree (None, axes, shapes, objects), so a dictionary cannot insist on arrays.

  Args:
    name: The name of the argument.
    value: Any value.

  Returns:
    The array, or the value itself if it is neither a list nor in another byte order.

  Raises:
    ValueError: If a list cannot be converted to an array of real numbers.

  Example:
    >>> from cscjax import checks
    >>> checks.list_as_array("atoms", [[1.0, 0.0]]).shape
    (1, 2)
    >>> checks.list_as_array("atoms", None) is None
    True
  """
  return real_array(name, value) if isinstance(value, list) else _in_native_order(value)


def prng_key(name: str, value: Any) -> None:
  """Checks that an argument is a random key of JAX.

  Args:
    name: The name of the argument.
    value: The value to check.

  Raises:
    ValueError: If the value is not a key.

  Example:
    >>> import jax
    >>> from cscjax import checks
    >>> checks.prng_key("key", jax.random.key(0))
    >>> checks.prng_key("key", 0)
    Traceback (most recent call last):
    ValueError: key: expected a key made by jax.random.key, got 0
  """
  try:
    jax.eval_shape(jax.random.bits, value)
  except (TypeError, ValueError):
    fail(name, value, "a key made by jax.random.key")


def all_real(name: str, value: Any) -> None:
  """Checks that an argument is an array or a tracer of real numbers, without converting it.

  Args:
    name: The name of the argument.
    value: The value to check.

  Raises:
    ValueError: If the value is not a JAX or NumPy array, is not real, or is in another byte order than
      that of this machine.

  Example:
    >>> from cscjax import checks
    >>> checks.all_real("atoms", "text")
    Traceback (most recent call last):
    ValueError: atoms: expected an array of real numbers, got 'text'
  """
  if not isinstance(value, jax.Array | np.ndarray):
    fail(name, value, "an array of real numbers")
  if not _is_real(value.dtype):
    fail(name, value.dtype.name, "an array of real numbers")
  if not value.dtype.isnative:
    fail(name, f"an array of type {value.dtype.str}", "values in the byte order of this machine")


def all_at_least(name: str, value: Any, minimum: float, *, open_bound: bool = False) -> None:
  """Checks that all values of a pytree are finite and not below `minimum`.

  The values of tracers are unknown, so only their type is checked.

  Args:
    name: The name of the argument.
    value: An array, a number, or a pytree of these.
    minimum: The lower bound.
    open_bound: Whether `minimum` itself is invalid.

  Raises:
    ValueError: If a leaf is not real or a bool, or has a value that is not finite or is below `minimum`.

  Example:
    >>> import numpy as np
    >>> from cscjax import checks
    >>> checks.all_at_least("beta", np.array([0.1, 0.2]), 0)
    >>> checks.all_at_least("beta", -0.5, 0)
    Traceback (most recent call last):
    ValueError: beta: expected finite values >= 0, got -0.5
  """
  for leaf in jax.tree.leaves(value, is_leaf=lambda node: node is None):
    dtype = leaf.dtype if isinstance(leaf, jax.Array) else np.asarray(leaf).dtype
    if isinstance(leaf, bool) or not _is_real(dtype):
      fail(name, leaf, "numbers")
    if is_traced(leaf):
      continue
    lowest, highest = extremes(leaf)
    above = lowest > minimum if open_bound else lowest >= minimum
    if not (above and lowest > -math.inf and highest < math.inf):
      fail(name, leaf, f"finite values {'>' if open_bound else '>='} {minimum:g}")


def extremes(array: Any) -> tuple[float, float]:
  """Returns the smallest and the largest value of an array, which several processes may share.

  Args:
    array: An array of real numbers, or a number; no tracer.

  Returns:
    Two floats, which are NaN if a value is NaN, and inf and -inf if the array is empty.

  Example:
    >>> import numpy as np
    >>> from cscjax import checks
    >>> checks.extremes(np.array([3, 1, 2]))
    (1.0, 3.0)
  """
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    # No process has all values; the devices compute the same result for each of them.
    with jax.ensure_compile_time_eval():  # under `jax.jit`, too
      values = jnp.asarray(array, float)
      return float(jnp.min(values, initial=jnp.inf)), float(jnp.max(values, initial=-jnp.inf))
  values = np.asarray(array).astype(np.float64)
  return float(values.min(initial=math.inf)), float(values.max(initial=-math.inf))


def _in_native_order(value: Any) -> Any:
  """Converts an array of NumPy to this machine's byte order; those of FITS files have the other one."""
  if isinstance(value, np.ndarray) and not value.dtype.isnative:
    return value.astype(value.dtype.newbyteorder("="))
  return value


def _is_real(dtype: Any) -> bool:
  """Whether a type is that of real numbers; booleans count, strings, random keys and objects do not."""
  kinds = (jnp.floating, jnp.integer, jnp.bool_)
  return any(jnp.issubdtype(dtype, kind) for kind in kinds)
