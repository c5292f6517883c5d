"""Estimates of the time that a run will take, from measured training speeds."""

import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from cscjax.checks import one_line
from cscjax.data import dataset_shape
from cscjax.models import describe
from cscjax.runs import make_model
from experiments.cli import UsageError
from experiments.json_files import parse_json
from experiments.reproduction.paper import ROWS
from experiments.reproduction.records import Record
from experiments.reproduction.schema import anything, number, object_of, optional, text
from experiments.reproduction.studies import Job, Study

_EXAMPLES = {  # numbers of training and test examples
  "cifar10": (50_000, 10_000),
  "cifar100": (50_000, 10_000),
  "svhn_cropped": (73_257, 26_032),
  "digits": (1_437, 360),
}


_Shape = tuple[int, ...]
_Key = tuple[str, str, _Shape]  # precision, name of the row, shape of an example


class Rates:
  """Training speeds of the rows, in images per second, on one kind of device.

  The speeds come from finished runs on that device and from the output of `python -m
  experiments.benchmark --suite=train --json`, which measures images of 32x32 pixels. The speed of a row
  without a measurement is scaled by the number of operations from a measured row of the same precision:
  from the one with the most similar number of operations, preferably of the same family of networks.
  """

  def __init__(self, records: Sequence[Record], benchmark: pathlib.Path, device_kind: str):
    """Collects the measured speeds.

    Args:
      records: Records of runs, on any devices.
      benchmark: File with the output of `experiments.benchmark --suite=train --json`.
      device_kind: Name of the device, as JAX's `device_kind`.

    Raises:
      UsageError: If `benchmark` cannot be read.
    """
    found: dict[_Key, list[float]] = {}
    for record in records:
      if record.device["kind"] == device_kind and record.images_per_second:
        key = self._key(record.job)
        found.setdefault(key, []).append(record.images_per_second)
    self._measured = {key: statistics.median(rates) for key, rates in found.items()}
    for row in _benchmark_rows(benchmark):
      is_ours = (row["framework"], row["device"]) == ("cscjax", device_kind)
      if is_ours and row["images_per_second"]:
        key = (row["precision"], row["case"], (32, 32, 3))
        self._measured.setdefault(key, row["images_per_second"])
    self._flops: dict[tuple[str, tuple[int, ...]], int] = {}

  def is_measured(self, job: Job) -> bool:
    """Whether the speed of the run was measured, rather than scaled from another one."""
    return self._key(job) in self._measured

  def minutes(self, job: Job) -> float | None:
    """Returns the minutes that the whole run will take, or None if no speed is known.

    Evaluating an image is taken to cost a third of a training step on it.
    """
    rate = self._rate(*self._key(job))
    if rate is None:
      return None
    config = job.config()
    train, test = _EXAMPLES[job.study.dataset]
    train = config.train_examples or train
    images = config.epochs * (train + test / config.evaluate_epochs / 3)
    return images / rate / 60

  def _key(self, job: Job) -> _Key:
    return job.study.precision, job.row.name, dataset_shape(job.study.dataset)[0]

  def _rate(self, precision: str, row: str, shape: _Shape) -> float | None:
    """Returns the speed of a row, measured or scaled."""
    if (precision, row, shape) in self._measured:
      return self._measured[precision, row, shape]
    known = [key[1:] for key in self._measured if key[0] == precision and key[1] in ROWS]
    if not known:
      return None
    flops = self._forward_flops(row, shape)

    def distance(key: tuple[str, _Shape]) -> tuple[bool, float]:
      return _family(key[0]) != _family(row), abs(math.log(self._forward_flops(*key) / flops))

    nearest = min(known, key=distance)
    return self._measured[precision, *nearest] * self._forward_flops(*nearest) / flops

  def _forward_flops(self, row: str, shape: _Shape) -> int:
    """Returns the operations of a forward pass on one example."""
    if (row, shape) not in self._flops:
      config = Job(ROWS[row], Study("cifar10", "paper"), 0).config()
      layers = describe(make_model(config, 10), shape)
      self._flops[row, shape] = sum(layer.forward_flops for layer in layers)
    return self._flops[row, shape]


def _family(row: str) -> tuple[int, bool]:
  return ROWS[row].table, row.startswith("msd")


def _benchmark_rows(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads and checks the rows of a benchmark."""
  try:
    rows = [parse_json(line) for line in path.read_bytes().splitlines()]
    for i, row in enumerate(rows):
      _ROW(f"line {i + 1}", row)
  except (OSError, ValueError) as error:
    problem = one_line(error)
    raise UsageError(f"--rates: {path} is not an output of experiments.benchmark ({problem})") from error
  return rows


_ROW = object_of(
  {
    **dict.fromkeys(("framework", "device", "precision", "case"), text),
    "images_per_second": optional(number(1e-12, 1e12)),
  },
  others=anything,
)
