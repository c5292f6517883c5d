"""Reads the config.json of a run, also of older versions, as fields of the current `Config`."""

import dataclasses
import json
import pathlib
import types
import typing
from typing import Any

import numpy as np

from cscjax import checks
from cscjax.data import DatasetInfo
from cscjax.runs._config import AUTO, DEFAULT, Config, augmentation_name
from cscjax.training import read_file, unseal


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """Reads the config.json of a run and verifies its checksum.

  A file without a checksum, as cscjax 0.1.0 wrote it, is accepted.

  Args:
    path: Path of the file.

  Returns:
    Its contents without the checksum. "flags" holds the fields of the configuration, see
    `recorded_fields`.

  Raises:
    ValueError: If the file is damaged or was changed, or is not the config.json of a run.
    OSError: If the file cannot be read.

  Example:
    >>> import pathlib
    >>> from cscjax import runs
    >>> path = pathlib.Path("config.json")
    >>> runs.write_json(path, {"flags": {"dataset": "digits", "epochs": 3}})
    >>> runs.read_config(path)["flags"]
    {'dataset': 'digits', 'epochs': 3}
  """
  try:
    sealed = json.loads(read_file(path).decode())
    flags, name, version = sealed["flags"], sealed.get("run", ""), sealed.get("architecture", 1)
    expected = ((flags, "flags", dict), (name, "run", str), (version, "architecture", int))
    for value, key, kind in expected:
      if type(value) is not kind:
        raise ValueError(f"{key}: {value!r:.99}")
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise ValueError(f"{path} is not the config.json of a run ({error!r})") from error
  try:
    return unseal(sealed)
  except ValueError as error:
    raise ValueError(
      f"{path} is damaged or was changed: {error}; if you changed it on purpose, remove its checksum"
    ) from error


def recorded_fields(recorded: dict[str, Any]) -> dict[str, Any]:
  """Converts the recorded fields of a run to arguments of `Config`.

  Only names and types are checked; `Config` checks the ranges.

  Args:
    recorded: The fields as JSON values, the "flags" of a config.json. Fields may be missing.

  Returns:
    The arguments, without fields that are null and have the default None.

  Raises:
    ValueError: If `Config` has no field of a recorded name, or a value has the wrong type.

  Example:
    >>> from cscjax import runs
    >>> fields = runs.recorded_fields({"dataset": "digits", "decay_epochs": [10, 15], "depth": None})
    >>> fields["decay_epochs"], "depth" in fields
    ((10, 15), False)
    >>> runs.Config(**fields).dataset
    'digits'
  """
  fields = {}
  for name, value in current_fields(recorded).items():
    if name not in _FIELDS:
      raise ValueError(f"{name[:99]}: not a field of the configuration")
    hint, default = _FIELDS[name]
    if value is None and default is None:
      continue
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if tuple[int, ...] in kinds:
      if not (isinstance(value, list) and all(type(item) is int for item in value)):
        checks.fail(name, value, "a list of integers")
      value = tuple(value)
    elif type(value) not in (*kinds, *((int,) if float in kinds else ())):
      checks.fail(
        name, value, " or ".join(kind.__name__ for kind in kinds if kind is not types.NoneType)
      )
    fields[name] = value
  return fields


def current_fields(recorded: dict[str, Any]) -> dict[str, Any]:
  """Translates the recorded fields of an older run to the current fields.

  Fields that did not exist yet get the values that the run used: `matmul_precision` and `keep_best`
  their defaults, `remat` "auto" in place of null, and `augmentation` the name of the recorded `shift`
  and `flip`. A former field `statistics`, which said whether batch norm used statistics of each device,
  becomes the value of `parallel`.

  Args:
    recorded: The fields as JSON values, the "flags" of a config.json. It is not changed.

  Returns:
    The fields with their current names and values, as JSON values.

  Example:
    >>> from cscjax import runs
    >>> fields = runs.current_fields({"dataset": "cifar10", "shift": 4, "flip": True})
    >>> fields["augmentation"], fields["matmul_precision"]
    ('standard', 'default')
  """
  recorded = {"matmul_precision": DEFAULT, "keep_best": False} | recorded
  if "statistics" in recorded:
    has_own = recorded.pop("statistics") == "device" and recorded.get("parallel") != "jit"
    recorded["parallel"] = "pmap" if has_own else "jit"
  if "remat" in recorded and recorded["remat"] is None:
    recorded = recorded | {"remat": AUTO}
  if "augmentation" in recorded or not {"shift", "flip"} <= recorded.keys():
    return recorded
  return recorded | {"augmentation": augmentation_name(recorded["shift"], recorded["flip"])}


def info_as_json(info: DatasetInfo) -> dict[str, Any]:
  """Returns the object "data" of a config.json."""
  return dataclasses.asdict(info) | {"mean": info.mean.tolist(), "std": info.std.tolist()}


def info_from_json(recorded: Any) -> DatasetInfo:
  """Reads the object "data" of a config.json.

  Raises:
    ValueError: If it does not describe a data set.
  """
  try:
    names, fingerprint = recorded["class_names"], recorded.get("fingerprint")
    info = DatasetInfo(
      example_shape=tuple(checks.positive_int("example_shape", n) for n in recorded["example_shape"]),
      dtype=checks.one_of("dtype", recorded["dtype"], ("uint8", "float32")),
      num_classes=checks.positive_int("num_classes", recorded["num_classes"]),
      mean=np.array(recorded["mean"], np.float32),
      std=np.array(recorded["std"], np.float32),
      class_names=None if names is None else tuple(map(str, names)),
      fingerprint=None if fingerprint is None else str(fingerprint),
    )
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f"data: expected the description of a data set ({error!r})") from error
  channels = info.example_shape[-1:]
  if not info.mean.shape == info.std.shape == channels or len(names or ()) not in (0, info.num_classes):
    checks.fail("data", recorded, "one mean and std per channel, and one name per class")
  return info


_HINTS = typing.get_type_hints(Config)
_FIELDS = {field.name: (_HINTS[field.name], field.default) for field in dataclasses.fields(Config)}
