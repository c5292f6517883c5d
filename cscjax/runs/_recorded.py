"""The config.json of a run, also of one that an older version has made, as a configuration of today."""

import dataclasses
import json
import pathlib
import types
import typing
from typing import Any

from cscjax import checks
from cscjax.runs._config import AUTO, DEFAULT, Config, augmentation_name
from cscjax.training import read_file, unseal


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """Reads the config.json of a run and verifies its checksum, which those of cscjax 0.1.0 lack.

  Raises:
    ValueError: If the file is damaged, was changed, or is another one.
    OSError: If it cannot be read.
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
      f"{path} is damaged or was changed: {error}; if it was changed on purpose, remove its checksum"
    ) from error


def recorded_fields(recorded: dict[str, Any]) -> dict[str, Any]:
  """Returns arguments of `Config` for the fields that a run recorded, but those that are null.

  Args:
    recorded: The fields as JSON holds them: "flags" of a config.json. Some may be missing.

  Raises:
    ValueError: If there is no such field, or a value has another type; ranges are `Config`'s to check.
  """
  fields = {}
  for name, value in current_flags(recorded).items():
    if name not in _FIELDS:
      raise ValueError(f"{name[:99]}: there is no such field")
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


def current_flags(recorded: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields that a run recorded, as JSON holds them, as today's.

  Runs older than `matmul_precision` had its default, those older than `remat` "auto" have null for it,
  and those older than `augmentation` name its parts. In older ones still `parallel` was "jit" for one
  device, and `statistics` told whether each of several devices had its own in batch norm.
  """
  recorded = {"matmul_precision": DEFAULT} | recorded
  if "statistics" in recorded:
    has_own = recorded.pop("statistics") == "device" and recorded.get("parallel") != "jit"
    recorded["parallel"] = "pmap" if has_own else "jit"
  if "remat" in recorded and recorded["remat"] is None:
    recorded = recorded | {"remat": AUTO}
  if "augmentation" in recorded or not {"shift", "flip"} <= recorded.keys():
    return recorded
  return recorded | {"augmentation": augmentation_name(recorded["shift"], recorded["flip"])}


_HINTS = typing.get_type_hints(Config)
_FIELDS = {field.name: (_HINTS[field.name], field.default) for field in dataclasses.fields(Config)}
