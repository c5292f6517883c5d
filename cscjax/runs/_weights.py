"""Files of weights: the variables of a network, with all that is needed to use them, as safetensors."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from cscjax.data import DATASETS, DatasetInfo
from cscjax.models import ARCHITECTURES
from cscjax.runs._config import OWN, Config, RunError
from cscjax.runs._recorded import info_as_json
from cscjax.runs._workdir import replaced

_KEY = "cscjax"  # key in the metadata of the file; the entry is a JSON object as in config.json
# Fields that mean nothing on another machine.
_PLACES = OWN | {"coordinator", "init_from", "num_processes"}


def write_weights(
  path: pathlib.Path, config: Config, variables: dict[str, Any], step: int, info: DatasetInfo
) -> None:
  """Writes the variables of a network, named by their paths such as "params/layer_0/filters"."""
  flags = {k: v for k, v in dataclasses.asdict(config).items() if k not in _PLACES}
  if config.dataset not in DATASETS:
    flags["dataset"] = f"{config.dataset.partition(':')[0]}:{config.dataset_name}"
  description = {
    "flags": flags,
    "architecture": ARCHITECTURES[config.model],
    "step": step,
    "data": info_as_json(info),
  }
  tensors = {k: np.array(v, order="C") for k, v in flatten_dict(variables, sep="/").items()}
  with replaced(path) as scratch:
    scratch.write_bytes(safetensors.numpy.save(tensors, {_KEY: json.dumps(description)}))


def read_weights(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads a file of `write_weights`.

  Returns:
    The variables, and the description of the network.

  Raises:
    RunError: If the file does not exist, is damaged, or was not written by `write_weights`.
  """
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      description = json.loads((file.metadata() or {})[_KEY])
      tensors = {name: file.get_tensor(name) for name in file.keys()}
  except (OSError, safetensors.SafetensorError) as error:
    raise RunError(f"cannot read {path}: {error}", "path") from error
  except (KeyError, ValueError) as error:
    problem = f"{path} is not a file of save_weights: it does not describe its network"
    raise RunError(problem, "path") from error
  return unflatten_dict(tensors, sep="/"), description
