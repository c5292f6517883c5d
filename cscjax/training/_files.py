"""Safe reading of files, and JSON objects that hold a checksum of themselves."""

import errno
import hashlib
import json
import os
import pathlib
import stat
from typing import Any

CHECKSUM = "checksum"
"""The key of the checksum in a sealed object."""


def seal(fields: dict[str, Any]) -> dict[str, Any]:
  """Returns a JSON object with a checksum of its fields added.

  Args:
    fields: A JSON object without the key "checksum".

  Returns:
    The fields, followed by "checksum".

  Example:
    >>> from cscjax import training
    >>> training.seal({"step": 1})
    {'step': 1, 'checksum': '66acd07fcea20439'}
  """
  return {**fields, CHECKSUM: _checksum(fields)}


def unseal(sealed: dict[str, Any]) -> dict[str, Any]:
  """Verifies the checksum of an object from `seal` and returns the object without it.

  Args:
    sealed: A JSON object. If it has no checksum, it is not verified.

  Returns:
    The fields without "checksum".

  Raises:
    ValueError: If the checksum does not match the fields.

  Example:
    >>> from cscjax import training
    >>> training.unseal(training.seal({"step": 1}))
    {'step': 1}
  """
  fields = {key: value for key, value in sealed.items() if key != CHECKSUM}
  if CHECKSUM in sealed and sealed[CHECKSUM] != _checksum(fields):
    raise ValueError("the checksum does not match the values")
  return fields


def read_file(path: pathlib.Path) -> bytes:
  """Returns the content of a regular file.

  Other kinds of files are errors, because reading a pipe may block and reading a device may not end.

  Args:
    path: Path of the file, or of a symbolic link to it.

  Returns:
    The bytes of the file.

  Raises:
    OSError: If the file cannot be read, or is a directory, a pipe or a device.

  Example:
    >>> import pathlib
    >>> from cscjax import training
    >>> path = pathlib.Path("example.txt")
    >>> _ = path.write_text("text")
    >>> training.read_file(path)
    b'text'
  """
  mode = path.stat().st_mode
  if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a directory raises an OSError itself
    raise OSError(errno.EINVAL, "not a regular file", str(path))
  return path.read_bytes()


def unused_path(path: pathlib.Path, ending: str) -> pathlib.Path:
  """Returns a path beside another one that does not exist, such as 44.damaged or 44.damaged-2."""
  found, count = path.with_name(f"{path.name}.{ending}"), 1
  while os.path.lexists(found):
    count += 1
    found = path.with_name(f"{path.name}.{ending}-{count}")
  return found


def _checksum(fields: dict[str, Any]) -> str:
  return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]
