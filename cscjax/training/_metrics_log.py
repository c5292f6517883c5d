"""metrics.jsonl: one JSON object per evaluation and split, each with a checksum."""

import json
import math
import os
import pathlib
import sys
import warnings
from typing import Any

from cscjax.training._files import read_file, seal, unseal

SPLITS = frozenset({"train", "validation", "test"})
REQUIRED = frozenset({"step", "epoch", "split", "loss", "accuracy", "images_per_second"})
RANGES = {
  "epoch": (0, sys.float_info.max),
  "loss": (0, sys.float_info.max),
  "accuracy": (0, 1),
  "images_per_second": (0, sys.float_info.max),
  "learning_rate": (0, sys.float_info.max),
  "seconds": (0, sys.float_info.max),
}
"""The numbers of a row with their ranges. All but the epoch may be null: unknown, or not finite."""


class MetricsLog:
  """Rows of a run, in memory and in a JSON Lines file.

  Attributes:
    rows: All rows, oldest first, without their checksums.
  """

  def __init__(self, path: pathlib.Path | None, *, last_step: int):
    """Opens the file; rows after `last_step`, damaged and unfinished ones are dropped from it.

    Args:
      path: Made if it is not there. Warns of damaged rows. None keeps the rows in memory alone.
      last_step: The step that the run goes on from.

    Raises:
      OSError: If the file cannot be read or written.
    """
    self._path = path
    self.rows = [] if path is None else read_metrics(path)
    self.drop_after(last_step)

  def write(self, row: dict[str, Any]) -> None:
    """Appends a row, which `sync` puts on disk; numbers that are not finite become null."""
    row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    self.rows.append(row)
    if self._path is None:
      return
    with self._path.open("a") as file:
      file.write(_line(row))

  def sync(self) -> None:
    """Waits until all rows are on disk, so that a checkpoint may rely on them."""
    if self._path is None:
      return
    with self._path.open("a") as file:
      os.fsync(file.fileno())

  def drop_after(self, step: int) -> None:
    """Writes the file anew without the rows of later steps."""
    self.rows = [row for row in self.rows if row["step"] <= step]
    if self._path is None:
      return
    scratch = self._path.with_suffix(".tmp")
    scratch.write_text("".join(_line(row) for row in self.rows))
    os.replace(scratch, self._path)


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the rows of a metrics.jsonl by rising steps, without their checksums.

  A row is dropped if its checksum does not match it, if a value has the wrong type or range, or if there
  is an earlier one of its step and split; rows without a checksum (of cscjax 0.1.0) are checked by their
  values alone. Warns once of all that were dropped, but not of a last line that a kill has cut off.

  Args:
    path: Of the file; one that is not there has no rows.

  Raises:
    OSError: If the file cannot be read.
  """
  try:
    content = read_file(path)
  except FileNotFoundError:
    return []
  rows, damaged = {}, 0
  for line in content.splitlines(keepends=True):
    try:
      row = unseal(json.loads(line.decode()))
      valid = _is_valid(row)
    except (ValueError, TypeError, AttributeError, RecursionError):
      valid = False
    if valid and (row["step"], row["split"]) not in rows:
      rows[row["step"], row["split"]] = row
    elif valid or line.endswith(b"\n"):
      damaged += 1
  if damaged:
    warnings.warn(f"{path}: dropped {damaged} damaged or repeated lines", stacklevel=3)
  return sorted(rows.values(), key=lambda row: row["step"])


def _line(row: dict[str, Any]) -> str:
  return json.dumps(seal(row), allow_nan=False) + "\n"


def _is_valid(row: dict[str, Any]) -> bool:
  """Whether keys, types and ranges are those of a row of a run; TypeError where they are far from it."""
  if not REQUIRED <= row.keys() <= {"step", "split", *RANGES} or row["split"] not in SPLITS:
    return False
  if type(row["step"]) is not int or row["step"] < 0:
    return False
  return all(
    (value is None and name != "epoch") or (type(value) in (int, float) and low <= value <= high)
    for name, (low, high) in RANGES.items()
    for value in [row.get(name)]
  )
