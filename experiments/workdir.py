"""The directory of a run: its lock, its configuration, its summary."""

import contextlib
import dataclasses
import datetime
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterator
from typing import Any

import jax

from cscjax.models import model_fields
from cscjax.training import is_first
from experiments.cli import UsageError
from experiments.config import MODEL_FIELDS, RESUMABLE, Config


@contextlib.contextmanager
def open_workdir(config: Config) -> Iterator[pathlib.Path]:
  """Makes the directory of a run and holds its lock, which ends with the process however it ends.

  The first process of a run does so for all; on the others the path alone is given.

  Raises:
    UsageError: If it cannot be written, then or by what the context holds (a full disk), another run
      holds it, or what it holds is another run's.
  """
  stamp = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
  workdir = pathlib.Path(config.workdir or f"runs/{config.dataset}-{config.model}-{stamp}")
  if not is_first():
    yield workdir
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = (workdir / "lock").open("w")
  except OSError as error:
    raise UsageError(f"--workdir: cannot write to {workdir}: {error.strerror}") from error
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UsageError(f"--workdir: another run is using {workdir}") from None
    try:
      _check_same_run(workdir, config)
      yield workdir
    except OSError as error:
      raise UsageError(f"--workdir: {workdir}: {error}") from error


def write_config(workdir: pathlib.Path, config: Config) -> None:
  """config.json: all flags, what the network's own fields came to, versions, revision, XLA, device."""
  given = {name: getattr(config, name) for name in MODEL_FIELDS}
  fields = model_fields(config.model) | {k: v for k, v in given.items() if v is not None}
  write_json(
    workdir / "config.json",
    {
      "flags": dataclasses.asdict(config),
      "model_fields": {k: v for k, v in fields.items() if k in MODEL_FIELDS},
      **environment(),
    },
  )


def environment() -> dict[str, Any]:
  """What results depend on beside the flags: versions, git revision, XLA's flags, device."""
  device = jax.devices()[0]
  return {
    "versions": {
      "python": platform.python_version(),
      **{p: importlib.metadata.version(p) for p in ("cscjax", "jax", "jaxlib", "flax", "optax")},
    },
    "git_revision": _git_revision(),
    "xla_flags": os.environ.get("XLA_FLAGS"),
    "device": {
      "platform": device.platform,
      "kind": device.device_kind,
      "count": jax.device_count(),
      "processes": jax.process_count(),
    },
  }


def read_flags(path: pathlib.Path) -> dict[str, Any]:
  """The flags that a config.json tells.

  Raises:
    ValueError: If the file is damaged or another one.
    OSError: If it cannot be read.
  """
  try:
    flags = json.loads(path.read_text())["flags"]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{path} is not the config.json of a run ({error!r})") from error
  if not isinstance(flags, dict):
    raise ValueError(f"{path} is not the config.json of a run (flags: {flags!r})")
  return flags


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


def _check_same_run(workdir, config):
  path = workdir / "config.json"
  if not path.exists():
    if (workdir / "checkpoints").exists():
      raise UsageError(f"--workdir: {workdir} holds checkpoints and no config.json; choose another one")
    return
  try:
    old = read_flags(path)
  except ValueError as error:
    raise UsageError(f"--workdir: {error}; choose another one") from error
  new = json.loads(json.dumps(dataclasses.asdict(config)))
  for name in sorted(new.keys() - RESUMABLE):
    if old.get(name) != new[name]:
      raise UsageError(
        f"--{name}: {workdir} holds a run with {old.get(name)!r}, got {new[name]!r};"
        " choose another --workdir"
      )


def _git_revision() -> str | None:
  """The revision of the source, "+" where it has uncommitted changes; None outside a checkout."""
  here = pathlib.Path(__file__).resolve().parent

  def git(*arguments):
    return subprocess.run(
      ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    if pathlib.Path(git("rev-parse", "--show-toplevel")) != here.parent:
      return None  # installed below somebody else's checkout
    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
  except (OSError, subprocess.CalledProcessError):
    return None
