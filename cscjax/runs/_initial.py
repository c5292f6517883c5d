"""The initial weights of a run that starts from a trained network."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax

from cscjax import training
from cscjax.data import Dataset
from cscjax.runs._build import make_model
from cscjax.runs._config import Config, RunError
from cscjax.runs._load import load_run, load_weights
from cscjax.runs._loaded_run import LoadedRun

_CLASSIFIER = "params/classifier/"  # the path of the parameters that depend on the number of classes
_FREE = {"num_classes", "dtype", "remat", "unroll", "channel_multiple", "parent", "name"}
"""The fields of a network that may differ from those of the network from which it starts."""


def check_initial(config: Config, dataset: Dataset, trainer: training.Trainer) -> None:
  """Checks `config.init_from` before anything is written; a run with a checkpoint does not need it.

  Raises:
    RunError: If it is not a trained network, or a different one.
  """
  begun = config.workdir is not None and (pathlib.Path(config.workdir) / "checkpoints").is_dir()
  if config.init_from is not None and training.is_first() and not begun:
    create = functools.partial(trainer.create_state, dataset.example_shape)
    initialized(config, jax.eval_shape(create, jax.random.key(0)))


def initialized(config: Config, state: training.TrainState) -> training.TrainState:
  """Returns a state with the parameters and running statistics of `config.init_from`, if it is set.

  If the numbers of classes differ, the classifier of `state` remains. Nothing else depends on them or on
  the size of the images: the step sizes of the pursuits are relative to bounds that are computed anew.

  Raises:
    RunError: If the network cannot be loaded, or has other variables.
  """
  if config.init_from is None:
    return state
  source = _load(config.init_from)
  found, differences = _by_path(source.variables), []

  def choose(name: str, now: Any) -> Any:
    trained = found.pop(name, None)
    if trained is not None and (trained.shape, trained.dtype) == (now.shape, now.dtype):
      return trained
    if trained is None or not name.startswith(_CLASSIFIER):
      there = "missing" if trained is None else f"{trained.dtype}{list(trained.shape)}"
      differences.append(f"{name} is {there}, expected {now.dtype}{list(now.shape)}")
    return now

  variables = {"params": state.params, **state.variables}
  chosen = [choose(name, leaf) for name, leaf in _by_path(variables).items()]
  differences += [f"{name} is unknown" for name in found]
  differences += _other_fields(source.model, make_model(config, source.model.num_classes))
  if differences:
    expected = "expected the same network, for images with as many channels"
    raise RunError(f"{expected}, got {config.init_from} ({differences[0]})", "init_from")
  variables = jax.tree.unflatten(jax.tree.structure(variables), chosen)
  return state.replace(params=variables.pop("params"), variables=variables)


def _other_fields(there: Any, here: Any) -> list[str]:
  """Returns the fields in which two networks differ that can have equal variables."""
  names = {field.name for field in dataclasses.fields(here)} - _FREE
  pairs = {name: (getattr(there, name, None), getattr(here, name)) for name in sorted(names)}
  return [f"{name} is {a!r}, expected {b!r}" for name, (a, b) in pairs.items() if a != b]


def _load(path: str) -> LoadedRun:
  """Loads a run from its directory, or from its file of weights."""
  try:
    return load_weights(path) if pathlib.Path(path).is_file() else load_run(path)
  except RunError as error:
    raise RunError(str(error).removeprefix(f"{error.argument}: "), "init_from") from error


def _by_path(tree: Any) -> dict[str, Any]:
  """Returns the leaves by their path, such as "params/classifier/kernel", in the order of the tree."""
  leaves = jax.tree.leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
