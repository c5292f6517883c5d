"""How a run shows itself: a bar on a terminal, plain lines elsewhere. All of it on stderr."""

import sys
import time
from typing import Any

from cscjax.training import is_first

LINE_SECONDS = 10.0  # between two lines of a log


class Lines:
  """A line every few seconds."""

  def __init__(self, step: int, total: int):
    self._total = total
    self._first_step, self._began, self._last = step, time.monotonic(), 0.0

  def trained(self, step: int, metrics: dict[str, float], images_per_second: float | None) -> None:
    """Prints a line unless there was one just now."""
    now = time.monotonic()
    if now - self._last < LINE_SECONDS:
      return
    self._last = now
    left = (now - self._began) / (step - self._first_step) * (self._total - step)
    rate = "" if images_per_second is None else f"  {images_per_second:,.0f} images/s"
    self.say(
      f"step {step}/{self._total}  loss {metrics['loss']:.4f}  accuracy {metrics['accuracy']:.4f}"
      f"{rate}  {left / 60:.1f} min left"
    )

  def evaluated(self, row: dict[str, Any]) -> None:
    """Prints the evaluation."""
    number = {name: "nan" if row[name] is None else f"{row[name]:.4f}" for name in ("loss", "accuracy")}
    self.say(
      f"epoch {row['epoch']:g}  {row['split']:<10}  loss {number['loss']}  accuracy {number['accuracy']}"
    )

  def say(self, text: str) -> None:
    """Prints a line."""
    print(text, file=sys.stderr, flush=True)

  def close(self) -> None:
    """Nothing to do."""


class Bar(Lines):
  """A bar of tqdm with loss, accuracy, images a second and the time left; lines are above it."""

  def __init__(self, step: int, total: int):
    from tqdm import tqdm

    super().__init__(step, total)
    self._bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, smoothing=0.1)

  def trained(self, step: int, metrics: dict[str, float], images_per_second: float | None) -> None:
    """Moves the bar."""
    rate = "" if images_per_second is None else f" {images_per_second:,.0f} images/s"
    self._bar.set_postfix_str(f"loss {metrics['loss']:.4f} accuracy {metrics['accuracy']:.4f}{rate}")
    self._bar.update(step - self._bar.n)

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    self._bar.write(text, file=sys.stderr)

  def close(self) -> None:
    """Leaves the bar as it stands."""
    self._bar.close()


class Silent(Lines):
  """Nothing."""

  def trained(self, step: int, metrics: dict[str, float], images_per_second: float | None) -> None:
    """Nothing."""

  def say(self, text: str) -> None:
    """Nothing."""


def create_progress(step: int, total: int, shown: bool) -> Lines:
  """A bar on a terminal if tqdm is installed, else lines; nothing beside the first process."""
  if not (shown and is_first()):
    return Silent(step, total)
  if sys.stderr.isatty():
    try:
      return Bar(step, total)
    except ImportError:
      pass
  return Lines(step, total)
