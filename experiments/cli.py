"""What all commands share: flags, signals, output, and errors as one line with exit code 2."""

import contextlib
import functools
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from logging import LogRecord
from typing import NoReturn, TextIO

from absl import app, flags, logging

from cscjax.data import DataError
from cscjax.extras import MissingExtraError
from cscjax.runs import RunError
from experiments import environment, output, signals, usage

flags.disclaim_key_flags()  # the flags of `define_path` belong to the module that calls it


class UsageError(Exception):
  """The command cannot do what it was asked to do; the message says why."""


class _PathParser(flags.ArgumentParser):
  """Parses a path with `expanded`."""

  def parse(self, argument: str) -> str:
    return expanded(argument)

  def flag_type(self) -> str:
    return "path"


def expanded(path: str) -> str:
  """Replaces `~` and `~user` at the beginning of a path.

  Raises:
    ValueError: If the path is empty, has characters that cannot be used, or names an unknown user.
  """
  is_undecodable = any("\ud800" <= character <= "\udfff" for character in path)  # in this locale
  if not path or "\0" in path or is_undecodable:
    raise ValueError("expected a path that is not empty, in the character encoding of the locale")
  found = os.path.expanduser(path)
  if found.startswith("~"):
    raise ValueError(f"no such user; for a directory of this name write ./{path}")
  return found


def define_path(
  name: str, default: str | None, help_text: str, flag_values: flags.FlagValues = flags.FLAGS
) -> None:
  """Defines a flag whose value is a path, in which `~` and `~user` are replaced by home directories."""
  flags.DEFINE(_PathParser(), name, default, help_text, flag_values)


def known(flag: str, names: Sequence[str], choices: Iterable[str]) -> Sequence[str]:
  """Returns the names that a flag lists; raises UsageError if one of them is not a choice."""
  choices = list(choices)
  unknown = [name for name in names if name not in choices]
  if unknown:
    raise UsageError(f"--{flag}: unknown {', '.join(unknown)}; choose from {', '.join(choices)}")
  return names


@contextlib.contextmanager
def writing(flag: str, path: pathlib.Path) -> Iterator[None]:
  """Turns an error of the disk into a usage error of the flag that names the path."""
  try:
    yield
  except OSError as error:
    raise UsageError(f"--{flag}: cannot write to {path}: {error.strerror}") from error


def run(
  main: Callable[[], int | None],
  *,
  prints_only: bool = False,
  topics: Mapping[str, Sequence[str]] | None = None,
) -> None:
  """Parses the flags, calls `main()` and exits with the code that it returns (None means 0).

  `-h` and `--help` print the docstring of the command and its flags, and end it with exit code 0. As
  always with absl, the last occurrence of a flag counts; a warning names flags that have no effect
  because a flagfile comes after them.

  Bad flags, positional arguments, `UsageError`, `RunError`, `DataError`, `MissingExtraError`, `OSError`
  (for example a full disk) and a lack of memory give one line on stderr and exit code 2. A signal gives
  exit code 128 + its number. Every other exception is a bug and shows its traceback. Each warning is one
  line; log messages below WARNING are only shown with --verbosity=0 or higher.

  The command continues if the reader of stdout or stderr has gone away, or if they cannot be written; in
  the latter case a warning is printed at the end.

  Args:
    main: The command.
    prints_only: Whether stdout is the only place of the results. If it cannot be written, the command
      then ends with an error and exit code 2.
    topics: Topics of `--help`, with the names of their flags. Other flags of the command come first.
  """
  output.guard()
  warnings.showwarning = _show_warning
  signals.watch()
  signals.set_mode("interrupt")
  try:
    app.run(lambda _: _guarded(main), flags_parser=functools.partial(_parse, topics=topics or {}))
  except SystemExit as ended:
    code = ended.code
  except signals.Interrupted as ended:
    code = ended.code
  signals.set_mode("remember")  # the results are complete; a second signal ends a slow exit
  problem = output.lost()
  if problem:
    say(f"cannot write to stdout: {problem}", "error" if prints_only else "warning")
    code = code or 2 * prints_only
  sys.exit(code)


def _parse(argv: Sequence[str], topics: Mapping[str, Sequence[str]]) -> list[str]:
  if usage.is_asked_for(argv[1:]):
    print(usage.text(topics))
    sys.exit(0)
  try:
    replaced = usage.replaced(argv[1:])
    rest = flags.FLAGS(argv)
  except SystemExit:  # another help flag of absl has printed its text
    sys.exit(0)
  except (flags.Error, ValueError) as error:  # ValueError: --nonorm=1, a flagfile that is not text
    _fail(flags.Error(str(error).removeprefix("ERROR:: ")))
  if flags.FLAGS["verbosity"].using_default_value:
    # The default of absl would show INFO messages of libraries.
    flags.FLAGS.verbosity = logging.WARNING
  if len(rest) > 1:
    _fail(UsageError(f"unexpected argument: {' '.join(rest[1:])}"))
  for name, file in replaced.items():
    say(f"--{name} has no effect: --flagfile={file} comes after it and contains it, too", "warning")
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file that it writes
    logging.get_absl_logger().addFilter(_is_not_orbax)
  return rest


def _is_not_orbax(record: LogRecord) -> bool:
  """Whether a log message is not from Orbax, which logs errors that are harmless or raised anyway."""
  return "orbax" not in pathlib.Path(record.pathname).parts


def _guarded(main: Callable[[], int | None]) -> int | None:
  has_peers = getattr(flags.FLAGS, "coordinator", None) is not None
  starts_jobs = getattr(flags.FLAGS, "jobs", 1) > 1  # whose processes use the devices
  try:
    problem = environment.prepare(use_devices=not (has_peers or starts_jobs))
    if problem:
      raise UsageError(problem)
    return main()
  except (UsageError, RunError, DataError, MissingExtraError, OSError) as error:
    _fail(error)
  except (RuntimeError, MemoryError) as error:  # errors of JAX are RuntimeErrors
    if isinstance(error, RuntimeError) and not str(error).startswith("RESOURCE_EXHAUSTED"):
      raise
    reason = str(error).partition("\n")[0] or type(error).__name__
    _fail(UsageError(f"out of memory; lower --batch_size, --width or --depth ({reason})"))
  except KeyboardInterrupt as error:
    return getattr(error, "code", 130)


def in_flags(problem: Exception | str) -> str:
  """Returns a message in which the argument that an error of the library names becomes a flag."""
  text = str(problem)
  is_argument = isinstance(problem, Exception) and text.partition(": ")[0] in flags.FLAGS
  return f"--{text}" if is_argument else text


def say(problem: Exception | str, kind: str = "error") -> None:
  """Prints an error, or another kind of message such as a warning, as one line on stderr."""
  text = " ".join(in_flags(problem).split())
  text = text.encode(errors="backslashreplace").decode()  # flags may contain bytes that are not text
  print(f"{kind}:", text, file=sys.stderr, flush=True)


def _show_warning(
  message: Warning | str,
  category: type[Warning],
  filename: str,
  lineno: int,
  file: TextIO | None = None,
  line: str | None = None,
) -> None:
  """Replaces `warnings.showwarning`."""
  say(str(message), "warning")


def _fail(error: Exception) -> NoReturn:
  say(error)
  sys.exit(2)
