"""What a command does on SIGHUP, SIGINT, SIGQUIT, SIGTERM and SIGUSR1: it ends, with exit code 128 + n.

While a command starts, the first signal ends it at once. While it works, the first one raises
`Interrupted`, so that temporary files are removed. Within `remembered` the first one is only remembered,
and the work ends where nothing is lost. A second signal always ends the process at once. A signal that
was ignored when the command was started (nohup) stays ignored.

Python calls a signal handler only between two instructions of the main thread, which may wait for a
compilation for a minute. Therefore a thread of its own reads the numbers from a pipe, to which the
interpreter writes each one as it arrives.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

Mode = Literal["end", "interrupt", "remember"]
"""The first signal ends the process, raises `Interrupted` on the main thread, or is remembered."""

STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1)
REPEATED_SECONDS = 0.1
"""Within which the same signal again is the same event: a terminal that closes sends SIGHUP twice."""


class Interrupted(KeyboardInterrupt):
  """A signal has interrupted a command.

  Attributes:
    code: The exit code.
  """

  def __init__(self, number: int):
    super().__init__(f"signal {number}")
    self.code = 128 + number


class _State:
  """Of this process; `mode` changes on the main thread alone."""

  mode: Mode = "end"
  received = 0
  watching = False


def watch() -> Callable[[], None]:
  """Handles signals from now on as `mode` says; returns a function that undoes it.

  Does nothing where they are handled already.
  """
  if _State.watching:
    return lambda: None
  old = {number: signal.getsignal(number) for number in STOPPING}
  # None is a handler of a library, which Python cannot put back.
  old = {number: handler for number, handler in old.items() if handler not in (signal.SIG_IGN, None)}
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  for number in old:
    signal.signal(number, _on_main_thread)
  threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
  _State.watching = True

  def undo():
    _State.watching = False
    for number, handler in old.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(old_writer)
    os.close(writer)

  return undo


def set_mode(mode: Mode) -> None:
  """Sets what the first signal does."""
  _State.mode = mode


@contextlib.contextmanager
def ending() -> Iterator[None]:
  """Within, a signal ends the process at once, for work that the main thread cannot be called from."""
  before, _State.mode = _State.mode, "end"
  try:
    yield
  finally:
    _State.mode = before


@contextlib.contextmanager
def remembered() -> Iterator[None]:
  """Within, the first signal is remembered, to be asked for by `received`."""
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
  """The number of the signal that was remembered, 0 if there was none."""
  return _State.received


def _on_main_thread(number, _):
  if _State.mode == "interrupt":
    raise Interrupted(number)


def _watch(reader):
  last = (0, 0.0)
  with open(reader, "rb", buffering=0) as pipe:
    while found := pipe.read(1):
      number, now = found[0], time.monotonic()
      if number not in STOPPING or (number == last[0] and now - last[1] < REPEATED_SECONDS):
        continue
      if last[0] or _State.mode == "end":
        os._exit(128 + number)
      _State.received, last = number, (number, now)
