"""The files of a checkpoint: its arrays and a description, written and read through Orbax."""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import tempfile
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp

from cscjax.training._files import CHECKSUM, read_file, seal, unseal
from cscjax.training._state import TrainState

STATE = "state.msgpack"
META = pathlib.Path("meta", "metadata")
RETIRED = "spectral"  # a former collection of the networks, with a running estimate of L


class CheckpointError(Exception):
  """Raised if an undamaged checkpoint does not fit the network; the message says what differs."""


class DamagedError(Exception):
  """Raised if a checkpoint is not as it was written; the message says what is wrong."""


@dataclasses.dataclass
class Save(ocp.args.CheckpointArgs):
  """The arguments with which `StateHandler` saves.

  Attributes:
    state: The state, with its arrays in host memory.
    meta: Fields of the description, to which the digest and the checksums are added.
  """

  state: TrainState
  meta: dict[str, Any]


@dataclasses.dataclass
class Restore(ocp.args.CheckpointArgs):
  """The arguments with which `StateHandler` restores.

  Attributes:
    like: A state of the expected structure, shapes and types.
    meta: The description of the checkpoint, from `read_meta`.
  """

  like: TrainState
  meta: dict[str, Any]


class StateHandler(ocp.CheckpointHandler):
  """Saves a `TrainState` through Orbax as one file of arrays and one JSON description.

  Orbax's own handlers write in background threads, whose errors cannot be distinguished or caught, and
  find files by glob patterns, which fails for paths with brackets or asterisks. This handler uses plain
  file operations. Orbax makes the creation of the folder atomic.
  """

  def save(self, directory: Any, args: Save) -> None:
    """Writes both files and waits until they are on disk."""
    content = flax.serialization.msgpack_serialize(_named(args.state))
    hashes = {"digest": _digest(args.state), "sha256": hashlib.sha256(content).hexdigest()}
    folder = pathlib.Path(directory)
    (folder / META).parent.mkdir()
    _write(folder / STATE, content)
    write_meta(folder, {**args.meta, **hashes})

  def restore(self, directory: Any, args: Restore) -> TrainState:
    """Reads and verifies the state.

    If the checkpoint has the collection `RETIRED` but `args.like` does not, the collection is verified
    and then left out.

    Raises:
      DamagedError: If the arrays are not those that were saved.
      CheckpointError: If the names, shapes or types of the arrays are not those of `args.like`.
      OSError: If a file cannot be read.
    """
    folder = pathlib.Path(directory)
    arrays = _arrays(folder, args.meta) if CHECKSUM in args.meta else _old_arrays(folder)
    like, retired = args.like, {} if RETIRED in args.like.variables else _retired(arrays)
    if retired:
      like = like.replace(variables={**like.variables, RETIRED: retired})
    state = _assemble(like, arrays)
    if _digest(state) != args.meta["digest"]:
      raise DamagedError("the arrays do not match their digest")
    if retired:
      kept = {name: value for name, value in state.variables.items() if name != RETIRED}
      state = state.replace(variables=kept)
    return state


ocp.args.register_with_handler(StateHandler, for_save=True)(Save)
ocp.args.register_with_handler(StateHandler, for_restore=True)(Restore)


def read_meta(folder: pathlib.Path) -> dict[str, Any]:
  """Reads the description of a checkpoint.

  Returns:
    The description, with the keys "seconds" and "digest" and, unless the checkpoint is from cscjax
    0.1.0, "step", "accuracy", "run", "architecture", "sha256" and "checksum".

  Raises:
    DamagedError: If the description is missing or not as it was written.
    OSError: If the description cannot be read.
  """
  try:
    meta = json.loads(_read(folder / META))
    unseal(meta)
    seconds, digest = meta["seconds"], meta["digest"]
    if not (isinstance(digest, str) and 0 <= seconds and math.isfinite(seconds)):
      raise ValueError("the values are out of range")
  except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
    raise DamagedError(f"{META}: {error}") from error
  return meta


def write_meta(folder: pathlib.Path, meta: dict[str, Any]) -> None:
  """Writes the description of a checkpoint with its checksum, or replaces it atomically.

  Raises:
    OSError: If the description cannot be written.
  """
  scratch = (folder / META).with_suffix(".tmp")
  fields = {key: value for key, value in meta.items() if key != CHECKSUM}
  _write(scratch, json.dumps(seal(fields)).encode())
  os.replace(scratch, folder / META)


def _arrays(folder: pathlib.Path, meta: dict[str, Any]) -> Any:
  """Returns the arrays of a checkpoint by their path in the state."""
  content = _read(folder / STATE)
  if hashlib.sha256(content).hexdigest() != meta["sha256"]:
    raise DamagedError(f"{STATE} does not match its checksum")
  return flax.serialization.msgpack_restore(content)


def _old_arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a checkpoint of cscjax 0.1.0, which used Orbax's standard format."""
  for file in (folder / "state").rglob("*"):
    if file.is_file():
      file.read_bytes()  # raises disk errors as OSError, which Orbax would hide in its own exceptions
  with tempfile.TemporaryDirectory() as place:
    link = pathlib.Path(place, "state")  # Orbax cannot read from all paths
    link.symlink_to(folder / "state")
    try:
      with ocp.StandardCheckpointer() as checkpointer:
        return _named(checkpointer.restore(link))
    except Exception as error:  # Orbax raises many exception types for a damaged file
      raise DamagedError(str(error)) from error


def _retired(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """Returns the collection `RETIRED` of a checkpoint as a tree, {} if it has none."""
  prefix = f"variables/{RETIRED}/"
  found = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
  return flax.traverse_util.unflatten_dict(found, sep="/")


def _assemble(like: TrainState, arrays: dict[str, np.ndarray]) -> TrainState:
  """Returns the arrays in the structure of `like`."""

  def kind(array: np.ndarray) -> str:
    return f"{array.dtype.name}{list(array.shape)}"

  expected = _named(like)
  differences = [f"{name} is missing" for name in expected if name not in arrays]
  differences += [f"{name} is unknown" for name in arrays if name not in expected]
  differences += [
    f"{name} is {kind(arrays[name])}, expected {kind(array)}"
    for name, array in expected.items()
    if name in arrays and kind(arrays[name]) != kind(array)
  ]
  if differences:
    shown = "; ".join(differences[:3])
    more = f" and {len(differences) - 3} more differences" if len(differences) > 3 else ""
    raise CheckpointError(
      f"its arrays do not match those of this network ({shown}{more}); it was written by another version"
      " of the code, for another network, or with another setting of JAX_ENABLE_X64"
    )
  return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in expected])


def _named(tree: Any) -> dict[str, np.ndarray]:
  """Returns the leaves by their path, such as params/Dense_0/kernel, in the order of the tree."""
  leaves, _ = jax.tree.flatten_with_path(tree)
  return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(leaf) for p, leaf in leaves}


def _digest(state: TrainState) -> str:
  """Returns the SHA-256 hash of all leaves with their types and shapes."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(state):
    array = np.ascontiguousarray(leaf)
    digest.update(f"{array.dtype.name}{array.shape}".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def _read(path: pathlib.Path) -> bytes:
  """Reads a file of a checkpoint; a missing one raises DamagedError."""
  try:
    return read_file(path)
  except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
    raise DamagedError(f"{path.name} is missing") from error


def _write(path: pathlib.Path, content: bytes) -> None:
  """Writes a file and waits until it is on disk."""
  with path.open("wb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
