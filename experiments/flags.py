"""The command-line flags of a run, one for each field of `Config`."""

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

NOT_REPEATED = frozenset({"workdir", "coordinator", "num_processes", "process_id"})
"""Fields that --from_config does not take from the repeated run."""
PATHS = ("data_dir", "cache_dir", "init_from", "compilation_cache", "workdir")
"""Fields that are paths, in which `~` is replaced."""
TOPICS = {
  "model": "Network",
  "dataset": "Data",
  "epochs": "Training",
  "precision": "Precision and devices",
  "coordinator": "Several processes",
  "compilation_cache": "Files, evaluation and checkpoints",
}
"""The topics of the flags in --help, by the field of `Config` with which each begins."""
DEPRECATED = ("shift", "flip")
"""Fields that are replaced by --augmentation."""


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines a flag for each field of `Config`, with its default, help and choices, and --from_config."""
  text = (
    "config.json of a run whose settings are used, except for its workdir and processes. Other flags"
    " take precedence."
  )
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
    else:  # a list flag: its last occurrence replaces earlier ones
      flags.DEFINE_list(name, default and [str(v) for v in default], text, flag_values=values)


def topics() -> dict[str, list[str]]:
  """Returns the topics of --help with the names of their flags, in the order of the fields."""
  found: dict[str, list[str]] = {}
  topic = ""
  for field in dataclasses.fields(Config):
    topic = TOPICS.get(field.name, topic)
    found.setdefault(topic, []).append(field.name)
  return found


def config_from_flags(parsed: flags.FlagValues = flags.FLAGS) -> Config:
  """Returns the configuration of the parsed flags; warns about deprecated flags.

  Raises:
    UsageError: If a value is out of range, or the file of --from_config cannot be used.
  """
  try:
    given = _given(parsed)
    recorded = {} if parsed.from_config is None else _recorded(pathlib.Path(parsed.from_config))
    # --augmentation replaces the recorded shift and flip, and these flags the recorded augmentation.
    replaced = DEPRECATED if "augmentation" in given else ()
    if not given.keys().isdisjoint(DEPRECATED):
      replaced = (*replaced, "augmentation")
    recorded = {name: value for name, value in recorded.items() if name not in replaced}
    config = Config(**(recorded | given))
  except ValueError as error:
    raise UsageError(str(error)) from error
  if deprecated := [f"--{name}" for name in DEPRECATED if name in given]:
    say(f"deprecated: {', '.join(deprecated)}; use --augmentation", "warning")
  return config


@functools.cache
def read_flagfile(path: pathlib.Path) -> dict[str, Any]:
  """Returns the fields of `Config` that a flagfile sets.

  Raises:
    flags.Error: If a flag is unknown or its value cannot be parsed.
  """
  values = flags.FlagValues()
  define_flags(values)
  values(["run", f"--flagfile={path}"])
  return _given(values)


def parse(arguments: Sequence[str]) -> Config:
  """Returns the configuration of a command line of experiments.run; the flags of this process stay.

  Raises:
    UsageError: If a value is out of range, or the file of --from_config cannot be used.
    flags.Error: If a flag is unknown or its value cannot be parsed.
  """
  values = flags.FlagValues()
  define_flags(values)
  values(["run", *arguments])
  return config_from_flags(values)


def _recorded(path: pathlib.Path) -> dict[str, Any]:
  """Returns the fields that --from_config takes from the config.json of a run."""
  try:
    fields = recorded_fields(read_config(path)["flags"])
    paths = {name: expanded(fields[name]) for name in PATHS if name in fields}
  except ValueError as error:
    raise UsageError(f"--from_config: {path}: {in_flags(error)}") from error
  except OSError as error:
    raise UsageError(f"--from_config: cannot read {path}: {error.strerror}") from error
  return {name: value for name, value in (fields | paths).items() if name not in NOT_REPEATED}


def _given(parsed: flags.FlagValues) -> dict[str, Any]:
  """Returns the fields of `Config` whose flags are given."""
  names = [field.name for field in dataclasses.fields(Config) if parsed[field.name].present]
  values = {name: parsed[name].value for name in names}
  return {k: _integers(k, v) if isinstance(v, list) else v for k, v in values.items()}


def _integers(name: str, texts: Sequence[str]) -> tuple[int, ...]:
  try:
    return tuple(map(int, texts))
  except ValueError:
    raise ValueError(f"{name}: expected integers, got {','.join(texts)!r}") from None


def _without_none(hint: Any) -> Any:
  """Returns the type of a type hint such as `int | None` without None."""
  if isinstance(hint, types.UnionType):
    return next(part for part in typing.get_args(hint) if part is not types.NoneType)
  return hint
