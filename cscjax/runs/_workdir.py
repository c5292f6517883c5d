"""The directory of a run: its lock, its configuration, its summary."""

import contextlib
import dataclasses
import datetime
import errno
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

import jax

import cscjax
from cscjax.models import ARCHITECTURES, model_fields
from cscjax.runs._build import for_device
from cscjax.runs._config import (
  KEYS,
  MODEL_FIELDS,
  RESUMABLE,
  Config,
  RunError,
  network_fields,
)
from cscjax.runs._recorded import current_fields, read_config
from cscjax.training import is_first, seal

JAX_SETTINGS = (
  "jax_threefry_partitionable",
  "jax_enable_x64",
  "jax_default_matmul_precision",
  "jax_optimization_level",
)
"""Settings of JAX, which the environment can change, that results depend on."""


@contextlib.contextmanager
def open_workdir(config: Config) -> Iterator[pathlib.Path]:
  """Makes the directory of a run and holds its lock, which ends with the process however it ends.

  The first process of a run does so for all; on the others the path alone is given.

  Raises:
    RunError: If it cannot be written, then or by what the context holds (a full disk), another run
      holds it, or what it holds is another run's.
  """
  stamp = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
  workdir = pathlib.Path(config.workdir or f"runs/{config.dataset}-{config.model}-{stamp}")
  if not is_first():
    yield workdir
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = open_lock(workdir / "lock")
  except BlockingIOError:
    raise RunError(f"another run is using {workdir}", "workdir") from None
  except OSError as error:
    raise RunError(f"cannot write to {workdir}: {error.strerror}", "workdir") from error
  try:
    _check_same_run(workdir, config)
    yield workdir
  except OSError as error:
    raise RunError(f"{workdir}: {error}", "workdir") from error
  finally:
    with contextlib.suppress(OSError):  # of a disk that is gone; the lock goes in any case
      os.close(lock)


def run_name(workdir: pathlib.Path) -> str:
  """The name of the run in `workdir`, which its checkpoints carry too; a new one where it has none."""
  return (_config_in(workdir) or {}).get("run") or uuid.uuid4().hex


def write_config(workdir: pathlib.Path, config: Config, name: str) -> None:
  """Writes config.json: the run's name and configuration, the network's fields, what results depend on.

  Where there is one already, a warning tells what has changed of versions, threads, devices and the
  like, as a resumed run may then end with other bits.
  """
  fields = model_fields(config.model) | network_fields(for_device(config, jax.default_backend()))
  before = _config_in(workdir)
  now = {"model_fields": {k: v for k, v in fields.items() if k in MODEL_FIELDS}, **environment()}
  now = json.loads(json.dumps(now))  # tuples are lists in the file
  if before and (changes := _differences(before, now)):
    warnings.warn(
      f"{workdir}: the results may differ in their last bits, as the run had {changes}", stacklevel=2
    )
  contents = {
    "run": name,
    "flags": dataclasses.asdict(config),
    "architecture": ARCHITECTURES[config.model],
    **now,
  }
  write_json(workdir / "config.json", seal(contents))


def environment() -> dict[str, Any]:
  """What results depend on beside the configuration: versions, revision, settings of JAX, device."""
  device = jax.devices()[0]
  return {
    "versions": {
      "python": platform.python_version(),
      "cscjax": cscjax.__version__,
      **{p: importlib.metadata.version(p) for p in ("jax", "jaxlib", "flax", "optax")},
    },
    "git_revision": _git_revision(),
    "xla_flags": os.environ.get("XLA_FLAGS"),
    "xla_threads": _xla_threads(),
    "random_keys": KEYS,
    "jax_config": {name: getattr(jax.config, name) for name in JAX_SETTINGS},
    "device": {
      "platform": device.platform,
      "kind": device.device_kind,
      "count": jax.device_count(),
      "processes": jax.process_count(),
    },
  }


def write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
  """Replaces a JSON file in one step."""
  with replaced(path) as scratch:
    scratch.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a path to write to, which takes the place of `path` in one step unless there is an error."""
  scratch = path.with_name(path.name + ".tmp")
  yield scratch
  os.replace(scratch, path)


def open_lock(path: pathlib.Path) -> int:
  """Locks a file, which ends with the descriptor that is returned.

  It is opened for reading, as a disk cannot be remounted read-only while a file on it is open for
  writing; NFS, however, gives the lock for nothing else. Where the system has no such locks (Windows)
  there is a warning in place of one.

  Raises:
    BlockingIOError: If another process holds the lock.
  """
  file = os.open(path, os.O_CREAT | os.O_RDONLY, 0o666)
  try:
    import fcntl
  except ImportError:
    warnings.warn(f"{path} cannot be locked on this system: let one process alone use it", stacklevel=2)
    return file
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file
  except OSError as error:
    os.close(file)
    if error.errno != errno.EBADF:
      raise
  file = os.open(path, os.O_RDWR)
  fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  return file


def _config_in(workdir):
  """The config.json of a run; None where there is none, which an error of the disk does not mean."""
  try:
    return read_config(workdir / "config.json")
  except FileNotFoundError:
    return None


def _check_same_run(workdir, config):
  try:
    found = _config_in(workdir)
  except ValueError as error:
    raise RunError(f"{error}; choose another one", "workdir") from error
  if found is None:
    if os.path.lexists(workdir / "checkpoints"):
      problem = f"{workdir} holds checkpoints and no config.json; choose another one"
      raise RunError(problem, "workdir")
    return
  old = current_fields(found["flags"])
  new = json.loads(json.dumps(dataclasses.asdict(config)))
  for name in sorted(new.keys() - RESUMABLE):
    if old.get(name) != new[name]:
      raise RunError(
        f"{workdir} holds a run with {old.get(name)!r}, got {new[name]!r}; choose another workdir", name
      )
  version = found.get("architecture", 1)
  if version != ARCHITECTURES[config.model]:
    raise RunError(
      f"the network {config.model} was changed since {workdir} was begun (architecture {version}, now"
      f" {ARCHITECTURES[config.model]}); choose another one",
      "workdir",
    )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
  """What the two environments both tell and differ in, in words."""
  changes = []
  for key in before.keys() & now.keys():
    old, new = ({"": part} if not isinstance(part, dict) else part for part in (before[key], now[key]))
    for name in old.keys() & new.keys():
      if old[name] != new[name]:
        changes.append(f"{key} {name}".strip() + f" {old[name]}, now {new[name]}")
  return "; ".join(sorted(changes))


def _xla_threads() -> int:
  """XLA's threads on a CPU, by which it splits sums: NPROC, or the cores open to this process."""
  try:
    return max(int(os.environ["NPROC"]), 1)
  except (KeyError, ValueError):
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git_revision() -> str | None:
  """The revision of the source, "+" where it has uncommitted changes; None outside a checkout."""
  checkout = pathlib.Path(__file__).resolve().parents[2]

  def git(*arguments):
    return subprocess.run(
      ["git", *arguments], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    if pathlib.Path(git("rev-parse", "--show-toplevel")) != checkout:
      return None  # installed below somebody else's checkout
    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
  except (OSError, subprocess.CalledProcessError):
    return None
