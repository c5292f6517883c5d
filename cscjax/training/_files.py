"""What files on disk hold: reading any kind of file, and checksums within JSON objects."""

import errno
import hashlib
import json
import pathlib
import stat
from typing import Any

CHECKSUM = "checksum"
"""The key under which a sealed object holds its checksum."""


def seal(fields: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields followed by a checksum of them.

  Args:
    fields: A JSON object without the key "checksum".

  Example:
    >>> seal({"step": 1})
    {'step': 1, 'checksum': '66acd07fcea20439'}
  """
  return {**fields, CHECKSUM: _checksum(fields)}


def unseal(sealed: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields of an object from `seal`, after checking them; the inverse of `seal`.

  Args:
    sealed: A JSON object. One without a checksum is returned as it is.

  Raises:
    ValueError: If the checksum does not match the fields.

  Example:
    >>> unseal(seal({"step": 1}))
    {'step': 1}
  """
  fields = {key: value for key, value in sealed.items() if key != CHECKSUM}
  if CHECKSUM in sealed and sealed[CHECKSUM] != _checksum(fields):
    raise ValueError("its checksum does not match its values")
  return fields


def read_file(path: pathlib.Path) -> bytes:
  """Returns what a regular file holds; a pipe would block, and a device never end.

  Args:
    path: Of the file, or of a symbolic link to it.

  Raises:
    OSError: If it cannot be read or is not a regular file, such as a directory, a pipe or a device.
  """
  mode = path.stat().st_mode
  if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading raises for a directory
    raise OSError(errno.EINVAL, "not a regular file", str(path))
  return path.read_bytes()


def _checksum(fields):
  return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]
