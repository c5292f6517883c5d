"""Reading of files that may be anything: a pipe would block and a device never end."""

import errno
import pathlib
import stat


def read_file(path: pathlib.Path) -> bytes:
  """Returns what a regular file holds.

  Args:
    path: Of the file, or of a symbolic link to it.

  Raises:
    OSError: If it cannot be read or is not a regular file, such as a directory, a pipe or a device.
  """
  mode = path.stat().st_mode
  if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading raises for a directory
    raise OSError(errno.EINVAL, "not a regular file", str(path))
  return path.read_bytes()
