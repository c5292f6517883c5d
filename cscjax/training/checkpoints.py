"""Checkpoints by Orbax: whole or not there, verified on reading."""

import hashlib
import pathlib
import tempfile
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from cscjax.training.processes import from_first, is_first, largest
from cscjax.training.state import TrainState


class Restored(NamedTuple):
  """A checkpoint read back: the state, in host memory, and the seconds that the run had taken."""

  state: TrainState
  seconds: float


class Checkpoints:
  """The last two states of a run under one directory.

  Orbax writes to a temporary directory and renames it, so that a kill at any moment leaves whole
  checkpoints alone. A digest of all arrays travels with each, so that one damaged later is found
  out, skipped with a warning, and the one before it is taken.

  The state is the same on all processes of a run: the first alone writes it and reads it, and hands it
  to the others, which need not see the directory.

  Args:
    directory: Made where it is not there.
    read_only: For `restore` alone. Nothing is made or removed, so that another process may be writing
      there.
  """

  def __init__(self, directory: pathlib.Path, *, read_only: bool = False):
    self._directory, self._read_only = directory.absolute(), read_only
    self._manager = _manager(self._directory, read_only) if is_first() else None

  def save(self, state: TrainState, seconds: float) -> None:
    """Writes the state under its step number; returns when it is on disk. Nothing if it is there.

    Raises:
      OSError: If it cannot be written; those there are left as they were.
    """
    if self._manager is None:
      return
    state = jax.device_get(state)
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    meta = {"seconds": seconds, "digest": _digest(state)}
    try:
      _ask_for_room(self._directory, state)
      self._manager.save(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)),
      )
    except Exception as error:  # Orbax raises many types where a file cannot be written
      raise OSError(f"cannot write the checkpoint of step {step}: {_reason(error)}") from error

  def restore(self, like: TrainState) -> Restored | None:
    """The newest whole checkpoint, or None.

    Warns of each one that it had to skip, and removes it unless `read_only`.

    Args:
      like: A state of the same structure, shapes and types.
    """
    like = jax.device_get(like)
    found = self._newest(like)
    if not largest(found is not None):
      return None
    state, seconds = from_first(found or Restored(like, 0.0))
    return Restored(state, float(seconds))

  def close(self) -> None:
    """Releases Orbax's threads."""
    if self._manager is not None:
      self._manager.close()

  def _newest(self, like):
    if self._manager is None:
      return None
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore())
        found = self._manager.restore(step, args=args)
        if found["meta"]["digest"] != _digest(found["state"]):
          raise ValueError("its arrays do not match their digest")
        return Restored(found["state"], float(found["meta"]["seconds"]))
      except Exception as error:  # Orbax raises many types for a damaged file
        warnings.warn(f"skipped the damaged checkpoint of step {step}: {_reason(error)}", stacklevel=3)
        if not self._read_only:
          self._manager.delete(step)
    return None


def _manager(directory, read_only):
  if not read_only:
    directory.mkdir(parents=True, exist_ok=True)
  options = ocp.CheckpointManagerOptions(
    max_to_keep=None if read_only else 2,
    enable_async_checkpointing=False,
    cleanup_tmp_directories=not read_only,  # another process may be writing one
    create=False,  # Orbax wants it so where not all processes take part
    multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}),
  )
  return ocp.CheckpointManager(directory, options=options)


def _ask_for_room(directory: pathlib.Path, state: TrainState) -> None:
  """OSError where a checkpoint would not fit: Orbax's threads would each print a traceback."""
  leaves = jax.tree.leaves(state)
  arrays = sum(leaf.nbytes for leaf in leaves)
  # Orbax writes each array twice before it merges them, and tells of each leaf in text.
  room = 2 * arrays + 4096 * (len(leaves) + 16)
  with tempfile.TemporaryFile(dir=directory) as file:
    file.write(bytes(room))


def _reason(error: Exception) -> str:
  """What went wrong, in one line of readable length."""
  return " ".join(str(error).split())[:200] or type(error).__name__


def _digest(state: Any) -> str:
  """SHA-256 over all leaves with their types and shapes."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(state):
    array = np.ascontiguousarray(leaf)
    digest.update(f"{array.dtype.name}{array.shape}".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
