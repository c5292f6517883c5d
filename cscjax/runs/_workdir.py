"""The directory of a run: its lock, its config.json, and how its files are written."""

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
from cscjax.data import DATASETS, DatasetInfo
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
from cscjax.runs._recorded import current_fields, info_as_json, read_config
from cscjax.training import is_first, seal

JAX_SETTINGS = (
  "jax_threefry_partitionable",
  "jax_enable_x64",
  "jax_default_matmul_precision",
  "jax_optimization_level",
)
"""Settings of JAX that the results depend on and that environment variables can change."""


@contextlib.contextmanager
def open_workdir(config: Config, fingerprint: str | None = None) -> Iterator[pathlib.Path]:
  """Creates the directory of a run and holds its lock; a lock is released whenever its process ends.

  Only process 0 of a run does so; the others get the path. `fingerprint` is that of the data set.

  Raises:
    RunError: If the directory cannot be written, at first or inside the context (a full disk), if
      another process is using it, or if it holds another run or one on other data.
  """
  stamp = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
  workdir = pathlib.Path(config.workdir or f"runs/{config.dataset_name}-{config.model}-{stamp}")
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
    _check_same_run(workdir, config, fingerprint)
    yield workdir
  except OSError as error:
    raise RunError(f"{workdir}: {error}", "workdir") from error
  finally:
    with contextlib.suppress(OSError):  # the disk may be gone; the lock is released in any case
      os.close(lock)


def run_name(workdir: pathlib.Path) -> str:
  """Returns the name of the run in `workdir`, which its checkpoints contain too, or a new name."""
  return (_config_in(workdir) or {}).get("run") or uuid.uuid4().hex


def write_config(workdir: pathlib.Path, config: Config, name: str, info: DatasetInfo) -> None:
  """Writes config.json: the name of the run, its configuration, network, data set and environment.

  If the file exists already and versions, threads, devices or the like have changed since, a warning
  lists the changes, because the results of the resumed run may then differ in their last bits.
  """
  fields = model_fields(config.model) | network_fields(for_device(config, jax.default_backend()))
  before = _config_in(workdir)
  now = {"model_fields": {k: v for k, v in fields.items() if k in MODEL_FIELDS}, **environment()}
  now = json.loads(json.dumps(now))  # tuples are lists in the file
  if before and (changes := _differences(before, now)):
    warnings.warn(
      f"{workdir}: the results may differ in their last bits, because the run had {changes}",
      stacklevel=2,
    )
  contents = {
    "run": name,
    "flags": dataclasses.asdict(config),
    "architecture": ARCHITECTURES[config.model],
    "data": info_as_json(info),
    **now,
  }
  write_json(workdir / "config.json", seal(contents))


