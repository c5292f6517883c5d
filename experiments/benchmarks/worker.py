"""A process that answers requests, and is ended where an answer takes too long."""

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class Worker:
  """Runs a function in a process of its own, which is started at the first request."""

  def __init__(self, make_answer: Callable[..., Answer], *arguments: Any):
    """Takes a function of a module, which makes the one that answers when the process starts."""
    self._make_answer, self._arguments = make_answer, arguments
    self._process: Any = None
    self._connection: Any = None

  def send(self, request: dict[str, Any]) -> None:
    """Hands over a request, whose answer `receive` returns."""
    if self._process is None:
      context = multiprocessing.get_context("spawn")  # a fork of a process that runs JAX can hang
      self._connection, theirs = context.Pipe()
      arguments = (theirs, self._make_answer, *self._arguments)
      self._process = context.Process(target=_serve, args=arguments, daemon=True)
      self._process.start()
      theirs.close()
    self._connection.send(request)

  def receive(self, deadline: float | None = None) -> dict[str, Any]:
    """The answer, or {"error": ...} where the function raised an exception or the process ended.

    Args:
      deadline: Of `time.monotonic`, none if None. A process that has not answered by then is ended; the
        next request starts another one.
    """
    limit = None if deadline is None else max(deadline - time.monotonic(), 0)
    if not self._connection.poll(limit):
      self.close()
      return {"error": f"not done in {limit:.0f} s"}
    try:
      return self._connection.recv()
    except EOFError:
      code = self.close()
      return {"error": f"the process ended with code {code}"}

  def close(self) -> int | None:
    """Ends the process, if it was started; returns its exit code."""
    if self._process is None:
      return None
    self._connection.close()
    self._process.join(1)
    if self._process.is_alive():
      self._process.kill()
      self._process.join()
    code, self._process = self._process.exitcode, None
    return code


def _serve(connection: Connection, make_answer, *arguments):
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
  answer = make_answer(*arguments)
  while True:
    try:
      request = connection.recv()
    except EOFError:
      return
    try:
      reply = answer(request)
    except Exception as error:  # whatever a framework raises becomes a row
      reply = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    connection.send(reply)
