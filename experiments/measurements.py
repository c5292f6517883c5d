"""Rows of measurements: where and when they were made, and the file that keeps them."""

import datetime
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from cscjax import runs

Row = dict[str, Any]


def provenance() -> Row:
  """Returns the device, the versions and the date of a measurement."""
  found = runs.environment()
  return {
    "device": f"{found['device']['count']} x {found['device']['kind']}",
    "versions": found["versions"],
    "git_revision": found["git_revision"],
    "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
  }


def stored(rows: Iterable[Row], path: str | None) -> list[Row]:
  """Makes rows and returns them; a file has all rows made so far, as lines of JSON.

  Args:
    rows: The rows, which are made as they are iterated over.
    path: The file, which is replaced; None for no file.
  """
  if path is not None:
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)  # fail now, not after minutes
  found: list[Row] = []
  for row in rows:
    found.append(row)
    if path is not None:
      with runs.replaced(pathlib.Path(path)) as scratch:
        scratch.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in found))
  return found
