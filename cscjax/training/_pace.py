"""How many steps to give to the device at once."""

import contextlib
import time
from collections.abc import Iterator

from cscjax.training._processes import largest


class Pace:
  """Sizes calls to last a given time, and measures their rate.

  Long enough for the dispatch not to matter, short enough for progress and signals; what is computed
  does not depend on it. The processes of a run, each with its own clock, agree on the size.

  Attributes:
    seconds: That a call should last.
    latest: Images a second of the last call; None before the second one (the first compiles).
  """

  def __init__(self, seconds: float):
    self.seconds = seconds
    self.latest: float | None = None
    self._steps_per_second: float | None = None
    self._compiled = False
    self._images, self._elapsed = 0, 0.0

  @contextlib.contextmanager
  def call(self, remaining: int, batch_size: int) -> Iterator[int]:
    """Times the block, which has to do as many steps as the context gives, in 1..remaining."""
    limit = int(self.seconds * self._steps_per_second) if self._steps_per_second else 1
    count = largest(max(1, min(limit, remaining)))
    start = time.perf_counter()
    yield count
    elapsed = max(time.perf_counter() - start, 1e-9)
    if not self._compiled:
      self._compiled = True
      return
    self._steps_per_second, self.latest = count / elapsed, count * batch_size / elapsed
    self._images, self._elapsed = self._images + count * batch_size, self._elapsed + elapsed

  def rate(self) -> float | None:
    """Mean images a second since the last call of `rate`, compilation apart; None if unknown."""
    rate = self._images / self._elapsed if self._elapsed else None
    self._images, self._elapsed = 0, 0.0
    return rate
