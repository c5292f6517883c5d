"""Suite `loop`: fraction of an epoch's time that the host takes, in runs with short epochs.

A run does everything that `experiments.run` does between two steps: evaluation after each epoch,
metrics, checkpoints and progress. It trains on random images. Their number is chosen such that an epoch
takes about `EPOCH_SECONDS`, which is the time of ResNet-20 on an H100. The host's fraction is the time
outside of calls of the device. The first epoch is excluded because it compiles the programs.
"""

import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cscjax import training
from cscjax.data import Dataset, Split
from cscjax.runs import Config, build, for_device, make_model, start
from experiments.benchmarks import training as steps

CASES = ("resnet20",)
EPOCHS = 40  # timed epochs
EPOCH_SECONDS = 0.7


def rows(cases: Sequence[str], batch: int, precision: str) -> Iterator[dict[str, Any]]:
  """Measures the cases and yields a row for each.

  Args:
    cases: Names in `training.CASES`.
    batch: Number of images in a step.
    precision: "float32" or "bfloat16".
  """
  for case in cases:
    fields = steps.CASES[case]
    program = steps.our_programs(fields, batch, precision)["jit"]
    steps_per_epoch = max(round(EPOCH_SECONDS / steps.time_steps({case: program.run})[case]), 1)
    config = Config(
      **fields,
      dataset="cifar10",
      augmentation="none",
      batch_size=batch,
      learning_rate=steps.RATE,
      epochs=EPOCHS + 1,
      precision=precision,
    )
    yield {
      "suite": "loop",
      "case": case,
      "device": jax.devices()[0].device_kind,
      "precision": precision,
      "batch": batch,
      "steps_per_epoch": steps_per_epoch,
      **measure(config, random_images(steps_per_epoch * batch)),
    }


def measure(config: Config, dataset: Dataset) -> dict[str, Any]:
  """Trains a network and returns the timed columns of a row, which are means over the timed epochs."""
  model = make_model(for_device(config, jax.default_backend()), dataset.num_classes)
  trainer, plan = build(config, model, dataset)
  timed: Any = TimedTrainer(trainer)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    checkpoints = CountedCheckpoints(folder / "checkpoints")
    progress = Epochs(plan.total_steps, timed, checkpoints)
    state, key = start(config, dataset, trainer)
    training.fit(
      timed,
      dataset,
      epochs=plan,
      key=key,
      state=state,
      log=training.MetricsLog(folder / "metrics.jsonl", last_step=0),
      checkpoints=checkpoints,
      progress=progress,
      stopped=lambda: training.process_max(0) != 0,  # what `experiments.run` asks
    )
    checkpoints.close()
  epochs = len(progress.ends) - 1
  seconds, on_device, saves = np.subtract(progress.ends[-1], progress.ends[0])
  return {
    "epochs": epochs,
    "epoch_seconds": seconds / epochs,
    "host_fraction": (seconds - on_device) / seconds,
    "checkpoints": int(saves),
  }


class TimedTrainer:
  """A trainer that waits for the device after each call and adds up the seconds of the calls."""

  def __init__(self, trainer: training.Trainer):
    self._trainer, self.seconds = trainer, 0.0

  def __getattr__(self, name: str) -> Any:
    return getattr(self._trainer, name)

  def train(self, *arguments: Any) -> training.TrainState:
    """Calls `Trainer.train` and waits for the result."""
    return self._timed(self._trainer.train, arguments)

  def evaluate(self, *arguments: Any) -> training.EpochMetrics:
    """Calls `Trainer.evaluate` and waits for the result."""
    return self._timed(self._trainer.evaluate, arguments)

  def _timed(self, program: Callable, arguments: tuple) -> Any:
    start = time.perf_counter()
    result = jax.block_until_ready(program(*arguments))
    self.seconds += time.perf_counter() - start
    return result


class CountedCheckpoints(training.Checkpoints):
  """Checkpoints that count how often they are saved."""

  saved = 0

  def save(self, state: training.TrainState, seconds: float, **options: Any) -> None:
    """Saves a checkpoint and counts it."""
    super().save(state, seconds, **options)
    self.saved += 1


class Epochs(training.Lines):
  """Progress that records the time, the seconds on the device and the checkpoints after each epoch."""

  def __init__(self, total: int, device: TimedTrainer, checkpoints: CountedCheckpoints):
    super().__init__(0, total)
    self._device, self._checkpoints = device, checkpoints
    self.ends: list[tuple[float, float, int]] = []

  def evaluated(self, row: dict[str, Any]) -> None:
    """Prints an evaluation; after one on the test set, which ends an epoch, records the time."""
    super().evaluated(row)
    if row["split"] == "test":
      self.ends.append((time.perf_counter(), self._device.seconds, self._checkpoints.saved))


def random_images(examples: int) -> Dataset:
  """Returns random images in the shape of CIFAR-10, with a fifth as many for the test set."""
  rng = np.random.default_rng(0)

  def split(count: int) -> Split:
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return Split(images, rng.integers(0, 10, count).astype(np.int32))

  mean, std = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
  return Dataset("cifar10", 10, split(examples), split(max(examples // 5, 1)), None, mean, std)


def line(row: dict[str, Any]) -> str:
  """Formats a row of the printed table."""
  return (
    f"{row['case']:20}{row['epoch_seconds']:7.3f} s/epoch  host {row['host_fraction']:6.1%}"
    f"  {row['checkpoints']} checkpoints in {row['epochs']} epochs"
  )
