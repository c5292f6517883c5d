"""Files of a run: locks, and files that are replaced in one step."""

import contextlib
import errno
import json
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any


def write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
  """Replaces a JSON file in one step."""
  with replaced(path) as scratch:
    scratch.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a path to write to, which takes the place of `path` in one step unless there is an error."""
  scratch = path.with_name(path.name + ".tmp")
  yield scratch
  os.replace(scratch, path)


def open_lock(path: pathlib.Path) -> int:
  """Locks a file, which ends with the descriptor that is returned.

  It is opened for reading, as a disk cannot be remounted read-only while a file on it is open for
  writing; NFS, however, gives the lock for nothing else. Where the system has no such locks (Windows)
  there is a warning in place of one.

  Raises:
    BlockingIOError: If another process holds the lock.
  """
  file = os.open(path, os.O_CREAT | os.O_RDONLY, 0o666)
  try:
    import fcntl
  except ImportError:
    warnings.warn(f"{path} cannot be locked on this system: let one process alone use it", stacklevel=2)
    return file
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file
  except OSError as error:
    os.close(file)
    if error.errno != errno.EBADF:
      raise
  file = os.open(path, os.O_RDWR)
  fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  return file
