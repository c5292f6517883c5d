"""How a run shows itself: a bar on a terminal, plain lines elsewhere. All of it on stderr."""

import sys
import time
from typing import Any

from tqdm import tqdm

from cscjax.training import is_first

LINE_SECONDS = 10.0  # between two lines of a log


class Bar:
  """A progress bar with loss, accuracy, images a second and the time left."""

  def __init__(self, step: int, total: int):
    self._bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, smoothing=0.1)

  def trained(self, step: int, metrics: dict[str, float], images_per_second: float | None) -> None:
    """Moves the bar."""
    rate = "" if images_per_second is None else f" {images_per_second:,.0f} images/s"
    self._bar.set_postfix_str(f"loss {metrics['loss']:.4f} accuracy {metrics['accuracy']:.4f}{rate}")
    self._bar.update(step - self._bar.n)

  def evaluated(self, row: dict[str, Any]) -> None:
    """A line above the bar."""
    self._bar.write(_evaluation(row), file=sys.stderr)

  def close(self) -> None:
    """Leaves the bar as it stands."""
    self._bar.close()


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
    _say(
      f"step {step}/{self._total}  loss {metrics['loss']:.4f}  accuracy {metrics['accuracy']:.4f}"
      f"{rate}  {left / 60:.1f} min left"
    )

  def evaluated(self, row: dict[str, Any]) -> None:
    """Prints the evaluation."""
    _say(_evaluation(row))

  def close(self) -> None:
    """Nothing to do."""


class Silent:
  """Nothing: the first process of a run shows what all of them do."""

  def trained(self, step: int, metrics: dict[str, float], images_per_second: float | None) -> None:
    """Nothing."""

  def evaluated(self, row: dict[str, Any]) -> None:
    """Nothing."""

  def close(self) -> None:
    """Nothing."""


def create_progress(step: int, total: int) -> Bar | Lines | Silent:
  """A bar where stderr is a terminal, else lines; nothing beside the first process."""
  if not is_first():
    return Silent()
  return Bar(step, total) if sys.stderr.isatty() else Lines(step, total)


def _evaluation(row):
  def number(value):
    return "nan" if value is None else f"{value:.4f}"

  return (
    f"epoch {row['epoch']:g}  {row['split']:<10}  loss {number(row['loss'])}"
    f"  accuracy {number(row['accuracy'])}"
  )


def _say(text):
  print(text, file=sys.stderr, flush=True)
