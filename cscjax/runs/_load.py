"""Loads a run from its directory."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cscjax import training
from cscjax.data import Dataset, dataset_shape, load_dataset
from cscjax.models import ARCHITECTURES
from cscjax.runs._build import make_model, make_optimizer
from cscjax.runs._config import Config, RunError
from cscjax.runs._recorded import read_config, recorded_fields


@dataclasses.dataclass(frozen=True)
class LoadedRun:
  """A run as of its last or best checkpoint, loaded by `load_run`.

  Attributes:
    config: The configuration of the run.
    model: The network.
    variables: Parameters and running statistics for `model.apply`, in host memory.
    step: Number of training steps of the checkpoint.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import runs
    >>> config = runs.Config(
    ...   model="msdnet", dataset="digits", depth=1, width=4, workdir="runs/a", compilation_cache="off"
    ... )
    >>> run = runs.make_run(config)
    >>> _ = runs.execute(run, stopped=lambda: True, progress=False)  # only saves the initial state
    >>> loaded = runs.load_run("runs/a")
    >>> logits = loaded.model.apply(loaded.variables, jnp.zeros((5, 8, 8, 1)), train=False)
    >>> loaded.step, logits.shape
    (0, (5, 10))
  """

  config: Config
  model: nn.Module
  variables: dict[str, Any]
  step: int

  def load_dataset(self, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads the data set of the run, with the same splits and normalization.

    Args:
      data_dir: The data directory; by default that of the run.

    Returns:
      The data set, in host memory.

    Raises:
      DataError: If the data are missing or damaged.
      MissingExtraError: If a package that reads the data is not installed.
    """
    return load_dataset(
      self.config.dataset,
      data_dir=self.config.data_dir if data_dir is None else data_dir,
      cache_dir=self.config.cache_dir,
      validation_fraction=self.config.validation_fraction,
      train_examples=self.config.train_examples,  # the normalization depends on them
      download=self.config.download,
    )


def load_run(workdir: str | os.PathLike[str], *, best: bool = False) -> LoadedRun:
  """Loads a run from its directory.

  Nothing in the directory is changed, and the run may still be training.

  Args:
    workdir: Directory of the run.
    best: Whether to load the checkpoint with the highest validation accuracy, which a run with
      `keep_best` keeps, instead of the last one. The default is False.

  Returns:
    The configuration, the network, and its variables as of the last or best checkpoint.

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
    >>> loaded.step, loaded.config == config
    (0, True)
  """
  workdir = pathlib.Path(workdir)
  path = workdir / "config.json"
  if not path.is_file():
    raise RunError(f"no run in {workdir}: it has no config.json", "workdir")
  try:
    found = read_config(path)
    config = Config(**recorded_fields(found["flags"]))
  except (OSError, ValueError) as error:
    raise RunError(f"{path}: {error}", "workdir") from error
  step = None
  if best:
    if not config.keep_best:
      raise RunError(f"expected False, because the run in {workdir} has no keep_best, got True", "best")
    step = _best_step(workdir)
  shape, num_classes = dataset_shape(config.dataset)
  model = make_model(config, num_classes)
  state = _restore(workdir, found.get("run"), config, model, shape, step)
  return LoadedRun(config, model, {"params": state.params, **state.variables}, int(state.step))


def _best_step(workdir: pathlib.Path) -> int:
  """Returns the step with the best validation accuracy that has a checkpoint.

  A kill may leave a better row whose checkpoint was not written yet.
  """
  try:
    rows = training.read_metrics(workdir / "metrics.jsonl")
  except OSError as error:
    raise RunError(f"{workdir}: {error}", "workdir") from error
  saved = [row for row in rows if (workdir / "checkpoints" / str(row["step"])).is_dir()]
  step = training.best_step(saved, "validation")
  if step is None:
    raise RunError(f"no checkpoint of an evaluated step in {workdir}", "workdir")
  return step


def _restore(
  workdir: pathlib.Path,
  name: str | None,
  config: Config,
  model: nn.Module,
  shape: tuple[int, ...],
  step: int | None,
) -> training.TrainState:
  """Returns the state of the last checkpoint, or of that of a given step, in host memory."""
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
        restored = checkpoints.restore(like, step)
    except (training.CheckpointError, OSError) as error:
      raise RunError(f"{workdir}: {error}", "workdir") from error
  if restored is None:
    raise RunError(f"no complete checkpoint in {workdir}", "workdir")
  return restored.state
