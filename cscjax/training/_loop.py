"""The training loop: dispatches steps, evaluates, keeps checkpoints, stops where it has to."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import jax
import numpy as np

from cscjax.training._checkpoints import Checkpoints
from cscjax.training._devices import process_max
from cscjax.training._metrics_log import MetricsLog
from cscjax.training._state import EpochMetrics, TrainState
from cscjax.training._trainer import Examples, Trainer

Status = Literal["ok", "diverged", "interrupted"]

SAVING_FRACTION = 0.02
"""Share of the time that the checkpoints at evaluations may take."""


class Progress(Protocol):
  """Where the loop reports to: a progress bar or log lines."""

  def trained(self, step: int, metrics: dict[str, float], images_per_second: float | None) -> None:
    """After each call of the device: the epoch's mean loss and accuracy so far, and the rate."""
    ...

  def evaluated(self, row: dict[str, Any]) -> None:
    """After each evaluation, with its row of the metrics."""
    ...


@dataclasses.dataclass(frozen=True)
class Plan:
  """When what happens.

  Attributes:
    total_steps: The last step.
    steps_per_epoch: Steps between two shuffles.
    split: The split that is evaluated: "test", or "validation" with "test" after the last step alone.
    evaluate_epochs: Epochs between evaluations; there is one after the last step too.
    checkpoint_seconds: Seconds after which a checkpoint is written, also within an epoch; see `fit` for
      those at evaluations.
    dispatch_seconds: That a call of the device should last.
  """

  total_steps: int
  steps_per_epoch: int
  split: str = "test"
  evaluate_epochs: int = 1
  checkpoint_seconds: float = 300.0
  dispatch_seconds: float = 1.0

  def splits_after(self, step: int) -> list[str]:
    """The splits that are evaluated after `step` steps."""
    if step == self.total_steps:
      return [self.split] if self.split == "test" else [self.split, "test"]
    period = self.steps_per_epoch * self.evaluate_epochs
    return [self.split] if step > 0 and step % period == 0 else []

  def epoch_end(self, step: int) -> int:
    """The end of the epoch that the next step is in, or of the run."""
    return min((step // self.steps_per_epoch + 1) * self.steps_per_epoch, self.total_steps)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run ended.

  Attributes:
    status: "ok" after the last step, "diverged" where a state was not finite, "interrupted".
    state: The last state.
    seconds: Wall time, that of earlier calls on the same run included.
  """

  status: Status
  state: TrainState
  seconds: float


def fit(
  trainer: Trainer,
  plan: Plan,
  state: TrainState,
  data: dict[str, Examples],
  key: jax.Array,
  *,
  log: MetricsLog,
  checkpoints: Checkpoints,
  progress: Progress,
  stopped: Callable[[], bool],
  seconds: float = 0.0,
) -> Outcome:
  """Trains from `state` to the end of the plan.

  Each evaluation appends its rows to `log`. A checkpoint follows the first evaluation, the last one, and
  those between if checkpoints then take at most `SAVING_FRACTION` of the time. Apart from evaluations, one
  is written when `plan.checkpoint_seconds` have passed since the last, and when the run is stopped. A
  state that is not finite is not saved.

  When checkpoints are written depends on the clock, but no result does: a run that was killed resumes at
  its last checkpoint, drops the rows of later steps, and computes the same rows and states again.

  Args:
    trainer: What a step is.
    plan: When what happens.
    state: Where to begin, at any step; its memory is taken over.
    data: The splits: "train", and those that the plan evaluates.
    key: Of the run, for the order of the examples and their augmentation.
    log: Holds the rows up to `state`; it is on disk before a checkpoint is written.
    checkpoints: Where states are kept.
    progress: Told after every call of the device.
    stopped: Asked as often, and has to answer the same on every process; once it is true the run ends
      with a checkpoint.
    seconds: Wall time that the run had taken before.
  """
  began = time.perf_counter() - seconds
  saved, saving_took = time.perf_counter(), 0.0
  chunks, evaluation_chunks = ChunkSizer(plan.dispatch_seconds), ChunkSizer(plan.dispatch_seconds)
  step = int(state.step)
  due = plan.splits_after(step)
  written = {row["split"] for row in log.rows if row["step"] == step}
  if due and not written.issuperset(["train", *due]):
    log.drop_after(step - 1)  # some of its rows were lost, or it has become the last step
  state, data = trainer.put((state, data))  # JAX puts no key on the devices of other processes
  evaluated_step = process_max(log.rows[-1]["step"] if log.rows else 0)

  def elapsed():
    return time.perf_counter() - began

  def save():
    nonlocal saved, saving_took
    start = time.perf_counter()
    log.sync()
    checkpoints.save(state, elapsed())
    saved = time.perf_counter()
    saving_took = saved - start

  while True:
    due = plan.splits_after(step) if step > evaluated_step else []
    if not due and step >= plan.total_steps:
      return Outcome("ok", state, elapsed())
    if stopped():
      save()
      return Outcome("interrupted", state, elapsed())

    if due:
      rows = [{"split": "train", **state.metrics.means(), "images_per_second": chunks.rate()}]
      for split in due:
        found = _evaluate(trainer, state, data[split], evaluation_chunks, stopped)
        rows.append({"split": split, **found, "images_per_second": evaluation_chunks.rate()})
      if stopped():
        continue  # the evaluation was cut short
      rate = float(np.asarray(trainer.schedule(step - 1)))
      place = {"step": step, "epoch": step / plan.steps_per_epoch}
      for row in rows:
        log.write({**place, **row, "learning_rate": rate, "seconds": elapsed()})
        progress.evaluated(log.rows[-1])
      evaluated_step = step
      # Process 0 alone writes, so that the processes of a run need not agree on when.
      interval = min(saving_took / SAVING_FRACTION, plan.checkpoint_seconds)
    else:
      with chunks.call(plan.epoch_end(step) - step, trainer.batch_size) as count:
        state = jax.block_until_ready(trainer.train(state, data["train"], key, np.int32(count)))
      if int(state.bad_step) >= 0:
        return Outcome("diverged", state, elapsed())
      step += count
      progress.trained(step, state.metrics.means(), chunks.latest)
      interval = plan.checkpoint_seconds
    is_last = evaluated_step >= plan.total_steps
    if is_last or time.perf_counter() - saved > interval:
      save()


def _evaluate(trainer, state, data, chunks, stopped) -> dict[str, float]:
  """Mean loss and accuracy over a split, or over a part of it once `stopped`."""
  sums, first, batches = EpochMetrics.zero(), 0, math.ceil(len(data.labels) / trainer.batch_size)
  while first < batches and not stopped():
    with chunks.call(batches - first, trainer.batch_size) as count:
      sums = trainer.evaluate(state, data, sums, np.int32(first), np.int32(count))
      jax.block_until_ready(sums)
    first += count
  return sums.means()


class ChunkSizer:
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
    count = process_max(max(1, min(limit, remaining)))
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
