"""Optional dependencies: an import that fails names the extra that brings the package."""

import contextlib
from collections.abc import Iterator

from cscjax.checks import one_line


class MissingExtraError(ImportError):
  """A package of an extra is not installed; the message, one line, has the command that installs it."""


@contextlib.contextmanager
def needs(extra: str, reason: str) -> Iterator[None]:
  """Names the extra to install if an import inside the `with` block fails.

      with needs("plots", "plots need matplotlib"):
        from matplotlib.figure import Figure

  Args:
    extra: An extra of this distribution, as `pyproject.toml` lists them.
    reason: What needs which package, the beginning of the message.

  Raises:
    MissingExtraError: If the block raises ImportError.
  """
  try:
    yield
  except ImportError as error:
    raise MissingExtraError(f"{reason} ({one_line(error)}): pip install 'cscjax[{extra}]'") from error
