"""Handles SIGHUP, SIGINT, SIGQUIT, SIGTERM and SIGUSR1: a command ends with exit code 128 + n.

While a command starts, the first signal ends it at once. Later, the first signal raises `Interrupted`,
so that temporary files are removed. Inside `remembered` the first signal is only recorded, and the
command ends at a point where no work is lost. A second signal always ends the process at once. A signal
that was ignored when the command started (nohup) stays ignored.

Python calls a signal handler only between two instructions of the main thread, which may spend a minute
in a compilation. Therefore another thread reads the signal numbers from a pipe, to which the interpreter
writes each of them when it arrives.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Literal

Mode = Literal["end", "interrupt", "remember"]
"""The first signal ends the process, raises `Interrupted` on the main thread, or is recorded."""

STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1)
REPEATED_SECONDS = 0.1
"""Repeats of a signal within this time are one event: a terminal that closes sends SIGHUP twice."""


class Interrupted(KeyboardInterrupt):
  """A signal has interrupted a command.

  Attributes:
    code: Exit code of the command, 128 + the number of the signal.
  """

  def __init__(self, number: int):
    super().__init__(f"signal {number}")
    self.code = 128 + number


class _State:
  """The state of this process; `mode` is only changed on the main thread."""

  mode: Mode = "end"
  received = 0
  watching = False


def watch() -> Callable[[], None]:
  """Starts to handle signals according to the current mode; returns a function that undoes it.

  Does nothing if signals are handled already.
  """
  if _State.watching:
    return lambda: None
  old = {number: signal.getsignal(number) for number in STOPPING}
  # None stands for a handler of a C library, which Python could not restore.
  old = {number: handler for number, handler in old.items() if handler not in (signal.SIG_IGN, None)}
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  for number in old:
    signal.signal(number, _on_main_thread)
  threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
  _State.watching = True

  def undo() -> None:
    _State.watching = False
    for number, handler in old.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(old_writer)
    os.close(writer)

  return undo


def set_mode(mode: Mode) -> None:
  """Sets the mode: what the first signal does."""
  _State.mode = mode


@contextlib.contextmanager
def ending() -> Iterator[None]:
  """Inside this context a signal ends the process at once, for calls that block the main thread."""
  before, _State.mode = _State.mode, "end"
  try:
    yield
  finally:
    _State.mode = before


@contextlib.contextmanager
def remembered() -> Iterator[None]:
  """Inside this context the first signal is only recorded; `received` returns it."""
  before, undo = _State.mode, watch()
  if before != "remember":
    _State.received = 0
  _State.mode = "remember"
  try:
    yield
  finally:
    _State.mode = before
    undo()


def received() -> int:
  """Returns the number of the recorded signal, 0 if there is none."""
  return _State.received


def _on_main_thread(number: int, _: FrameType | None) -> None:
  if _State.mode == "interrupt":
    raise Interrupted(number)


def _watch(reader: int) -> None:
  last = (0, 0.0)
  with open(reader, "rb", buffering=0) as pipe:
    while found := pipe.read(1):
      number, now = found[0], time.monotonic()
      if number not in STOPPING or (number == last[0] and now - last[1] < REPEATED_SECONDS):
        continue
      if last[0] or _State.mode == "end":
        os._exit(128 + number)
      _State.received, last = number, (number, now)
