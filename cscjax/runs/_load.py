"""A run that was made, from its workdir."""

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
from cscjax.runs._build import make_trainer
from cscjax.runs._config import Config, RunError
from cscjax.runs._recorded import read_config, recorded_fields


@dataclasses.dataclass(frozen=True)
class LoadedRun:
  """A run as its last checkpoint has it.

  Attributes:
    config: Its configuration.
    model: Its network.
    variables: Parameters and running statistics, in host memory, for `model.apply`.
    step: Steps done.
  """

  config: Config
  model: nn.Module
  variables: dict[str, Any]
  step: int

  def load_dataset(self, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Returns the data that the run was made with, from where it had them or from `data_dir`.

    Raises:
      DataError: If the data cannot be had.
    """
    return load_dataset(
      self.config.dataset,
      data_dir=self.config.data_dir if data_dir is None else data_dir,
      validation_fraction=self.config.validation_fraction,
      train_examples=self.config.train_examples,  # which the normalisation depends on
      download=self.config.download,
    )


def load_run(workdir: str | os.PathLike[str]) -> LoadedRun:
  """Loads a run from its workdir, which may be going on, and changes nothing there.

  Args:
    workdir: Directory of the run.

  Raises:
    RunError: If there is no run, its files are damaged, or it has no whole checkpoint that fits the
      network.
  """
  workdir = pathlib.Path(workdir)
  path = workdir / "config.json"
  if not path.is_file():
    raise RunError(f"no run in {workdir}, which has no config.json", "workdir")
  try:
    found = read_config(path)
    config = Config(**recorded_fields(found["flags"]))
  except (OSError, ValueError) as error:
    raise RunError(f"{path}: {error}", "workdir") from error
  shape, num_classes = dataset_shape(config.dataset)
  trainer = make_trainer(config, num_classes, steps_per_epoch=1)  # which only the rate depends on
  state = _restore(workdir, found.get("run"), config, trainer, shape)
  return LoadedRun(config, trainer.model, {"params": state.params, **state.variables}, int(state.step))


def _restore(workdir, name, config, trainer, shape) -> training.TrainState:
  """The last state that was saved, in host memory."""
  like = jax.eval_shape(functools.partial(trainer.create_state, shape), jax.random.key(0))
  like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
  folder, restored = workdir / "checkpoints", None
  if folder.is_dir():
    try:
      checkpoints = training.Checkpoints(
        folder, read_only=True, run=name, architecture=ARCHITECTURES[config.model]
      )
      with contextlib.closing(checkpoints):
        restored = checkpoints.restore(like)
    except (training.CheckpointError, OSError) as error:
      raise RunError(f"{workdir}: {error}", "workdir") from error
  if restored is None:
    raise RunError(f"no whole checkpoint in {workdir}", "workdir")
  return restored.state
