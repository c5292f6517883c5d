"""Checkpoints by Orbax: whole or not there, verified on reading, never deleted on restoring."""

import contextlib
import os
import pathlib
import re
import shutil
import warnings
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp

from cscjax.training._checkpoint_format import (
  CheckpointError,
  DamagedError,
  Restore,
  Save,
  StateHandler,
  read_meta,
)
from cscjax.training._devices import from_process_0, is_first, process_max
from cscjax.training._state import TrainState

LAST_STEP = 2**31 - 1  # steps are int32
_LEFT_OVER = re.compile(r"[0-9]+\.(orbax-checkpoint-tmp.*|deleted)")


class Restored(NamedTuple):
  """A checkpoint read back: the state, in host memory, and the seconds that the run had taken."""

  state: TrainState
  seconds: float


class Checkpoints:
  """The last two states of a run under one directory.

  Orbax writes to a temporary directory and renames it, so that a kill at any moment leaves whole
  checkpoints alone. Each checkpoint holds its step, the name of its run, the version of its network and
  checksums of all of this. What this run did not write (a renamed or linked folder, another run's
  checkpoint) is neither used nor deleted.

  The state is the same on all processes of a run: process 0 alone writes it and reads it, and hands it
  to the others, which need not see the directory.

  Args:
    directory: Made by the first `save`. Its name may have any characters.
    read_only: For `restore` alone. Nothing is made, renamed or removed, so that another process may be
      writing there.
    run: Name of the run, written into its checkpoints; those of another run are not used. None takes
      those of any run. A checkpoint without a name (of cscjax 0.1.0) is taken as the run's own.
    architecture: Version of the network's computation, as in `cscjax.models.ARCHITECTURES`; a checkpoint
      of another version is an error. One without a version (of cscjax 0.1.0) has version 1.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    *,
    read_only: bool = False,
    run: str | None = None,
    architecture: int = 1,
  ):
    self._directory, self._read_only = directory.absolute(), read_only
    self._run, self._architecture = run, architecture
    self._checkpointer = None
    if not is_first():
      return
    if not read_only:
      self._remove_left_overs()
    self._checkpointer = ocp.Checkpointer(
      StateHandler(),
      multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}),
    )

  def save(self, state: TrainState, seconds: float) -> None:
    """Writes the state under its step number; returns when it is on disk. Nothing if it is there.

    Of this run's earlier checkpoints all but the last are deleted afterwards. Something else that has
    the name of the step is renamed.

    Raises:
      OSError: If it cannot be written; those there are left as they were.
    """
    if self._checkpointer is None:
      return
    state = jax.device_get(state)
    step = int(state.step)
    meta = {"step": step, "seconds": seconds, "run": self._run, "architecture": self._architecture}
    own = [number for number in self._numbers() if self._is_own(number)]
    if step in own:
      return
    folder = self._directory / str(step)
    try:
      self._directory.mkdir(parents=True, exist_ok=True)
      if os.path.lexists(folder):
        _set_aside(folder, "foreign")
      self._checkpointer.save(folder, args=Save(state, meta))
    except Exception as error:  # whatever Orbax raises where a file cannot be written
      self._remove_left_overs()
      raise OSError(f"cannot write the checkpoint of step {step}: {_reason(error)}") from error
    for number in sorted(number for number in own if number < step)[:-1]:
      self._delete(number)

  def restore(self, like: TrainState) -> Restored | None:
    """Returns the newest whole checkpoint of the run, or None.

    A damaged checkpoint (missing parts, or a checksum that does not match) is skipped with a warning and
    renamed, 44 to 44.damaged, unless `read_only`. What another run wrote is skipped with a warning.
    Nothing is deleted. Every process of a run has to call it at the same point.

    Args:
      like: A state of the same structure, shapes and types.

    Raises:
      CheckpointError: If a whole checkpoint does not fit: its arrays have other names, shapes or types
        than `like`, or the network's version is another one. The message says what differs. Also if
        process 0 could not restore.
      OSError: If a checkpoint cannot be read.
    """
    like = jax.device_get(like)
    found, failure = None, None
    try:
      found = self._newest(like)
    except (CheckpointError, OSError) as error:
      failure = error
    if process_max(failure is not None):
      raise failure or CheckpointError("process 0 could not restore the run; its own line says why")
    if not process_max(found is not None):
      return None
    state, seconds = from_process_0(found or Restored(like, 0.0))
    return Restored(state, float(seconds))

  def close(self) -> None:
    """Releases what Orbax holds."""
    if self._checkpointer is not None:
      self._checkpointer.close()

  def _newest(self, like):
    if self._checkpointer is None:
      return None
    for step in sorted(self._numbers(warn=True), reverse=True):
      folder = self._directory / str(step)
      try:
        meta = read_meta(folder)
        if self._belongs(meta, step):
          self._check_architecture(meta)
          state = self._checkpointer.restore(folder, args=Restore(like, meta))
          if int(state.step) == step:
            return Restored(state, float(meta["seconds"]))
        warnings.warn(f"skipped {folder}, which this run did not write", stacklevel=3)
      except DamagedError as error:
        kept = "" if self._read_only else f", kept as {_set_aside(folder, 'damaged').name}"
        warnings.warn(
          f"skipped the damaged checkpoint of step {step}{kept}: {_reason(error)}", stacklevel=3
        )
      except CheckpointError as error:
        raise CheckpointError(f"cannot use the checkpoint of step {step}: {error}") from error
      except OSError as error:
        raise OSError(f"cannot read the checkpoint of step {step}: {_reason(error)}") from error
    return None

  def _numbers(self, *, warn=False):
    """The names of folders that may be checkpoints, as steps."""
    try:
      entries = list(os.scandir(self._directory))
    except FileNotFoundError:
      return []
    steps = []
    for entry in entries:
      if not re.fullmatch("[0-9]+", entry.name):
        continue
      is_step = re.fullmatch("0|[1-9][0-9]{,9}", entry.name) and int(entry.name) <= LAST_STEP
      if is_step and entry.is_dir(follow_symlinks=False):
        steps.append(int(entry.name))
      elif warn:
        warnings.warn(f"skipped {entry.path}, which this run did not write", stacklevel=4)
    return steps

  def _belongs(self, meta, step):
    """Whether a description says that this run wrote it at this step."""
    same_run = None in (self._run, meta.get("run")) or meta["run"] == self._run
    return same_run and meta.get("step", step) == step

  def _is_own(self, step):
    try:
      return self._belongs(read_meta(self._directory / str(step)), step)
    except (DamagedError, OSError):
      return False

  def _check_architecture(self, meta):
    version = meta.get("architecture", 1)
    if version != self._architecture:
      raise CheckpointError(
        f"the network was changed since (architecture {version}, now {self._architecture})"
      )

  def _delete(self, step):
    """Removes a checkpoint, so that a kill leaves it whole or not there."""
    going = self._directory / f"{step}.deleted"
    with contextlib.suppress(OSError):  # one too many does no harm
      os.rename(self._directory / str(step), going)
      shutil.rmtree(going)

  def _remove_left_overs(self):
    """Removes what a kill or an error in the middle of `save` has left."""
    with contextlib.suppress(OSError):  # they do no harm
      for name in os.listdir(self._directory):
        if _LEFT_OVER.fullmatch(name):
          shutil.rmtree(self._directory / name, ignore_errors=True)


def _set_aside(folder: pathlib.Path, why: str) -> pathlib.Path:
  """Renames a folder to a name that is no step and not taken; returns it."""
  target, count = folder.with_name(f"{folder.name}.{why}"), 1
  while os.path.lexists(target):
    count += 1
    target = folder.with_name(f"{folder.name}.{why}-{count}")
  os.rename(folder, target)
  return target


def _reason(error: Exception) -> str:
  """What went wrong, in one line of readable length."""
  return " ".join(str(error).split())[:200] or type(error).__name__
