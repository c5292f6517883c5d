"""metrics.jsonl: one JSON object an evaluation."""

import json
import math
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

KEYS = frozenset({"step", "epoch", "split", "loss", "accuracy", "images_per_second"})
"""What every row has; those of a run have more."""


class MetricsLog:
  """Rows of a run, in memory and in a JSON Lines file.

  Attributes:
    rows: All rows, oldest first.
  """

  def __init__(self, path: pathlib.Path | None, *, last_step: int):
    """Opens the file; rows after `last_step` and unfinished lines are dropped from it.

    Args:
      path: Made if it is not there; of damaged lines it is warned. None keeps the rows in memory alone.
      last_step: The step that the run goes on from.
    """
    self._path = path
    self.rows = [] if path is None else list(_read(path))
    self.drop_after(last_step)

  def write(self, row: dict[str, Any]) -> None:
    """Appends a row; numbers that are not finite become null."""
    row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    self.rows.append(row)
    if self._path is None:
      return
    with self._path.open("a") as file:
      file.write(_line(row))
      file.flush()
      os.fsync(file.fileno())  # before the checkpoint that relies on it

  def drop_after(self, step: int) -> None:
    """Writes the file anew without the rows of later steps."""
    self.rows = [row for row in self.rows if row["step"] <= step]
    if self._path is None:
      return
    scratch = self._path.with_suffix(".tmp")
    scratch.write_text("".join(_line(row) for row in self.rows))
    os.replace(scratch, self._path)


def _line(row: dict[str, Any]) -> str:
  return json.dumps(row, allow_nan=False) + "\n"


def _read(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The whole rows of a file."""
  if not path.exists():
    return
  damaged = 0
  for line in path.read_bytes().splitlines(keepends=True):
    try:
      row = json.loads(line)
      if not (isinstance(row["step"], int) and row.keys() >= KEYS):
        raise ValueError
    except (ValueError, TypeError, KeyError):
      damaged += line.endswith(b"\n")  # else it was cut off by a kill
    else:
      yield row
  if damaged:
    warnings.warn(f"{path}: dropped {damaged} damaged lines", stacklevel=4)
