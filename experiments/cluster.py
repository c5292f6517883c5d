"""A run of several processes: how they find each other, start together, and end when one is lost."""

import contextlib
import dataclasses
import faulthandler
import json
import os
import re
import socket
import sys
import threading
import traceback
import zlib
from collections.abc import Iterator

import jax

from cscjax import training
from cscjax.data import DataError
from experiments import cli, signals
from experiments.cli import UsageError
from experiments.config import AUTO, OWN, Config
from experiments.environment import platform_problem


@contextlib.contextmanager
def connected(config: Config) -> Iterator[None]:
  """Within, this process is one of those that --coordinator asks for; to be entered before JAX is used.

  After an exception that `together` has not made one of all processes, this one ends here: Python's own
  exit would wait for the others, which wait for this one. The exit code is 2 after one line of a
  `UsageError` or `DataError`, 1 after one line that another process was lost, or a traceback. Where
  another process is lost and no exception tells, JAX ends this one, with SIGABRT and a message, after
  --peer_timeout.

  Raises:
    UsageError: If the processes do not find each other.
  """
  if config.coordinator is None:
    yield
    return
  _join(config)
  try:
    yield
  except Exception as error:
    if not jax.distributed.is_initialized():
      raise
    is_usage = isinstance(error, (UsageError, DataError))
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


@contextlib.contextmanager
def together(config: Config) -> Iterator[None]:
  """Does the block on every process of the run; where one is refused, all of them end.

  Raises:
    UsageError: If the block raises it, here or elsewhere, or the processes have different flags.
    DataError: If the block raises it.
  """
  refused = None
  try:
    yield
  except (UsageError, DataError) as error:
    refused = error
  if training.largest(refused is not None):
    refused = refused or UsageError("another process of the run was refused; its own line says why")
  elif not _is_same_everywhere({k: v for k, v in dataclasses.asdict(config).items() if k not in OWN}):
    refused = UsageError("the processes of the run were given different flags")
  if refused:
    jax.distributed.shutdown()
    raise refused


def _is_same_everywhere(value):
  checksum = zlib.crc32(json.dumps(value).encode()) >> 1  # within int32
  return training.largest(checksum) == -training.largest(-checksum)


def _join(config):
  automatic = config.coordinator == AUTO
  if config.process_id == 0:
    _check_port(int(config.coordinator.rpartition(":")[2]))
  jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
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
      jax.distributed.initialize(
        None if automatic else config.coordinator,
        config.num_processes,
        config.process_id,
        cluster_detection_method=None if automatic else "deactivate",
        initialization_timeout=2 * config.peer_timeout,
        heartbeat_timeout_seconds=config.peer_timeout,
        shutdown_timeout_seconds=config.peer_timeout,
      )
  except ValueError as error:
    raise UsageError(f"--coordinator: no SLURM or Kubernetes to ask for {AUTO!r} ({error})") from error
  except RuntimeError as error:
    raise UsageError(f"--coordinator: cannot use {config.coordinator} ({error})") from error
  finally:
    timer.cancel()
  if problem := platform_problem():
    raise UsageError(problem)


def _check_port(port):
  """Refuses a port that is taken, at which JAX crashes."""
  with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one just left by another run is free
    try:
      probe.bind(("", port))
    except OSError as error:
      raise UsageError(f"--coordinator: cannot listen on port {port}: {error.strerror}") from error
