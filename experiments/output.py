"""Makes the standard streams tolerant: output that cannot be written is dropped without an error."""

import errno
import io
import os
import sys
from typing import Any, TextIO


class _Output(io.FileIO):
  """A file descriptor whose writes always succeed.

  Attributes:
    error: The error of the first write that failed, after which all output is dropped; None before.
  """

  error: OSError | None = None

  def write(self, data: Any, /) -> int | None:
    """Writes the data, or drops it after an error; returns the number of bytes."""
    if self.error is None:
      try:
        return super().write(data)
      except OSError as error:
        self.error = error
    return len(data)


def open_closed() -> None:
  """Opens the null device in place of each standard stream that is closed.

  Otherwise the next file that is opened would get the descriptor, and messages would be written into it.
  """
  for descriptor in range(3):
    try:
      os.fstat(descriptor)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # gets the smallest free descriptor
      os.set_inheritable(descriptor, True)


def guard() -> None:
  """Replaces `sys.stdout` and `sys.stderr` by streams that drop output they cannot write."""
  open_closed()
  sys.stdout = _stream(1, sys.stdout)
  sys.stderr = _stream(2, sys.stderr)


def _stream(descriptor: int, old: TextIO | None) -> io.TextIOWrapper:
  """Returns a stream to a descriptor, with the encoding of the old stream, that never fails."""
  raw = _Output(descriptor, "w", closefd=False)
  return io.TextIOWrapper(
    io.BufferedWriter(raw),
    encoding=old.encoding if old else "utf-8",
    errors="backslashreplace",
    line_buffering=descriptor == 2 or raw.isatty(),
  )


def lost() -> str | None:
  """Returns why output to stdout was lost; None if none was lost, or if its reader has gone away."""
  sys.stdout.flush()
  raw = getattr(sys.stdout.buffer, "raw", None)
  error = raw.error if isinstance(raw, _Output) else None
  return None if error is None or error.errno in (errno.EPIPE, errno.EBADF) else error.strerror
