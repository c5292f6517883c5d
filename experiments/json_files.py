"""Strict reading of JSON files that people may have edited and disks may have damaged."""

import json
import math
import pathlib
from typing import Any

from cscjax.training import read_file


def read_json(path: pathlib.Path) -> Any:
  """Returns what a JSON file holds, see `parse_json`.

  Raises:
    OSError: If it cannot be read or is not a regular file.
    ValueError: If it is not JSON.
  """
  return parse_json(read_file(path))


def parse_json(content: bytes) -> Any:
  """Returns the value of a JSON text.

  Raises:
    ValueError: If it is not UTF-8, not JSON, has numbers that are not finite or objects that have a key
      twice, or is nested too deep.
  """
  try:
    return json.loads(
      content.decode("utf-8"),
      object_pairs_hook=_object,
      parse_float=_finite,
      parse_constant=_finite,
    )
  except RecursionError:
    raise ValueError("it is nested too deep") from None


def _object(pairs):
  found = dict(pairs)
  if len(found) < len(pairs):
    keys = [key for key, _ in pairs]
    raise ValueError(f"it has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
  return found


def _finite(text):
  number = float(text)
  if not math.isfinite(number):
    raise ValueError(f"it has the number {text[:20]}, which is not finite")
  return number
