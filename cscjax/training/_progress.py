"""The progress of training on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from cscjax.training._devices import is_first

LINE_SECONDS = 10.0  # least time between two lines about training


class Lines:
  """The progress of a run as lines on stderr, with at most one line about training every 10 seconds.

  The time left follows from the mean speed since the first compiled call, and later since the first
  evaluation, because these two compile.

  Implements the protocol `cscjax.training.Progress`. `Lines(step, total)` belongs to a run that starts
  at step `step` and ends at step `total`.

  Example:
    >>> from cscjax.training import Lines
    >>> lines = Lines(step=0, total=100)
    >>> lines.trained(50, {"loss": 1.5, "accuracy": 0.4}, None)  # writes to stderr
    >>> lines.close()
  """

  def __init__(self, step: int, total: int):
    self._total = total
    self._last = 0.0
    self._compiled_at = step, time.monotonic()
    self._evaluated = False

  def trained(self, step: int, metrics: dict[str, float], images_per_second: float | None) -> None:
    """Prints the step, its metrics and the time left, unless the last such line is less than 10 s old.

    Args:
      step: Number of training steps done.
      metrics: "loss" and "accuracy" of the current epoch.
      images_per_second: Speed of the last compiled call; None for the first call, which compiles.
    """
    if images_per_second is None:
      self._compiled(step)
    now = time.monotonic()
    if now - self._last < LINE_SECONDS:
      return
    self._last = now
    rate = "" if images_per_second is None else f"  {images_per_second:,.0f} images/s"
    self.say(
      f"step {step}/{self._total}  loss {metrics['loss']:.4f}  accuracy {metrics['accuracy']:.4f}"
      f"{rate}{self._left(step, now)}"
    )

  def evaluated(self, row: dict[str, Any]) -> None:
    """Prints the loss and the accuracy of an evaluation.

    Args:
      row: A row of metrics.jsonl, with "epoch", "split", "loss" and "accuracy"; the latter two are None
        if they are not finite.
    """
    number = {name: "nan" if row[name] is None else f"{row[name]:.4f}" for name in ("loss", "accuracy")}
    self.say(
      f"epoch {row['epoch']:g}  {row['split']:<10}  loss {number['loss']}  accuracy {number['accuracy']}"
    )
    if row["split"] != "train" and not self._evaluated:
      self._evaluated = True
      self._compiled(row["step"])

  def say(self, text: str) -> None:
    """Prints a line.

    Args:
      text: The line, without its end.
    """
    print(text, file=sys.stderr, flush=True)

  def close(self) -> None:
    """Ends the output; does nothing for lines."""

  def _compiled(self, step: int) -> None:
    """Excludes the time up to now, in which a program was compiled, from the time left."""
    self._compiled_at = step, time.monotonic()

  def _left(self, step: int, now: float) -> str:
    """Returns the time left as text, empty if it is unknown."""
    first, began = self._compiled_at
    if step == first:
      return ""
    return f"  {(now - began) / (step - first) * (self._total - step) / 60:.1f} min left"


class Bar(Lines):
  """A tqdm progress bar with loss, accuracy, images per second and the time left; lines go above it."""

  def __init__(self, step: int, total: int):
    from tqdm import tqdm

    super().__init__(step, total)
    self._bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, smoothing=0.1)

  def trained(self, step: int, metrics: dict[str, float], images_per_second: float | None) -> None:
    """Updates the bar."""
    if images_per_second is None:
      self._compiled(step)
    rate = "" if images_per_second is None else f" {images_per_second:,.0f} images/s"
    self._bar.set_postfix_str(f"loss {metrics['loss']:.4f} accuracy {metrics['accuracy']:.4f}{rate}")
    self._bar.update(step - self._bar.n)

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    self._bar.write(text, file=sys.stderr)

  def close(self) -> None:
    """Closes the bar, which stays visible."""
    self._bar.close()

  def _compiled(self, step: int) -> None:
    self._bar.unpause()


class Silent(Lines):
  """Prints nothing."""

  def trained(self, step: int, metrics: dict[str, float], images_per_second: float | None) -> None:
    """Prints nothing."""

  def say(self, text: str) -> None:
    """Prints nothing."""


def create_progress(step: int, total: int, *, shown: bool) -> Lines:
  """Returns an object that shows the progress of a run on stderr.

  Args:
    step: Number of training steps done before.
    total: Number of steps of the run.
    shown: Whether to show anything. In a run of several processes only process 0 does.

  Returns:
    A progress bar if stderr is a terminal and tqdm is installed, else `Lines`; for `shown` False an
    object that prints nothing. Its method `close` ends the output.

  Example:
    >>> from cscjax import training
    >>> progress = training.create_progress(0, 100, shown=False)
    >>> progress.trained(50, {"loss": 1.5, "accuracy": 0.4}, None)
    >>> progress.close()
  """
  if not (shown and is_first()):
    return Silent(step, total)
  if sys.stderr.isatty():
    try:
      return Bar(step, total)
    except ImportError:
      pass
  return Lines(step, total)
