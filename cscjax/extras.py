"""Optional dependencies: an import that fails names the extra that installs the package."""

import contextlib
from collections.abc import Iterator

from cscjax.checks import one_line


class MissingExtraError(ImportError):
  """A package of an extra is not installed. The message is one line, with the command to install it."""


@contextlib.contextmanager
def needs(extra: str, reason: str) -> Iterator[None]:
  """Names the extra to install if an import inside the `with` block fails.

  Args:
    extra: The name of an extra of cscjax, as listed in `pyproject.toml`.
    reason: The beginning of the message: what needs which package.

  Yields:
    None. The imports belong inside the block.

  Raises:
    MissingExtraError: If the block raises ImportError.

  Example:
    >>> from cscjax.extras import needs
    >>> with needs("plots", "plots need absent"):
    ...   import absent
    Traceback (most recent call last):
    cscjax.extras.MissingExtraError: plots need absent (...): pip install 'cscjax[plots]'
  """
  try:
    yield
  except ImportError as error:
    raise MissingExtraError(f"{reason} ({one_line(error)}): pip install 'cscjax[{extra}]'") from error
