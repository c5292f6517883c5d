"""Checkpoints by Orbax: whole or not there, verified on reading."""

import hashlib
import pathlib
import tempfile
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

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
  """

  def __init__(self, directory: pathlib.Path):
    options = ocp.CheckpointManagerOptions(
      max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    self._directory = directory.absolute()
    self._manager = ocp.CheckpointManager(self._directory, options=options)

  def save(self, state: TrainState, seconds: float) -> None:
    """Writes the state under its step number; returns when it is on disk. Nothing if it is there.

    Raises:
      OSError: If it cannot be written; those there are left as they were.
    """
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
    """The newest whole checkpoint, or None; warns of each one that it had to skip, and removes it.

    Args:
      like: A state of the same structure, shapes and types.
    """
    like = jax.device_get(like)
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore())
        found = self._manager.restore(step, args=args)
        if found["meta"]["digest"] != _digest(found["state"]):
          raise ValueError("its arrays do not match their digest")
        return Restored(found["state"], float(found["meta"]["seconds"]))
      except Exception as error:  # Orbax raises many types for a damaged file
        warnings.warn(f"skipped the damaged checkpoint of step {step}: {_reason(error)}", stacklevel=2)
        self._manager.delete(step)
    return None

  def close(self) -> None:
    """Releases Orbax's threads."""
    self._manager.close()


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
