"""Connects the processes of a command, and ends a process that cannot find or has lost the others."""

import contextlib
import faulthandler
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator

import jax

from cscjax import runs
from cscjax.data import DataError
from experiments import cli, signals
from experiments.environment import platform_problem


@contextlib.contextmanager
def connected(config: runs.Config) -> Iterator[None]:
  """Connects this process to the others of --coordinator; must be entered before JAX is used.

  After an exception inside the context that was not raised on all processes, this process ends at once,
  because the normal exit of Python would wait for the others, which wait for this one. The exit code is
  2 after one line about a usage error, and 1 after one line about a lost process or after a traceback.

  Raises:
    UsageError: If the devices that the environment asks for cannot be used.
    RunError: If the coordinator does not exist or cannot be used.
  """
  if config.coordinator is None:
    yield
    return
  # absl enables it, and its dump of all threads would hide JAX's message about a lost process.
  faulthandler.disable()

  def give_up() -> None:
    cli.say(
      f"--coordinator: the processes did not find each other at {config.coordinator}"
      f" within {config.peer_timeout} s"
    )
    os._exit(2)

  timer = threading.Timer(config.peer_timeout, give_up)  # JAX would abort with a stack trace
  timer.start()
  try:
    with signals.ending():
      runs.connect(config)
  finally:
    timer.cancel()
  if problem := platform_problem():
    raise cli.UsageError(problem)
  try:
    yield
  except Exception as error:
    if not jax.distributed.is_initialized():
      raise
    is_usage = isinstance(error, (cli.UsageError, runs.RunError, DataError))
    if is_usage:
      cli.say(error)
    elif isinstance(error, jax.errors.JaxRuntimeError) and re.search("Gloo|NCCL", str(error)):
      cli.say(
        "lost another process of the run; the same commands resume it from its last checkpoint"
        f" ({str(error).splitlines()[0]})"
      )
    else:
      traceback.print_exc()
    sys.stdout.flush()
    os._exit(2 if is_usage else 1)
