"""Suite `loop`: the host's part of the time of an epoch, in runs with short epochs.

A run does everything that `experiments.run` does between two steps: an evaluation after each epoch, its
metrics, checkpoints and progress. It trains on random images, so many that an epoch takes about
`EPOCH_SECONDS`: what ResNet-20 takes on an H100. The host's part is the time outside of the calls of the
device. The first epoch, in which programs are compiled, is left out.
"""

import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cscjax import training
from cscjax.data import Dataset, Split
from cscjax.runs import Config, Lines, build, for_device, make_model, start
from experiments.benchmarks import training as steps

CASES = ("resnet20",)
EPOCHS = 40  # that are timed
EPOCH_SECONDS = 0.7


def rows(cases: Sequence[str], batch: int, precision: str) -> Iterator[dict[str, Any]]:
  """Measures the cases, names of `training.CASES`, one after the other."""
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
  """Trains, and returns means over all epochs but the first: `host_fraction` is the host's part."""
  model = make_model(for_device(config, jax.default_backend()), dataset.num_classes)
  trainer, plan = build(config, model, dataset)
  timed: Any = TimedTrainer(trainer)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    checkpoints = CountedCheckpoints(folder / "checkpoints")
    progress = Epochs(plan.total_steps, timed, checkpoints)
    training.fit(
      timed,
      plan,
      *start(config, dataset, trainer, plan),
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
  """A trainer whose calls end when the device has finished, and that adds up the seconds they take."""

  def __init__(self, trainer: training.Trainer):
    self._trainer, self.seconds = trainer, 0.0

  def __getattr__(self, name: str) -> Any:
    return getattr(self._trainer, name)

  def train(self, *arguments: Any) -> training.TrainState:
    """See `Trainer.train`."""
    return self._timed(self._trainer.train, arguments)

  def evaluate(self, *arguments: Any) -> training.EpochMetrics:
    """See `Trainer.evaluate`."""
    return self._timed(self._trainer.evaluate, arguments)

  def _timed(self, program, arguments):
    start = time.perf_counter()
    result = jax.block_until_ready(program(*arguments))
    self.seconds += time.perf_counter() - start
    return result


class CountedCheckpoints(training.Checkpoints):
  """Checkpoints that count how many were saved."""

  saved = 0

  def save(self, state: training.TrainState, seconds: float) -> None:
    """See `Checkpoints.save`."""
    super().save(state, seconds)
    self.saved += 1


class Epochs(Lines):
  """Progress that notes at each epoch's end the time, the device's part of it and the checkpoints."""

  def __init__(self, total: int, device: TimedTrainer, checkpoints: CountedCheckpoints):
    super().__init__(0, total)
    self._device, self._checkpoints = device, checkpoints
    self.ends: list[tuple[float, float, int]] = []

  def evaluated(self, row: dict[str, Any]) -> None:
    """Prints the evaluation, too."""
    super().evaluated(row)
    if row["split"] == "test":
      self.ends.append((time.perf_counter(), self._device.seconds, self._checkpoints.saved))


def random_images(examples: int) -> Dataset:
  """Random images of CIFAR-10's shape, a fifth as many of them for tests."""
  rng = np.random.default_rng(0)

  def split(count):
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return Split(images, rng.integers(0, 10, count).astype(np.int32))

  mean, std = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
  return Dataset("cifar10", 10, split(examples), split(max(examples // 5, 1)), None, mean, std)


def line(row: dict[str, Any]) -> str:
  """A row for people."""
  return (
    f"{row['case']:20}{row['epoch_seconds']:7.3f} s/epoch  host {row['host_fraction']:6.1%}"
    f"  {row['checkpoints']} checkpoints in {row['epochs']} epochs"
  )
