"""Commands of several processes: how one ends that finds no others, or loses one."""

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
  """Within, this process is one of those that --coordinator asks for; to be entered before JAX is used.

  After an exception that was not raised on all processes, this one ends here: Python's own exit would
  wait for the others, which wait for this one. The exit code is 2 after one line of an error that is the
  user's, 1 after one line that another process was lost, or a traceback.

  Raises:
    UsageError: If the devices that the environment asks for cannot be used.
    RunError: If the processes do not find each other.
  """
  if config.coordinator is None:
    yield
    return
  faulthandler.disable()  # absl's; a dump of all threads would bury JAX's message of a lost process

  def give_up():
    cli.say(
      f"--coordinator: the processes did not find each other at {config.coordinator}"
      f" within {config.peer_timeout} s"
    )
    os._exit(2)

  timer = threading.Timer(config.peer_timeout, give_up)  # JAX would end with SIGABRT and a stack trace
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
