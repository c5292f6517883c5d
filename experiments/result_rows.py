"""Rows of measurements: where and when they were made, and the JSON Lines file that stores them."""

import datetime
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cscjax.runs import environment, open_lock, replaced
from cscjax.training import read_file
from experiments.cli import UsageError
from experiments.json_files import parse_json

Row = dict[str, Any]


def provenance() -> Row:
  """Returns the device, the versions and the date of a measurement."""
  found = environment()
  return {
    "device": f"{found['device']['count']} x {found['device']['kind']}",
    "versions": found["versions"],
    "git_revision": found["git_revision"],
    "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
  }


def stored(rows: Iterable[Row], results: str | None, case: Sequence[str]) -> Iterator[Row]:
  """Yields rows, each after it has been stored in the file of `--results`, which keeps other rows.

  A row replaces the row of the same case that the file may have, and otherwise comes last. The file is
  replaced as a whole, so that it is complete at any moment, even if the command is killed. A lock on a
  file beside it, whose name ends with `.lock`, keeps other commands from writing at the same time.

  Args:
    rows: The rows, each of which is measured when it is asked for.
    results: Path of the file, which is created with its folder; None for no file.
    case: The fields of a row that say what was measured: two rows with the same values are of one case.

  Raises:
    UsageError: Before the first row is measured, if a line of the file is not a JSON object, or if
      another command is writing to the file.
    OSError: If the file cannot be read or written.
  """
  if results is None:
    yield from rows
    return
  path = pathlib.Path(results)
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    lock = open_lock(path.with_name(f"{path.name}.lock"))
  except BlockingIOError:
    raise UsageError(f"--results: another command is writing to {path}") from None

  def case_of(row: Row) -> str:
    return json.dumps([row.get(name) for name in case])

  try:
    kept = {case_of(row): row for row in read(path)}
    for row in rows:
      kept[case_of(row)] = row
      lines = [json.dumps(row, allow_nan=False) + "\n" for row in kept.values()]
      with replaced(path) as scratch:
        scratch.write_text("".join(lines))
      yield row
  finally:
    os.close(lock)


def read(path: pathlib.Path) -> list[Row]:
  """Reads the rows of a JSON Lines file; a file that does not exist has none.

  Raises:
    UsageError: If a line is not a JSON object.
    OSError: If the file cannot be read.
  """
  try:
    lines = read_file(path).splitlines()
  except FileNotFoundError:
    return []
  rows = []
  for number, line in enumerate(lines, start=1):
    try:
      row = parse_json(line)
      if not isinstance(row, dict):
        raise ValueError("it is not an object")
    except ValueError as error:
      raise UsageError(
        f"--results: line {number} of {path} is not a row ({error}); correct it or move the file away"
      ) from error
    rows.append(row)
  return rows
