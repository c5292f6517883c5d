"""The command-line flags of a run: one for each field of `Config`."""

import dataclasses
import functools
import pathlib
import types
import typing
from collections.abc import Sequence
from typing import Any

from absl import flags

from cscjax.runs import Config, read_config, recorded_fields
from experiments.cli import UsageError, define_path, expanded, in_flags, say

OF_A_CALL = frozenset({"workdir", "coordinator", "num_processes", "process_id"})
"""Fields that a run which is repeated does not take over."""
PATHS = ("data_dir", "compilation_cache", "workdir")
"""Fields that are paths, in whose flags `~` is replaced."""
DEPRECATED = ("shift", "flip")
"""Fields that --augmentation replaces."""


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines a flag for each field of `Config`, with its default, help and choices, and --from_config."""
  text = "config.json of a run to repeat but for its workdir and processes; flags beside it replace its."
  define_path("from_config", None, text, values)
  hints = typing.get_type_hints(Config)
  for field in dataclasses.fields(Config):
    name, text = field.name, field.metadata["help"]
    default: Any = field.default
    kind = _without_none(hints[name])
    if field.metadata["choices"]:
      flags.DEFINE_enum(name, default, field.metadata["choices"], text, flag_values=values)
    elif name in PATHS:
      define_path(name, default, text, values)
    elif kind is bool:
      flags.DEFINE_bool(name, default, text, flag_values=values)
    elif kind is int:
      flags.DEFINE_integer(name, default, text, flag_values=values)
    elif kind is float:
      flags.DEFINE_float(name, default, text, flag_values=values)
    elif kind is str:
      flags.DEFINE_string(name, default, text, flag_values=values)
    else:  # a list flag, so that a later one replaces an earlier one
      flags.DEFINE_list(name, default and [str(v) for v in default], text, flag_values=values)


def config_from_flags(parsed: flags.FlagValues = flags.FLAGS) -> Config:
  """The configuration that the parsed flags ask for; warns of those that are deprecated.

  Raises:
    UsageError: Where a value is out of range, or the file of --from_config is none of a run.
  """
  try:
    given = _given(parsed)
    recorded = {} if parsed.from_config is None else _recorded(pathlib.Path(parsed.from_config))
    if "augmentation" in given:
      recorded = {name: value for name, value in recorded.items() if name not in DEPRECATED}
    config = Config(**(recorded | given))
  except ValueError as error:
    raise UsageError(str(error)) from error
  if deprecated := [f"--{name}" for name in DEPRECATED if name in given]:
    say(f"deprecated: {', '.join(deprecated)}; use --augmentation", "warning")
  return config


@functools.cache
def read_flagfile(path: pathlib.Path) -> dict[str, Any]:
  """The fields of `Config` that a flagfile sets.

  Raises:
    flags.Error: Where a flag is unknown or its value unreadable.
  """
  values = flags.FlagValues()
  define_flags(values)
  values(["run", f"--flagfile={path}"])
  return _given(values)


def parse(arguments: Sequence[str]) -> Config:
  """The configuration of a command line of experiments.run, apart from this process's own flags.

  Raises:
    UsageError: Where a value is out of range.
    flags.Error: Where a flag is unknown or its value unreadable.
  """
  values = flags.FlagValues()
  define_flags(values)
  values(["run", *arguments])
  return config_from_flags(values)


def _recorded(path: pathlib.Path) -> dict[str, Any]:
  """The fields of a run's config.json that a run which repeats it takes over."""
  try:
    fields = recorded_fields(read_config(path)["flags"])
    paths = {name: expanded(fields[name]) for name in PATHS if name in fields}
  except ValueError as error:
    raise UsageError(f"--from_config: {path}: {in_flags(error)}") from error
  except OSError as error:
    raise UsageError(f"--from_config: {error}") from error
  return {name: value for name, value in (fields | paths).items() if name not in OF_A_CALL}


def _given(parsed: flags.FlagValues) -> dict[str, Any]:
  """The fields of `Config` whose flags are given; those that are not have its defaults."""
  names = [field.name for field in dataclasses.fields(Config) if parsed[field.name].present]
  values = {name: parsed[name].value for name in names}
  return {k: _integers(k, v) if isinstance(v, list) else v for k, v in values.items()}


def _integers(name, texts):
  try:
    return tuple(map(int, texts))
  except ValueError:
    raise ValueError(f"{name}: expected integers, got {','.join(texts)!r}") from None


def _without_none(hint):
  if isinstance(hint, types.UnionType):
    return next(part for part in typing.get_args(hint) if part is not types.NoneType)
  return hint
