"""The fields of a configuration: their help texts, their ranges, and the checks of their values."""

import dataclasses
import functools
import os
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cscjax import checks

INT32 = 2**31 - 1
"""The largest step, because steps are counted in int32 on the device."""
LARGE = 1e30
"""Upper bound of real-valued fields: a float32 can hold it, with room for computing."""

Check = Callable[[str, Any], Any]


def flag(default: Any, help_text: str, valid: tuple | Check | None = None) -> Any:
  """Returns a dataclass field with a help text, and either its choices or the check of its values.

  The range that a check allows becomes a part of the help text.
  """
  choices = valid if isinstance(valid, tuple) else None
  check = None if isinstance(valid, tuple) else valid
  help_text = f"{help_text} {_range(check)}".rstrip()
  return dataclasses.field(
    default=default, metadata={"help": help_text, "choices": choices, "check": check}
  )


def _range(check: Any) -> str:
  """Returns the sentence that states the range of a field, empty if it has none."""
  if not isinstance(check, functools.partial):
    return ""
  low, high = check.keywords["low"], check.keywords["high"]
  if check.func is checks.int_between:
    return f"Range: >= {low}." if high == INT32 else f"Range: {low}..{high}."
  if high == LARGE:
    return {-LARGE: "", 1e-30: "Range: > 0."}.get(low, f"Range: >= {low:g}.")
  return f"Range: [{low:g}, {high:g})." if low != 1e-30 else f"Range: (0, {high:g})."


def integer(low: int, high: int = INT32) -> Check:
  """Returns the check of an integer in low..high."""
  return functools.partial(checks.int_between, low=low, high=high)


def real(low: float, high: float = LARGE) -> Check:
  """Returns the check of a number in [low, high)."""
  return functools.partial(checks.in_range, low=low, high=high)


def _text(name: str, value: Any) -> str:
  """Returns a text, or a path as a text."""
  text = os.fspath(value) if isinstance(value, os.PathLike) else value
  if not (isinstance(text, str) and text):
    checks.fail(name, value, "a text that is not empty")
  return text


def checked(field: dataclasses.Field, value: Any) -> Any:
  """Returns the value of a field in the type of the field, which JSON can hold, after checking it."""
  name, check = field.name, field.metadata["check"] or _text
  kinds = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
  if field.metadata["choices"]:
    return checks.one_of(name, value, field.metadata["choices"])
  if bool in kinds:
    return checks.boolean(name, value)
  if tuple[int, ...] in kinds:
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
      checks.fail(name, value, "a sequence of integers")
    return tuple(check(name, item) for item in value)
  return check(name, value)


def attributes(config: type) -> str:
  """Returns the entries of the fields in the docstring of a configuration."""
  lines = []
  for field in dataclasses.fields(config):
    text, choices = f"{field.name}: {field.metadata['help']}", field.metadata["choices"]
    if choices:
      text += f" One of {', '.join(map(repr, choices))}."
    lines += textwrap.wrap(text, 101, initial_indent="  ", subsequent_indent="    ")
  return "\n".join(lines)
