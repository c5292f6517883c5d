"""The file metrics.jsonl: one JSON object per evaluation and split, each with a checksum."""

import json
import math
import os
import pathlib
import sys
import warnings
from typing import Any

from cscjax.training._files import read_file, seal, unseal
from cscjax.training._state import LAST_STEP

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
"""The ranges of the numbers of a row. All but the epoch may be null: unknown, or not finite."""


class MetricsLog:
  """The metrics of a run, in memory and in a JSON Lines file.

  Attributes:
    rows: All rows, oldest first, without their checksums.

  Example:
    >>> from cscjax import training
    >>> log = training.MetricsLog("metrics.jsonl", last_step=0)
    >>> row = {"step": 10, "epoch": 1.0, "split": "test", "loss": 0.5, "accuracy": 0.8}
    >>> log.write({**row, "images_per_second": None})
    >>> training.read_metrics("metrics.jsonl")[0]["accuracy"]
    0.8
  """

  rows: list[dict[str, Any]]

  def __init__(self, path: str | os.PathLike[str] | None, *, last_step: int = LAST_STEP) -> None:
    """Opens the file, and removes the rows after `last_step` and the damaged or unfinished ones.

    Args:
      path: Path of the file, which is created if it does not exist; None keeps the rows in memory only.
        Damaged rows cause a warning.
      last_step: The step from which the run continues. By default all rows are kept; `fit` removes
        those after the step from which it starts.

    Raises:
      OSError: If the file cannot be read or written.
    """
    self._path = None if path is None else pathlib.Path(path)
    self.rows = [] if path is None else read_metrics(path)
    self.drop_after(last_step)

  def write(self, row: dict[str, Any]) -> None:
    """Appends a row; numbers that are not finite become null.

    Args:
      row: The row, with the keys "step", "epoch", "split", "loss", "accuracy" and "images_per_second",
        and optionally "learning_rate" and "seconds".

    Raises:
      OSError: If the file cannot be written.
    """
    row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    self.rows.append(row)
    if self._path is None:
      return
    with self._path.open("a") as file:
      file.write(_line(row))

  def sync(self) -> None:
    """Waits until all rows are on disk, so that a checkpoint can rely on them.

    Raises:
      OSError: If the rows cannot be written to disk.
    """
    if self._path is None:
      return
    with self._path.open("a") as file:
      os.fsync(file.fileno())

  def drop_after(self, step: int) -> None:
    """Removes the rows of later steps, and rewrites the file.

    Args:
      step: The last step whose rows are kept.

    Raises:
      OSError: If the file cannot be written.
    """
    self.rows = [row for row in self.rows if row["step"] <= step]
    if self._path is None:
      return
    scratch = self._path.with_suffix(".tmp")
    scratch.write_text("".join(_line(row) for row in self.rows))
    os.replace(scratch, self._path)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Reads the rows of a metrics.jsonl file.

  A row is dropped if its checksum does not match, if a value has the wrong type or range, or if an
  earlier row has the same step and split. Rows without a checksum, from cscjax 0.1.0, are only checked
  for types and ranges. One warning gives the number of dropped rows. An unfinished last line, which is
  left when a run is killed, is dropped without a warning.

  Args:
    path: Path of the file. A file that does not exist has no rows.

  Returns:
    The rows without their checksums, sorted by step.

  Raises:
    OSError: If the file cannot be read.

  Example:
    >>> from cscjax import training
    >>> row = {"step": 10, "epoch": 1.0, "split": "test", "loss": 0.5, "accuracy": 0.8}
    >>> log = training.MetricsLog("metrics.jsonl", last_step=0)
    >>> log.write({**row, "images_per_second": None})
    >>> [row["accuracy"] for row in training.read_metrics("metrics.jsonl")]
    [0.8]
  """
  try:
    content = read_file(pathlib.Path(path))
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
  """Returns a row as a line of the file."""
  return json.dumps(seal(row), allow_nan=False) + "\n"


def _is_valid(row: dict[str, Any]) -> bool:
  """Returns whether a row has the expected keys, types and ranges; may raise TypeError if not."""
  if not REQUIRED <= row.keys() <= {"step", "split", *RANGES} or row["split"] not in SPLITS:
    return False
  if type(row["step"]) is not int or row["step"] < 0:
    return False
  return all(
    (value is None and name != "epoch") or (type(value) in (int, float) and low <= value <= high)
    for name, (low, high) in RANGES.items()
    for value in [row.get(name)]
  )
