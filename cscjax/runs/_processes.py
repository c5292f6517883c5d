"""A run of several processes: how they find each other, and are refused together."""

import contextlib
import dataclasses
import json
import socket
import zlib
from collections.abc import Iterator

import jax

from cscjax import training
from cscjax.data import DataError
from cscjax.extras import MissingExtraError
from cscjax.runs._config import AUTO, OWN, Config, RunError


def connect(config: Config) -> None:
  """Makes this process one of those that `config.coordinator` asks for; to be called before JAX is used.

  Does nothing where there is no coordinator, or where they are connected. Where another process is lost
  later on, JAX ends this one, with SIGABRT and a message, after `config.peer_timeout` seconds, unless an
  exception of a collective operation tells sooner. So it does where the processes do not find each other
  within twice that time.

  Raises:
    RunError: If there is no such coordinator, or it cannot be used.
  """
  if config.coordinator is None or jax.distributed.is_initialized():
    return
  automatic = config.coordinator == AUTO
  if config.process_id == 0:
    _check_port(int(config.coordinator.rpartition(":")[2]))
  jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
  try:
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
    problem = f"no SLURM or Kubernetes to ask for {AUTO!r} ({error})"
    raise RunError(problem, "coordinator") from error
  except RuntimeError as error:
    raise RunError(f"cannot use {config.coordinator} ({error})", "coordinator") from error


@contextlib.contextmanager
def together(config: Config) -> Iterator[None]:
  """Does the block on every process of the run; where one is refused, all of them end.

  Raises:
    RunError: If the block raises it, here or elsewhere, or the processes have different configurations.
    DataError, MissingExtraError: If the block raises it.
  """
  refused = None
  try:
    yield
  except (RunError, DataError, MissingExtraError) as error:
    refused = error
  if training.process_max(refused is not None):
    refused = refused or RunError("another process of the run was refused; its own line says why")
  elif not _is_same_everywhere({k: v for k, v in dataclasses.asdict(config).items() if k not in OWN}):
    refused = RunError("the processes of the run were given different configurations")
  if refused:
    jax.distributed.shutdown()
    raise refused


def _is_same_everywhere(value):
  checksum = zlib.crc32(json.dumps(value).encode()) >> 1  # within int32
  return training.process_max(checksum) == -training.process_max(-checksum)


def _check_port(port):
  """Refuses a port that is taken, at which JAX crashes."""
  with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one just left by another run is free
    try:
      probe.bind(("", port))
    except OSError as error:
      raise RunError(f"cannot listen on port {port}: {error.strerror}", "coordinator") from error
