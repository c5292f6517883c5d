"""metrics.jsonl: one JSON object an evaluation."""

import json
import math
import os
import pathlib
from typing import Any


class MetricsLog:
  """Rows of a run, in memory and in a JSON Lines file.

  Attributes:
    rows: All rows, oldest first.
  """

  def __init__(self, path: pathlib.Path | None, *, last_step: int):
    """Opens the file; rows after `last_step` and unfinished lines are dropped from it.

    Args:
      path: Made if it is not there. None keeps the rows in memory alone.
      last_step: The step that the run goes on from.
    """
    self._path = path
    self.rows: list[dict[str, Any]] = []
    if path is None:
      return
    self.rows = [row for row in _read(path) if row["step"] <= last_step]
    scratch = path.with_suffix(".tmp")
    scratch.write_text("".join(_line(row) for row in self.rows))
    os.replace(scratch, path)

  def write(self, row: dict[str, Any]) -> None:
    """Appends a row; numbers that are not finite become null."""
    row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    self.rows.append(row)
    if self._path is None:
      return
    with self._path.open("a") as file:
      file.write(_line(row))


def _line(row):
  return json.dumps(row, allow_nan=False) + "\n"


def _read(path):
  if not path.exists():
    return
  for line in path.read_text(errors="replace").splitlines():
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue  # cut off by a kill
    if isinstance(row, dict) and isinstance(row.get("step"), int):
      yield row
