"""The command-line flags of a run: one for each field of `Config`."""

import dataclasses
import pathlib
import types
import typing
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments.cli import UsageError, define_path, say
from experiments.config import OF_A_CALL, PATHS, Config, current_flags
from experiments.workdir import read_config


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
  deprecated = [f"--{name}" for name in ("shift", "flip") if parsed[name].present]
  if parsed.from_config is not None:
    _take_from(pathlib.Path(parsed.from_config), parsed)
  values = {f.name: getattr(parsed, f.name) for f in dataclasses.fields(Config)}
  try:
    for name, value in values.items():
      if isinstance(value, list):
        values[name] = tuple(_integer(name, item) for item in value)
    config = Config(**values)
  except ValueError as error:
    raise UsageError(f"--{error}") from error
  if deprecated:
    say(f"deprecated: {', '.join(deprecated)}; use --augmentation", "warning")
  return config


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


def _take_from(path, parsed):
  """Sets the flags that the command line does not, as a run's config.json tells them."""
  names = {field.name for field in dataclasses.fields(Config)}
  given = {name for name in names if parsed[name].present}
  if "augmentation" in given:
    given |= {"shift", "flip"}  # the file's would replace it
  try:
    for name, value in current_flags(read_config(path)["flags"]).items():
      if name not in names:
        raise ValueError(f"{path}: there is no flag {name}")
      if value is None and parsed[name].default is not None:
        raise ValueError(f"{path}: {name} is null")
      if name in OF_A_CALL or value is None or name in given:
        continue
      is_list = isinstance(parsed[name].parser, flags.ListParser)
      if is_list and not (isinstance(value, list) and all(type(item) is int for item in value)):
        raise ValueError(f"{path}: --{name}: expected a list of integers, got {value!r:.99}")
      parsed[name].parse(value)
  except (OSError, ValueError, TypeError, OverflowError, flags.Error) as error:
    raise UsageError(f"--from_config: {error}") from error


def _integer(name, text):
  try:
    return int(text)
  except ValueError:
    raise ValueError(f"{name}: expected integers, got {text!r}") from None


def _without_none(hint):
  if isinstance(hint, types.UnionType):
    return next(part for part in typing.get_args(hint) if part is not types.NoneType)
  return hint
