"""Loads a trained network, from the directory of its run or from a file of weights."""

import contextlib
import functools
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cscjax import checks, training
from cscjax.data import DatasetInfo, dataset_shape
from cscjax.models import ARCHITECTURES
from cscjax.runs._build import make_model, make_optimizer
from cscjax.runs._config import Config, RunError
from cscjax.runs._loaded_run import LoadedRun
from cscjax.runs._recorded import info_from_json, read_config, recorded_fields
from cscjax.runs._weights import read_weights


def load_run(workdir: str | os.PathLike[str], *, best: bool = False) -> LoadedRun:
  """Loads a run from its directory; the data set is not needed.

  Nothing in the directory is changed, and the run may still be training.

  Args:
    workdir: Directory of the run.
    best: Whether to load the checkpoint with the highest validation accuracy, which a run with
      `keep_best` keeps, instead of the last one. The default is False.

  Returns:
    The network as of the last or best checkpoint, with what is needed to use it.

  Raises:
    RunError: If there is no run in the directory, its files are damaged, it has no complete checkpoint
      that fits the network, or `best` is set for a run without `keep_best`.

  Example:
    >>> from cscjax import runs
    >>> config = runs.Config(
    ...   model="msdnet", dataset="digits", depth=1, width=4, workdir="runs/a", compilation_cache="off"
    ... )
    >>> run = runs.make_run(config)
    >>> _ = runs.execute(run, stopped=lambda: True, progress=False)  # only saves the initial state
    >>> loaded = runs.load_run("runs/a")
    >>> loaded.step, loaded.config == config, loaded.info.example_shape
    (0, True, (8, 8, 1))
    >>> loaded.predict(run.dataset.test.images[:5]).probabilities.shape
    (5, 10)
  """
  workdir = pathlib.Path(workdir)
  path = workdir / "config.json"
  if not path.is_file():
    raise RunError(f"no run in {workdir}: it has no config.json", "workdir")
  try:
    found = read_config(path)
    config = Config(**recorded_fields(found["flags"]))
    info = info_from_json(found["data"]) if "data" in found else None
  except (OSError, ValueError) as error:
    raise RunError(f"{path}: {error}", "workdir") from error
  if best and not config.keep_best:
    raise RunError(f"expected False, because the run in {workdir} has no keep_best, got True", "best")
  if info is None:
    shape, num_classes = dataset_shape(config.dataset)
  else:
    shape, num_classes = info.example_shape, info.num_classes
  model = make_model(config, num_classes)
  recorded = found.get("jax_config", {}).get("jax_enable_x64")
  with contextlib.nullcontext() if recorded is None else jax.enable_x64(bool(recorded)):
    state = _restore(workdir, found.get("run"), config, model, shape, best)
  return LoadedRun(config, model, {"params": state.params, **state.variables}, int(state.step), info)


def load_weights(path: str | os.PathLike[str]) -> LoadedRun:
  """Loads a network from a file that `LoadedRun.save_weights` wrote.

  Args:
    path: The file.

  Returns:
    The network, with what is needed to use it. Fields of `config` that are paths have their defaults;
    the path in "npz:FILE" or "folder:DIR" is only the name of the file or folder.

  Raises:
    RunError: If the file cannot be read, was not written by `save_weights`, or is of another version of
      the network.

  Example:
    >>> from cscjax import runs
    >>> config = runs.Config(
    ...   model="msdnet", dataset="digits", depth=1, width=4, workdir="runs/a", compilation_cache="off"
    ... )
    >>> _ = runs.execute(runs.make_run(config), stopped=lambda: True, progress=False)
    >>> runs.load_run("runs/a").save_weights("network.safetensors")
    >>> loaded = runs.load_weights("network.safetensors")
    >>> type(loaded.model).__name__, loaded.step, sorted(loaded.variables)
    ('MSDCSC', 0, ['batch_stats', 'params'])
  """
  variables, found = read_weights(pathlib.Path(path))
  try:
    config = Config(**recorded_fields(found["flags"]))
    info, step = info_from_json(found["data"]), checks.int_at_least("step", found["step"], 0)
    version, known = found["architecture"], ARCHITECTURES[config.model]
    model = make_model(config, info.num_classes)
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise RunError(
      f"{path} does not describe its network as save_weights does: {error}", "path"
    ) from error
  if version != known:
    problem = f"of version {version} of the network {config.model}, which has version {known} now"
    raise RunError(f"{path} is {problem}", "path")
  if not any(_forms(variables) == _expected_forms(model, info, x64) for x64 in (False, True)):
    raise RunError(f"{path} does not contain the variables of the network that it describes", "path")
  return LoadedRun(config, model, variables, step, info)


def _forms(variables: Any) -> Any:
  """Returns the shape and the type of each variable."""
  return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables)


def _expected_forms(model: nn.Module, info: DatasetInfo, x64: bool) -> Any:
  """Returns the forms of the variables that a run with this setting of JAX has."""
  example = jax.ShapeDtypeStruct((1, *info.example_shape), jnp.float32)
  with jax.enable_x64(x64):
    return _forms(jax.eval_shape(model.init, jax.random.key(0), example))


def _restore(
  workdir: pathlib.Path,
  name: str | None,
  config: Config,
  model: nn.Module,
  shape: tuple[int, ...],
  best: bool,
) -> training.TrainState:
  """Returns the state of the last checkpoint, or of the best one, in host memory."""
  schedule, optimizer = make_optimizer(config, steps_per_epoch=1)  # only for the structure of the state
  trainer = training.Trainer(model, optimizer, schedule, config.batch_size)
  like = jax.eval_shape(functools.partial(trainer.create_state, shape), jax.random.key(0))
  like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
  folder, restored = workdir / "checkpoints", None
  if folder.is_dir():
    try:
      checkpoints = training.Checkpoints(
        folder, read_only=True, run=name, architecture=ARCHITECTURES[config.model]
      )
      with contextlib.closing(checkpoints):
        kept = checkpoints.best() if best else None
        if kept is not None or not best:
          restored = checkpoints.restore(like, None if kept is None else kept.step)
    except (training.CheckpointError, OSError) as error:
      raise RunError(f"{workdir}: {error}", "workdir") from error
  if restored is None:
    kind = "complete checkpoint with an accuracy" if best else "complete checkpoint"
    raise RunError(f"no {kind} in {workdir}", "workdir")
  return restored.state