def environment() -> dict[str, Any]:
  """Describes everything but the configuration that the results of a run depend on.

  Returns:
    A JSON object: the versions of Python and the packages, the git revision (None outside a checkout),
    XLA_FLAGS, the number of XLA's threads on a CPU, the kind of random keys, settings of JAX, and the
    devices.

  Example:
    >>> from cscjax import runs
    >>> found = runs.environment()
    >>> sorted(found["device"])
    ['count', 'kind', 'platform', 'processes']
  """
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
  """Writes a JSON file atomically.

  Args:
    path: The file, which is replaced if it exists.
    value: The JSON object.

  Raises:
    ValueError: If a number is not finite.
    OSError: If the file cannot be written.

  Example:
    >>> import pathlib
    >>> from cscjax import runs
    >>> runs.write_json(pathlib.Path("a.json"), {"accuracy": 0.5})
    >>> print(pathlib.Path("a.json").read_text(), end="")
    {
      "accuracy": 0.5
    }
  """
  with replaced(path) as scratch:
    scratch.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def replaced(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Replaces a file atomically: a context manager that yields a temporary path to write to.

  Args:
    path: The file to replace. It stays as it is if the context ends with an exception.

  Yields:
    The temporary path, in the same directory. At the end of the context, the file is put on disk and
    renamed to `path`. It is removed after an exception.

  Raises:
    OSError: If the temporary file cannot be put on disk or renamed.

  Example:
    >>> import pathlib
    >>> from cscjax import runs
    >>> path = pathlib.Path("notes.txt")
    >>> with runs.replaced(path) as scratch:
    ...   _ = scratch.write_text("done")
    >>> path.read_text()
    'done'
  """
  scratch = path.with_name(path.name + ".tmp")
  try:
    yield scratch
    with scratch.open("rb") as file:
      os.fsync(
        file.fileno()
      )  # else a loss of power could leave an empty file in place of the former one
    os.replace(scratch, path)
  except BaseException:
    with contextlib.suppress(OSError):  # the disk may be gone
      scratch.unlink()
    raise


def open_lock(path: pathlib.Path) -> int:
  """Locks a file for this process, without waiting.

  The file is opened for reading, because a disk cannot be remounted read-only while a file on it is open
  for writing. NFS only locks files that are open for writing, so this is tried next. On a system without
  such locks (Windows) a warning is given and the file is not locked.

  Args:
    path: The file, which is created if it does not exist.

  Returns:
    The file descriptor. Closing it, or the end of the process, releases the lock.

  Raises:
    BlockingIOError: If another process holds the lock.
    OSError: If the file cannot be opened.

  Example:
    >>> import os, pathlib
    >>> from cscjax import runs
    >>> descriptor = runs.open_lock(pathlib.Path("lock"))
    >>> try:
    ...   _ = runs.open_lock(pathlib.Path("lock"))
    ... except BlockingIOError:
    ...   print("already locked")
    already locked
    >>> os.close(descriptor)
  """
  file = os.open(path, os.O_CREAT | os.O_RDONLY, 0o666)
  try:
    import fcntl
  except ImportError:
    warnings.warn(
      f"{path} cannot be locked on this system; make sure that only one process uses it", stacklevel=2
    )
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


def _config_in(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns the contents of config.json, None if it does not exist; raises errors of the disk."""
  try:
    return read_config(workdir / "config.json")
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise RunError(f"{error}; choose another workdir", "workdir") from error


def _check_same_run(workdir: pathlib.Path, config: Config, fingerprint: str | None) -> None:
  """Raises RunError if `workdir` holds a run that `config` cannot resume with these data."""
  found = _config_in(workdir)
  if found is None:
    if os.path.lexists(workdir / "checkpoints"):
      problem = f"{workdir} has checkpoints but no config.json; choose another workdir"
      raise RunError(problem, "workdir")
    return
  old = current_fields(found["flags"])
  new = json.loads(json.dumps(dataclasses.asdict(config)))
  # The user's own data may have moved, because the fingerprint identifies them.
  may_move = {old.get("dataset"), config.dataset}.isdisjoint({*DATASETS, None})
  for name in sorted(new.keys() - RESUMABLE):
    if old.get(name) != new[name] and not (name == "dataset" and may_move):
      raise RunError(
        f"{workdir} holds a run with {old.get(name)!r}, got {new[name]!r}; choose another workdir", name
      )
  data = found.get("data")
  recorded = data.get("fingerprint") if isinstance(data, dict) else None
  if None not in (recorded, fingerprint) and recorded != fingerprint:
    problem = f"{config.dataset} has changed since the run in {workdir} started; choose another workdir"
    raise RunError(problem, "dataset")
  version = found.get("architecture", 1)
  if version != ARCHITECTURES[config.model]:
    raise RunError(
      f"the network {config.model} was changed since the run in {workdir} started (architecture"
      f" {version}, now {ARCHITECTURES[config.model]}); choose another workdir",
      "workdir",
    )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
  """Returns the entries that both environments have with different values, as text."""
  changes = []
  for key in before.keys() & now.keys():
    old, new = ({"": part} if not isinstance(part, dict) else part for part in (before[key], now[key]))
    for name in old.keys() & new.keys():
      if old[name] != new[name]:
        changes.append(f"{key} {name}".strip() + f" {old[name]}, now {new[name]}")
  return "; ".join(sorted(changes))


def _xla_threads() -> int:
  """Returns the number of XLA's CPU threads, which determines how it splits sums.

  It is NPROC if this variable is set, or the number of cores available to this process.
  """
  try:
    return max(int(os.environ["NPROC"]), 1)
  except (KeyError, ValueError):
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git_revision() -> str | None:
  """Returns the git revision, with "+" for uncommitted changes; None outside a checkout."""
  checkout = pathlib.Path(__file__).resolve().parents[2]

  def git(*arguments: str) -> str:
    return subprocess.run(
      ["git", *arguments], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    if pathlib.Path(git("rev-parse", "--show-toplevel")) != checkout:
      return None  # installed inside the checkout of another project
    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
  except (OSError, subprocess.CalledProcessError):
    return None
