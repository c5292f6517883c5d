"""The training loop of `fit`: runs the steps, evaluates, logs metrics and writes checkpoints."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np

from cscjax import checks
from cscjax.training._checkpoints import Checkpoints
from cscjax.training._devices import process_max
from cscjax.training._metrics_log import MetricsLog
from cscjax.training._state import EpochMetrics, TrainState
from cscjax.training._trainer import Examples, Trainer

Status = Literal["ok", "diverged", "interrupted"]

SAVING_FRACTION = 0.02
"""Largest fraction of the time that the checkpoints at evaluations may take."""


class Progress(Protocol):
  """The protocol of objects that receive the progress of `fit`, such as a progress bar or a logger."""

  def trained(self, step: int, metrics: dict[str, float], images_per_second: float | None) -> None:
    """Called after each compiled call of training steps.

    Args:
      step: Number of completed steps.
      metrics: Mean "loss" and "accuracy" of the current epoch so far.
      images_per_second: Images per second of this call; None for the first call, which compiles.
    """
    ...

  def evaluated(self, row: dict[str, Any]) -> None:
    """Called after each evaluation, once for each of its rows.

    Args:
      row: The row of the metrics, with the keys of `MetricsLog.write`.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Plan:
  """The lengths of a run and its epochs, and when `fit` evaluates and writes checkpoints.

  Attributes:
    total_steps: Number of steps of the run, >= 1.
    steps_per_epoch: Number of steps of an epoch, >= 1. The examples are shuffled before each epoch.
    split: The split that is evaluated. "test", or "validation", with which "test" is evaluated only
      after the last step. The default is "test".
    evaluate_epochs: Number of epochs between evaluations, >= 1. The run is also evaluated after its last
      step. The default is 1.
    checkpoint_seconds: Seconds >= 0 after which a checkpoint is written, also within an epoch. See `fit`
      for the checkpoints at evaluations. The default is 300.
    dispatch_seconds: Intended duration of a compiled call of many steps, in seconds >= 0. The default is
      1.
    keep_best: Whether the checkpoint with the highest accuracy on `split` is kept, which must then be
      "validation": a checkpoint that is chosen on the test set has no honest test accuracy. The default
      is False.

  Raises:
    ValueError: If a value is out of range, or if `keep_best` is set and `split` is "test".

  Example:
    >>> from cscjax import training
    >>> plan = training.Plan(total_steps=300, steps_per_epoch=100, split="validation")
    >>> plan.splits_after(100), plan.splits_after(300)
    (['validation'], ['validation', 'test'])
  """

  total_steps: int
  steps_per_epoch: int
  split: str = "test"
  evaluate_epochs: int = 1
  checkpoint_seconds: float = 300.0
  dispatch_seconds: float = 1.0
  keep_best: bool = False

  def __post_init__(self) -> None:
    for name in ("total_steps", "steps_per_epoch", "evaluate_epochs"):
      checks.positive_int(name, getattr(self, name))
    checks.one_of("split", self.split, ("test", "validation"))
    for name in ("checkpoint_seconds", "dispatch_seconds"):
      checks.in_range(name, getattr(self, name), 0)
    if checks.boolean("keep_best", self.keep_best) and self.split == "test":
      checks.fail("keep_best", True, "False without a validation split on which to choose")

  def splits_after(self, step: int) -> list[str]:
    """Returns the splits that are evaluated after a number of steps.

    Args:
      step: Number of completed steps.

    Returns:
      The names of the splits; empty if nothing is evaluated.
    """
    if step == self.total_steps:
      return [self.split] if self.split == "test" else [self.split, "test"]
    period = self.steps_per_epoch * self.evaluate_epochs
    return [self.split] if step > 0 and step % period == 0 else []

  def epoch_end(self, step: int) -> int:
    """Returns the step at which the current epoch ends, or the run if it ends earlier.

    Args:
      step: Number of completed steps.

    Returns:
      The number of completed steps at the end.
    """
    return min((step // self.steps_per_epoch + 1) * self.steps_per_epoch, self.total_steps)


class Outcome(NamedTuple):
  """The result of `fit`.

  Attributes:
    status: "ok" if the run is complete, "diverged" if a loss or parameter was not finite, "interrupted"
      if `stopped` ended the run.
    state: The last state.
    seconds: Wall time in seconds, including that of earlier calls for the same run.
    rows: The metrics of each evaluation, oldest first: for each split a dict with the keys of
      `MetricsLog.write`.
  """

  status: Status
  state: TrainState
  seconds: float
  rows: list[dict[str, Any]]

  @property
  def variables(self) -> dict[str, Any]:
    """The trained variables of the model, as `model.apply` takes them."""
    return {"params": self.state.params, **self.state.variables}


def run_loop(
  trainer: Trainer,
  plan: Plan,
  state: TrainState,
  data: dict[str, Examples],
  key: jax.Array,
  *,
  log: MetricsLog,
  checkpoints: Checkpoints | None,
  progress: Progress,
  stopped: Callable[[], bool],
  seconds: float,
) -> Outcome:
  """Trains a network from `state` to the end of the plan; see `fit`, whose arguments these are.

  Args:
    trainer: The compiled training step and evaluation.
    plan: The lengths of the run and its epochs, and when to evaluate and to write checkpoints.
    state: The state to start from, at any step. Its arrays are donated and cannot be used afterwards.
    data: The splits by name: "train", and those that the plan evaluates.
    key: Random key of the order of the examples and their augmentation.
    log: The metrics of the run, with the rows up to `state`. They are on disk before a checkpoint is
      written.
    checkpoints: Where the checkpoints are written; None for none.
    progress: Receives the progress after every compiled call.
    stopped: Called before every compiled call.
    seconds: Wall time that the run had taken before, in seconds.
  """
  began = time.perf_counter() - seconds
  saved, saving_took = time.perf_counter(), 0.0
  chunks, evaluation_chunks = ChunkSizer(plan.dispatch_seconds), ChunkSizer(plan.dispatch_seconds)
  step = int(state.step)
  due = plan.splits_after(step)
  written = {row["split"] for row in log.rows if row["step"] == step}
  if due and not written.issuperset(["train", *due]):
    log.drop_after(step - 1)  # some rows of this step were lost, or it has become the last step
  # The key is not put, because JAX cannot put keys on the devices of other processes.
  state, data = trainer.put((state, data))
  evaluated_step = process_max(log.rows[-1]["step"] if log.rows else 0)

  def elapsed() -> float:
    return time.perf_counter() - began

  def accuracy() -> float | None:
    """Returns the accuracy of the state by which the best checkpoint is chosen."""
    rows = [row for row in log.rows if row["step"] == step and row["split"] == plan.split]
    return rows[0]["accuracy"] if rows else None

  def is_best() -> bool:
    """Returns whether a checkpoint of the state would be the best one."""
    new = accuracy()
    if not plan.keep_best or checkpoints is None or new is None:
      return False
    best = checkpoints.best()
    return best is None or new > best.accuracy

  def save() -> None:
    nonlocal saved, saving_took
    if checkpoints is None:
      return
    start = time.perf_counter()
    log.sync()
    checkpoints.save(state, elapsed(), accuracy=accuracy(), keep_best=plan.keep_best)
    saved = time.perf_counter()
    saving_took = saved - start

  if is_best():
    save()  # a kill has prevented that the checkpoint of this step got its accuracy
  while True:
    due = plan.splits_after(step) if step > evaluated_step else []
    if not due and step >= plan.total_steps:
      return Outcome("ok", state, elapsed(), log.rows)
    if stopped():
      save()
      return Outcome("interrupted", state, elapsed(), log.rows)

    if due:
      rows = [{"split": "train", **state.metrics.means(), "images_per_second": chunks.rate()}]
      for split in due:
        found = _evaluate(trainer, state, data[split], evaluation_chunks, stopped)
        rows.append({"split": split, **found, "images_per_second": evaluation_chunks.rate()})
      if stopped():
        continue  # the evaluation is incomplete
      rate = None if trainer.schedule is None else float(np.asarray(trainer.schedule(step - 1)))
      place = {"step": step, "epoch": step / plan.steps_per_epoch}
      for row in rows:
        log.write({**place, **row, "learning_rate": rate, "seconds": elapsed()})
        progress.evaluated(log.rows[-1])
      evaluated_step = step
      # Only process 0 writes, so the processes need not agree on when to write.
      interval = min(saving_took / SAVING_FRACTION, plan.checkpoint_seconds)
    else:
      with chunks.call(plan.epoch_end(step) - step, trainer.batch_size) as count:
        state = jax.block_until_ready(trainer.train(state, data["train"], key, np.int32(count)))
      if int(state.bad_step) >= 0:
        return Outcome("diverged", state, elapsed(), log.rows)
      step += count
      progress.trained(step, state.metrics.means(), chunks.latest)
      interval = plan.checkpoint_seconds
    is_last = evaluated_step >= plan.total_steps
    if is_last or is_best() or time.perf_counter() - saved > interval:
      save()


def _evaluate(
  trainer: Trainer,
  state: TrainState,
  data: Examples,
  chunks: "ChunkSizer",
  stopped: Callable[[], bool],
) -> dict[str, float]:
  """Returns mean loss and accuracy of a split, or of a part of it if `stopped` returns True."""
  sums, first, batches = EpochMetrics.zero(), 0, math.ceil(len(data.labels) / trainer.batch_size)
  while first < batches and not stopped():
    with chunks.call(batches - first, trainer.batch_size) as count:
      sums = trainer.evaluate(state, data, sums, np.int32(first), np.int32(count))
      jax.block_until_ready(sums)
    first += count
  return sums.means()


class ChunkSizer:
  """Chooses the number of steps of each compiled call from a duration, and measures images per second.

  The calls should be long compared with the overhead of a dispatch, and short enough for progress
  reports and signals. The results do not depend on the number. The processes of a run, which have
  different clocks, agree on it.

  Attributes:
    seconds: Intended duration of a call.
    latest: Images per second of the last call; None before the second call, as the first one compiles.
  """

  def __init__(self, seconds: float) -> None:
    self.seconds = seconds
    self.latest: float | None = None
    self._steps_per_second: float | None = None
    self._compiled = False
    self._images, self._elapsed = 0, 0.0

  @contextlib.contextmanager
  def call(self, remaining: int, batch_size: int) -> Iterator[int]:
    """Yields the number of steps to perform, between 1 and `remaining`, and times the with block."""
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
    """Returns the mean images per second since the last call of `rate`, without compilation.

    Returns:
      The rate; None if no call was timed since then.
    """
    rate = self._images / self._elapsed if self._elapsed else None
    self._images, self._elapsed = 0, 0.0
    return rate
