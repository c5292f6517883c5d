"""A worker process that answers requests and is stopped if an answer takes too long."""

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class Worker:
  """Runs a function in a separate process, which starts at the first request."""

  def __init__(self, make_answer: Callable[..., Answer], *arguments: Any):
    """Prepares the worker.

    Args:
      make_answer: Top-level function of a module. The process calls it once, at its start, to create
        the function that answers the requests.
      *arguments: Arguments of `make_answer`.
    """
    self._make_answer, self._arguments = make_answer, arguments
    self._process: Any = None
    self._connection: Any = None

  def send(self, request: dict[str, Any]) -> None:
    """Sends a request; `receive` returns the answer."""
    if self._process is None:
      context = multiprocessing.get_context("spawn")  # a fork of a process with JAX's threads can hang
      self._connection, theirs = context.Pipe()
      arguments = (theirs, self._make_answer, *self._arguments)
      self._process = context.Process(target=_serve, args=arguments, daemon=True)
      self._process.start()
      theirs.close()
    self._connection.send(request)

  def receive(self, deadline: float | None = None) -> dict[str, Any]:
    """Returns the answer, or {"error": ...} if the function raised an exception or the process ended.

    Args:
      deadline: Latest time of `time.monotonic` to wait for; None waits without limit. A process that has
        not answered by then is stopped, and the next request starts a new one.
    """
    limit = None if deadline is None else max(deadline - time.monotonic(), 0)
    if not self._connection.poll(limit):
      self.close()
      return {"error": f"no answer within {limit:.0f} s"}
    try:
      return self._connection.recv()
    except EOFError:
      code = self.close()
      return {"error": f"the process ended with code {code}"}

  def close(self) -> int | None:
    """Stops the process and returns its exit code, or None if it was not started."""
    if self._process is None:
      return None
    self._connection.close()
    self._process.join(1)
    if self._process.is_alive():
      self._process.kill()
      self._process.join()
    code, self._process = self._process.exitcode, None
    return code


def _serve(connection: Connection, make_answer: Callable[..., Answer], *arguments: Any) -> None:
  """Answers requests until the connection closes."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C the parent process stops this one
  answer = make_answer(*arguments)
  while True:
    try:
      request = connection.recv()
    except EOFError:
      return
    try:
      reply = answer(request)
    except Exception as error:  # any exception of a framework becomes an error in its row
      reply = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    connection.send(reply)
