"""Standard streams that may be closed or full: what cannot be printed is dropped."""

import errno
import io
import os
import sys


class _Output(io.FileIO):
  """A descriptor that takes every write.

  Attributes:
    error: Of the first write that failed; the later ones are not tried.
  """

  error: OSError | None = None

  def write(self, data, /) -> int | None:
    """Writes, or drops the data."""
    if self.error is None:
      try:
        return super().write(data)
      except OSError as error:
        self.error = error
    return len(data)


def open_closed() -> None:
  """Opens the null device in place of a standard stream that is closed.

  The first file that is opened would take its number otherwise, and messages would be written into it.
  """
  for descriptor in range(3):
    try:
      os.fstat(descriptor)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # gets the smallest number that is free
      os.set_inheritable(descriptor, True)


def guard() -> None:
  """Makes `sys.stdout` and `sys.stderr` drop what cannot be written."""
  open_closed()
  sys.stdout = _stream(1, sys.stdout)
  sys.stderr = _stream(2, sys.stderr)


def _stream(descriptor, old):
  raw = _Output(descriptor, "w", closefd=False)
  return io.TextIOWrapper(
    io.BufferedWriter(raw),
    encoding=old.encoding if old else "utf-8",
    errors="backslashreplace",
    line_buffering=descriptor == 2 or raw.isatty(),
  )


def lost() -> str | None:
  """Why something printed on stdout was lost; None if nothing was, or if nobody reads it any more."""
  sys.stdout.flush()
  raw = getattr(sys.stdout.buffer, "raw", None)
  error = raw.error if isinstance(raw, _Output) else None
  return None if error is None or error.errno in (errno.EPIPE, errno.EBADF) else error.strerror
