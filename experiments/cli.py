"""What all commands share: flags, and errors of the user as one line and exit code 2."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from cscjax.data import DataError
from experiments import environment


class UsageError(Exception):
  """The command cannot do what it was asked to; the message says why."""


def run(main: Callable[[], int | None]) -> None:
  """Parses the flags, runs `main()` and exits with what it returns (None is 0).

  Bad flags, positional arguments, `UsageError`, `DataError` and a lack of memory end in one line on
  stderr and exit code 2, Ctrl-C in exit code 130. Every other exception is a bug and keeps its
  traceback. Log messages below WARNING are shown only with --verbosity=0 or more.
  """
  app.run(lambda _: _guarded(main), flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
  except (flags.Error, UnicodeDecodeError) as error:  # the latter from a flagfile that is no text
    _fail(error)
  if flags.FLAGS["verbosity"].using_default_value:
    # absl's default would show the libraries' INFO messages.
    flags.FLAGS.verbosity = logging.WARNING
  if len(rest) > 1:
    _fail(UsageError(f"unexpected argument: {' '.join(rest[1:])}"))
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it writes
  return rest


def _guarded(main: Callable[[], int | None]) -> int | None:
  meets_others = getattr(flags.FLAGS, "coordinator", None) is not None
  try:
    problem = environment.prepare(use_devices=not meets_others)
    if problem:
      raise UsageError(problem)
    return main()
  except (UsageError, DataError) as error:
    _fail(error)
  except (RuntimeError, MemoryError) as error:  # JAX's errors are of the former
    if isinstance(error, RuntimeError) and not str(error).startswith("RESOURCE_EXHAUSTED"):
      raise
    reason = str(error).partition("\n")[0] or type(error).__name__
    _fail(UsageError(f"out of memory; lower --batch_size, --width or --depth ({reason})"))
  except KeyboardInterrupt:
    return 130


def say(error: Exception | str) -> None:
  """Prints an error as one line on stderr."""
  print("error:", " ".join(str(error).split()), file=sys.stderr, flush=True)


def _fail(error: Exception) -> NoReturn:
  say(error)
  sys.exit(2)
