"""Runs of several processes: connecting them, and raising an error on all of them together."""

import contextlib
import dataclasses
import json
import socket
import zlib
from collections.abc import Iterator
from typing import Any

import jax

from cscjax import training
from cscjax.data import DataError
from cscjax.extras import MissingExtraError
from cscjax.runs._config import AUTO, OWN, Config, RunError


def connect(config: Config) -> None:
  """Connects this process to the other processes of a run; must be called before JAX is used.

  Does nothing if `config.coordinator` is None, or if the processes are already connected.

  If another process is lost later, a collective operation raises an exception, or JAX ends this process
  with SIGABRT and a message after `config.peer_timeout` seconds. JAX also ends it if the processes do
  not find each other within twice that time.

  Args:
    config: The configuration, with `coordinator`, `num_processes` and `process_id`.

  Raises:
    RunError: If the coordinator does not exist or cannot be used.

  Example:
    >>> from cscjax import runs
    >>> runs.connect(runs.Config())  # a run of a single process: nothing to do
  """
  if config.coordinator is None or jax.distributed.is_initialized():
    return
  automatic = config.coordinator == AUTO
  if config.process_id == 0:
    _check_port(int(config.coordinator.rpartition(":")[2]))
  jax.config.update("jax_enable_preemption_service", False)  # it would handle SIGTERM
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
    problem = f"{AUTO!r} needs SLURM or Kubernetes ({error})"
    raise RunError(problem, "coordinator") from error
  except RuntimeError as error:
    raise RunError(f"cannot connect to {config.coordinator} ({error})", "coordinator") from error


@contextlib.contextmanager
def together(config: Config, fingerprint: str | None = None) -> Iterator[None]:
  """Runs a block on every process of a run; an error on one of them ends them all.

  Raises:
    RunError: If the block raises it here, if the block fails on another process, or if the processes
      have different configurations or data sets of different fingerprints.
    DataError: If the block raises it here.
    MissingExtraError: If the block raises it here.
  """
  failure = None
  try:
    yield
  except (RunError, DataError, MissingExtraError) as error:
    failure = error
  if training.process_max(failure is not None):
    failure = failure or RunError("another process of the run failed; see its own error message")
  else:
    shared = {k: v for k, v in dataclasses.asdict(config).items() if k not in OWN}
    if not _is_same_everywhere([shared, fingerprint]):
      failure = RunError("the processes of the run have different configurations or data")
  if failure:
    jax.distributed.shutdown()
    raise failure


def _is_same_everywhere(value: Any) -> bool:
  """Whether a JSON value is the same on all processes."""
  checksum = zlib.crc32(json.dumps(value).encode()) >> 1  # shifted into the range of int32
  return training.process_max(checksum) == -training.process_max(-checksum)


def _check_port(port: int) -> None:
  """Raises RunError if a port is in use, in which case JAX would crash."""
  with socket.socket() as probe:
    # With this option a port that a run has just released counts as free.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind(("", port))
    except OSError as error:
      raise RunError(f"cannot listen on port {port}: {error.strerror}", "coordinator") from error
