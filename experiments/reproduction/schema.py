"""What the files of a reproduction must hold: checks that are put together, and the reading of a file.

A check takes the name of a value and the value, and raises ValueError with one line that names it.
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
  """Returns what `check` makes of a JSON file; None, after a warning, where the file is no good.

  Args:
    path: Of the file, which has to be there.
    check: Takes the value in the file; raises ValueError where it is not what it must be.
  """
  try:
    return check(read_json(path))
  except (OSError, ValueError, RecursionError) as error:
    print(f"warning: {path} is left out: {one_line(error)}", file=sys.stderr, flush=True)
    return None


def number(low: float, high: float) -> Check:
  """A number in low..high, so a finite one."""

  def check(name, value):
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and low <= value <= high):
      checks.fail(name, value, f"a number in {low:g}..{high:g}")

  return check


def whole(low: int, high: int) -> Check:
  """An integer in low..high."""
  return lambda name, value: checks.int_between(name, value, low, high)


def one_of(choices: Iterable[str]) -> Check:
  """One of some texts."""
  known = tuple(choices)
  return lambda name, value: checks.one_of(name, value, known)


def text(name: str, value: Any) -> None:
  """A line of text."""
  if not isinstance(value, str) or not value.isprintable():
    checks.fail(name, value, "a line of text")


def optional(check: Check) -> Check:
  """What `check` takes, or null."""
  return lambda name, value: None if value is None else check(name, value)


def list_of(check: Check, length: int | None = None) -> Check:
  """A list of what `check` takes, of a given length if there is one."""

  def whole_list(name, value):
    if not isinstance(value, list) or length not in (None, len(value)):
      checks.fail(name, value, "a list" if length is None else f"a list of {length}")
    for i, item in enumerate(value):
      check(f"{name}[{i}]", item)

  return whole_list


def object_of(
  fields: dict[str, Check], *, others: Check | None = None, may_lack: Iterable[str] = ()
) -> Check:
  """An object with given fields.

  Args:
    fields: The check of each of them.
    others: The check of all other fields; None: there must be none.
    may_lack: Those that may be missing.
  """
  needed = fields.keys() - set(may_lack)

  def whole_object(name, value):
    if not isinstance(value, dict):
      checks.fail(name, value, "an object")
    for key in sorted(needed - value.keys()):
      raise ValueError(f"{name}: lacks {key}")
    for key, item in value.items():
      check = fields.get(key, others)
      if check is None:
        raise ValueError(f"{name}: unknown field {key[:99]!r}")
      check(f"{name}.{key}", item)

  return whole_object


def anything(name: str, value: Any) -> None:
  """Whatever JSON can hold."""
