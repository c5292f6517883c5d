"""Checkpoints through Orbax: written atomically, verified on reading, never deleted on restoring."""

import contextlib
import os
import pathlib
import re
import shutil
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from cscjax.checks import one_line
from cscjax.training._checkpoint_format import (
  CheckpointError,
  DamagedError,
  Restore,
  Save,
  StateHandler,
  read_meta,
  write_meta,
)
from cscjax.training._devices import from_process_0, is_first, process_max
from cscjax.training._state import LAST_STEP, TrainState

_LEFTOVER = re.compile(r"[0-9]+\.(orbax-checkpoint-tmp.*|deleted)")


class Restored(NamedTuple):
  """A restored checkpoint.

  Attributes:
    state: The state, with its arrays in host memory.
    seconds: Wall time that the run had taken, in seconds.
  """

  state: TrainState
  seconds: float


class Best(NamedTuple):
  """The checkpoint with the highest accuracy.

  Attributes:
    step: Its step.
    accuracy: The accuracy with which it was saved.
  """

  step: int
  accuracy: float


class Checkpoints:
  """The checkpoints of a run in a directory, of which the last two and, on request, the best are kept.

  Orbax writes each checkpoint to a temporary directory and renames it, so that every checkpoint
  is complete, even if the run is killed. A checkpoint holds its step, its accuracy if it was evaluated,
  the name of its run, the version of its network and checksums of all of this. Folders that this run did
  not write, such as a renamed or linked folder or a checkpoint of another run, are neither used nor
  deleted.

  In a run of several processes only process 0 writes and reads checkpoints. It sends a restored state to
  the other processes, which do not need access to the directory.

  Example:
    >>> import jax
    >>> from cscjax import training
    >>> from cscjax.models import create_model
    >>> schedule = training.step_schedule(0.1, [])
    >>> model = create_model("msdnet", num_classes=2, depth=1, width=2)
    >>> trainer = training.Trainer(model, training.sgd(schedule), schedule, batch_size=4)
    >>> state = trainer.create_state((4, 4, 1), jax.random.key(0))
    >>> checkpoints = training.Checkpoints("checkpoints")
    >>> checkpoints.save(state, seconds=1.5, accuracy=0.9, keep_best=True)
    >>> checkpoints.restore(state).seconds
    1.5
    >>> checkpoints.best()
    Best(step=0, accuracy=0.9)
    >>> checkpoints.close()
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    *,
    read_only: bool = False,
    run: str | None = None,
    architecture: int = 1,
  ) -> None:
    """Prepares the directory for saving and restoring.

    Args:
      directory: Directory of the checkpoints, created by the first `save`. Its name may have any
        characters.
      read_only: Whether only `restore` will be called. Nothing is then created, renamed or removed, so
        that another process can write to the directory.
      run: Name of the run, which is stored in its checkpoints. Checkpoints of other runs are not used.
        None uses the checkpoints of any run. A checkpoint without a name, from cscjax 0.1.0, counts as
        the run's own.
      architecture: Version of the network's computation, see `cscjax.models.ARCHITECTURES`. A checkpoint
        of another version is an error. A checkpoint without a version, from cscjax 0.1.0, has version 1.
    """
    self._directory, self._read_only = pathlib.Path(directory).absolute(), read_only
    self._run, self._architecture = run, architecture
    self._checkpointer = None
    if not is_first():
      return
    if not read_only:
      self._remove_leftovers()
    self._checkpointer = ocp.Checkpointer(
      StateHandler(),
      multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}),
    )

  def save(
    self,
    state: TrainState,
    seconds: float,
    *,
    accuracy: float | None = None,
    keep_best: bool = False,
  ) -> None:
    """Writes a checkpoint, and returns when it is on disk.

    If this run has already written a checkpoint of this step, at most its accuracy is added, if this was
    unknown. Otherwise only the last of the run's earlier checkpoints is kept, and the best one on
    request. Any other file or folder with the name of the step is renamed.

    Args:
      state: The state, whose step is the name of the checkpoint.
      seconds: Wall time that the run has taken, in seconds, >= 0.
      accuracy: The accuracy by which `best` chooses, in 0..1; None if the state was not evaluated.
      keep_best: Whether the checkpoint that `best` returns is kept, too. The default is False.

    Raises:
      OSError: If the checkpoint cannot be written. The earlier checkpoints then stay as they were.
    """
    if self._checkpointer is None:
      return
    state = jax.device_get(state)
    step = int(state.step)
    own = self._own()
    folder = self._directory / str(step)
    if step in own:
      if accuracy is not None and own[step].get("accuracy") is None:
        write_meta(folder, {**own[step], "accuracy": accuracy})
      return
    meta = {
      "step": step,
      "seconds": seconds,
      "accuracy": accuracy,
      "run": self._run,
      "architecture": self._architecture,
    }
    try:
      self._directory.mkdir(parents=True, exist_ok=True)
      if os.path.lexists(folder):
        _set_aside(folder, "foreign")
      self._checkpointer.save(folder, args=Save(state, meta))
    except Exception as error:  # Orbax raises many exception types if a file cannot be written
      self._remove_leftovers()
      raise OSError(f"cannot write the checkpoint of step {step}: {one_line(error)}") from error
    best = _best({**own, step: meta}) if keep_best else None
    for number in sorted(number for number in own if number < step)[:-1]:
      if best is None or number != best.step:
        self._delete(number)

  def best(self) -> Best | None:
    """Returns the checkpoint of the run with the highest accuracy, the first one if several have it.

    Only the descriptions of the checkpoints are read, not their arrays. A damaged one is skipped with a
    warning.

    Returns:
      The step and the accuracy; None if no checkpoint has an accuracy, and in all processes but 0.
    """
    return None if self._checkpointer is None else _best(self._own(warn=True))

  def restore(self, like: TrainState, step: int | None = None) -> Restored | None:
    """Restores the newest undamaged checkpoint of the run, or the one of a given step.

    A damaged checkpoint, with missing files or a wrong checksum, is skipped with a warning and renamed,
    for example from 44 to 44.damaged, unless `read_only` is set. A checkpoint of another run is skipped
    with a warning. Nothing is deleted. Every process of a run must call this method at the same point of
    the program.

    Args:
      like: A state of the expected structure, shapes and types.
      step: The step of the checkpoint; None for the newest undamaged one.

    Returns:
      The state, with its arrays in host memory, and the seconds that the run had taken; None if there is
      no such checkpoint.

    Raises:
      CheckpointError: If an undamaged checkpoint does not fit, because its arrays have other names,
        shapes or types than `like`, or because the version of the network differs. In the other
        processes, if process 0 could not restore.
      OSError: If a checkpoint cannot be read.
    """
    like = jax.device_get(like)
    found, failure = None, None
    try:
      found = self._newest(like, step)
    except (CheckpointError, OSError) as error:
      failure = error
    if process_max(failure is not None):
      raise failure or CheckpointError("process 0 could not restore the run; see its error message")
    if not process_max(found is not None):
      return None
    state, seconds = from_process_0(found or Restored(like, 0.0))
    return Restored(state, float(seconds))

  def close(self) -> None:
    """Releases the resources of Orbax."""
    if self._checkpointer is not None:
      self._checkpointer.close()

  def _newest(self, like: TrainState, only: int | None) -> Restored | None:
    """Returns the newest undamaged checkpoint, or that of step `only`; None in all processes but 0."""
    if self._checkpointer is None:
      return None
    for step in sorted(self._numbers(warn=True), reverse=True):
      if only not in (None, step):
        continue
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
          f"skipped the damaged checkpoint of step {step}{kept}: {one_line(error)}", stacklevel=3
        )
      except CheckpointError as error:
        raise CheckpointError(f"cannot use the checkpoint of step {step}: {error}") from error
      except OSError as error:
        raise OSError(f"cannot read the checkpoint of step {step}: {one_line(error)}") from error
    return None

  def _numbers(self, *, warn: bool = False) -> list[int]:
    """Returns the steps of all folders that have the name of a checkpoint."""
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

  def _belongs(self, meta: dict[str, Any], step: int) -> bool:
    """Returns whether a checkpoint was written by this run at this step, by its description."""
    same_run = None in (self._run, meta.get("run")) or meta["run"] == self._run
    return same_run and meta.get("step", step) == step

  def _own(self, *, warn: bool = False) -> dict[int, dict[str, Any]]:
    """Returns the descriptions of the checkpoints that this run wrote, by step, without damaged ones."""
    own = {}
    for step in self._numbers():
      try:
        meta = read_meta(self._directory / str(step))
      except (DamagedError, OSError) as error:
        if warn:
          warnings.warn(f"skipped the checkpoint of step {step}: {one_line(error)}", stacklevel=4)
        continue
      if self._belongs(meta, step):
        own[step] = meta
    return own

  def _check_architecture(self, meta: dict[str, Any]) -> None:
    """Raises CheckpointError if the checkpoint is from another version of the network."""
    version = meta.get("architecture", 1)
    if version != self._architecture:
      raise CheckpointError(
        f"the network has changed since then (architecture {version}, now {self._architecture})"
      )

  def _delete(self, step: int) -> None:
    """Removes a checkpoint, which is renamed first so that a kill leaves no partial checkpoint."""
    going = self._directory / f"{step}.deleted"
    with contextlib.suppress(OSError):  # an additional checkpoint does no harm
      os.rename(self._directory / str(step), going)
      shutil.rmtree(going)

  def _remove_leftovers(self) -> None:
    """Removes the temporary folders that a kill or an error during `save` has left."""
    with contextlib.suppress(OSError):  # leftovers do no harm
      for name in os.listdir(self._directory):
        if _LEFTOVER.fullmatch(name):
          shutil.rmtree(self._directory / name, ignore_errors=True)


def _best(metas: Mapping[int, dict[str, Any]]) -> Best | None:
  """Returns the first of the checkpoints with the highest accuracy, by their descriptions."""
  known = {step: metas[step].get("accuracy") for step in sorted(metas)}
  found = [Best(step, accuracy) for step, accuracy in known.items() if accuracy is not None]
  return max(found, key=lambda best: best.accuracy, default=None)


def _set_aside(folder: pathlib.Path, why: str) -> pathlib.Path:
  """Renames a folder to an unused name that no checkpoint has, and returns the new path."""
  target, count = folder.with_name(f"{folder.name}.{why}"), 1
  while os.path.lexists(target):
    count += 1
    target = folder.with_name(f"{folder.name}.{why}-{count}")
  os.rename(folder, target)
  return target
