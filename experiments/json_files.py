"""Reads JSON files strictly, because they may have been edited or damaged."""

import json
import math
import pathlib
from typing import Any

from cscjax.training import read_file


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file with `parse_json` and returns its value.

  Raises:
    OSError: If the file cannot be read or is not a regular file.
    ValueError: If its content is not valid, as for `parse_json`.
  """
  return parse_json(read_file(path))


def parse_json(content: bytes) -> Any:
  """Returns the value of a JSON text.

  Raises:
    ValueError: If the text is not UTF-8 or not JSON, contains a number that is not finite or an object
      with a duplicate key, or is nested too deeply.
  """
  try:
    return json.loads(
      content.decode("utf-8"),
      object_pairs_hook=_object,
      parse_float=_finite,
      parse_constant=_finite,
    )
  except RecursionError:
    raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns a JSON object; ValueError if a key is not unique."""
  found = dict(pairs)
  if len(found) < len(pairs):
    keys = [key for key, _ in pairs]
    raise ValueError(f"it has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
  return found


def _finite(text: str) -> float:
  """Returns the number; ValueError if it is not finite."""
  number = float(text)
  if not math.isfinite(number):
    raise ValueError(f"it has the number {text[:20]}, which is not finite")
  return number
