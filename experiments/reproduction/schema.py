"""Composable checks of the JSON files of a reproduction, and a function that reads a checked file.

A check takes the name of a value and the value. It raises ValueError, with a message of one line that
starts with the name, if the value is not valid.
"""

import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

from cscjax import checks
from cscjax.checks import one_line
from experiments.json_files import read_json

Check = Callable[[str, Any], Any]


def read_checked(path: pathlib.Path, check: Callable[[Any], Any]) -> Any:
  """Reads a JSON file and returns `check` of its value, or None after a warning if it is not valid.

  Args:
    path: Path of an existing file.
    check: Takes the value in the file and returns the result; raises ValueError if it is not valid.
  """
  try:
    return check(read_json(path))
  except (OSError, ValueError, RecursionError) as error:
    print(f"warning: {path} is left out: {one_line(error)}", file=sys.stderr, flush=True)
    return None


def number(low: float, high: float) -> Check:
  """Returns a check that a value is a finite number in low..high."""

  def check(name: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and low <= value <= high):
      checks.fail(name, value, f"a number in {low:g}..{high:g}")

  return check


def whole(low: int, high: int) -> Check:
  """Returns a check that a value is an integer in low..high."""
  return lambda name, value: checks.int_between(name, value, low, high)


def one_of(choices: Iterable[str]) -> Check:
  """Returns a check that a value is one of the given strings."""
  known = tuple(choices)
  return lambda name, value: checks.one_of(name, value, known)


def text(name: str, value: Any) -> None:
  """Checks that a value is one line of text."""
  if not isinstance(value, str) or not value.isprintable():
    checks.fail(name, value, "a line of text")


def optional(check: Check) -> Check:
  """Returns a check that a value is null or passes `check`."""
  return lambda name, value: None if value is None else check(name, value)


def list_of(check: Check, length: int | None = None) -> Check:
  """Returns a check that a value is a list, of the given length if any, whose items pass `check`."""

  def check_list(name: str, value: Any) -> None:
    if not isinstance(value, list) or length not in (None, len(value)):
      checks.fail(name, value, "a list" if length is None else f"a list of {length}")
    for i, item in enumerate(value):
      check(f"{name}[{i}]", item)

  return check_list


def object_of(
  fields: dict[str, Check], *, others: Check | None = None, may_lack: Iterable[str] = ()
) -> Check:
  """Returns a check that a value is a JSON object with the given fields.

  Args:
    fields: Check of each field by its name.
    others: Check of all other fields; None allows no other fields.
    may_lack: Names of the fields that may be missing.
  """
  needed = fields.keys() - set(may_lack)

  def check_object(name: str, value: Any) -> None:
    if not isinstance(value, dict):
      checks.fail(name, value, "an object")
    for key in sorted(needed - value.keys()):
      raise ValueError(f"{name}: lacks {key}")
    for key, item in value.items():
      check = fields.get(key, others)
      if check is None:
        raise ValueError(f"{name}: unknown field {key[:99]!r}")
      check(f"{name}.{key}", item)

  return check_object


def anything(name: str, value: Any) -> None:
  """Accepts every value."""
