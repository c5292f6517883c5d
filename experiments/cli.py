"""What all commands share: flags, signals, output, and errors as one line and exit code 2."""

import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from cscjax.data import DataError
from cscjax.extras import MissingExtraError
from cscjax.runs import RunError
from experiments import environment, output, signals

flags.disclaim_key_flags()  # `define_path` defines flags for the module that calls it


class UsageError(Exception):
  """The command cannot do what it was asked to; the message says why."""


class _PathParser(flags.ArgumentParser):
  """See `expanded`."""

  def parse(self, argument: str) -> str:
    return expanded(argument)


def expanded(path: str) -> str:
  """A path with `~` and `~user` at its beginning replaced; ValueError if no library can take it."""
  is_foreign = any("\ud800" <= character <= "\udfff" for character in path)  # to the locale
  if not path or "\0" in path or is_foreign:
    raise ValueError("expected a path, not empty, in the characters of the locale")
  found = os.path.expanduser(path)
  if found.startswith("~"):
    raise ValueError(f"there is no user of this name; a folder that is named so is ./{path}")
  return found


def define_path(
  name: str, default: str | None, help_text: str, flag_values: flags.FlagValues = flags.FLAGS
) -> None:
  """Defines a flag whose value is a path, in which `~` and `~user` are replaced wherever it is given."""
  flags.DEFINE(_PathParser(), name, default, help_text, flag_values)


def run(main: Callable[[], int | None], *, prints_only: bool = False) -> None:
  """Parses the flags, runs `main()` and exits with what it returns (None is 0).

  Bad flags, positional arguments, `UsageError`, `RunError`, `DataError`, `MissingExtraError`, `OSError`
  (for example a full disk) and a lack of memory end in one line on stderr and exit code 2, a signal ends
  in exit code 128 + its number. Every other exception is a bug and keeps its traceback. Warnings are one
  line each; log messages below WARNING are shown only with --verbosity=0 or more.

  The command goes on where nobody reads stdout or stderr any more, or where they cannot be written; the
  latter is told by a warning.

  Args:
    main: The command.
    prints_only: Whether the results of the command are on stdout alone. If it cannot be written, that is
      then an error with exit code 2.
  """
  output.guard()
  warnings.showwarning = _show_warning
  signals.watch()
  signals.set_mode("interrupt")
  try:
    app.run(lambda _: _guarded(main), flags_parser=_parse)
  except SystemExit as ended:
    code = ended.code
  except signals.Interrupted as ended:
    code = ended.code
  signals.set_mode("remember")  # the results are complete; a second signal ends what may still take time
  problem = output.lost()
  if problem:
    say(f"cannot write to stdout: {problem}", "error" if prints_only else "warning")
    code = code or 2 * prints_only
  sys.exit(code)


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
  except (flags.Error, ValueError) as error:  # ValueError: --nonorm=1, a flagfile that is no text
    _fail(error)
  if flags.FLAGS["verbosity"].using_default_value:
    # absl's default would show the libraries' INFO messages.
    flags.FLAGS.verbosity = logging.WARNING
  if len(rest) > 1:
    _fail(UsageError(f"unexpected argument: {' '.join(rest[1:])}"))
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it writes
    logging.get_absl_logger().addFilter(_is_news)
  return rest


def _is_news(record):
  """Whether a log message is none of Orbax, which logs errors that it then raises or that do no harm."""
  return "orbax" not in pathlib.Path(record.pathname).parts


def _guarded(main: Callable[[], int | None]) -> int | None:
  meets_others = getattr(flags.FLAGS, "coordinator", None) is not None
  leaves_devices = getattr(flags.FLAGS, "jobs", 1) > 1  # to the processes that it starts
  try:
    problem = environment.prepare(use_devices=not (meets_others or leaves_devices))
    if problem:
      raise UsageError(problem)
    return main()
  except (UsageError, RunError, DataError, MissingExtraError, OSError) as error:
    _fail(error)
  except (RuntimeError, MemoryError) as error:  # JAX's errors are of the former
    if isinstance(error, RuntimeError) and not str(error).startswith("RESOURCE_EXHAUSTED"):
      raise
    reason = str(error).partition("\n")[0] or type(error).__name__
    _fail(UsageError(f"out of memory; lower --batch_size, --width or --depth ({reason})"))
  except KeyboardInterrupt as error:
    return getattr(error, "code", 130)


def in_flags(problem: Exception | str) -> str:
  """A message; the argument that an error of the library begins with becomes the flag of that name."""
  text = str(problem)
  is_argument = isinstance(problem, Exception) and text.partition(": ")[0] in flags.FLAGS
  return f"--{text}" if is_argument else text


def say(problem: Exception | str, kind: str = "error") -> None:
  """Prints an error, or a warning, as one line on stderr."""
  text = " ".join(in_flags(problem).split())
  text = text.encode(errors="backslashreplace").decode()  # flags may have bytes that are no text
  print(f"{kind}:", text, file=sys.stderr, flush=True)


def _show_warning(message, category, filename, lineno, file=None, line=None):
  say(str(message), "warning")


def _fail(error: Exception) -> NoReturn:
  say(error)
  sys.exit(2)
