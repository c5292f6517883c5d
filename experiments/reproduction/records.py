"""What is kept of a run: one small JSON file, runs/STUDY/ROW-seedN.json."""

import dataclasses
import datetime
import functools
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from cscjax import checks
from cscjax.runs import AUTO, Config, current_fields, read_config, recorded_fields, replaced
from cscjax.training import read_metrics
from experiments.cli import UsageError
from experiments.json_files import read_json
from experiments.reproduction.paper import ROWS, TITLES
from experiments.reproduction.schema import (
  anything,
  list_of,
  number,
  object_of,
  one_of,
  optional,
  read_checked,
  text,
  whole,
)
from experiments.reproduction.studies import PROTOCOLS, Job, create_study

FOLDER, PICTURES, WORK = "runs", "pictures", "work"
DATE = "%Y-%m-%d %H:%M"


@dataclasses.dataclass(frozen=True)
class Record:
  """A run that ended, or was interrupted and can be continued.

  Attributes:
    row: A name of `paper.ROWS`.
    dataset: Its data set.
    protocol: One of `PROTOCOLS`.
    seed: Its seed.
    status: "ok", "diverged" or "interrupted".
    test_accuracy: After the last epoch, in 0..1; None where there was no evaluation.
    best_test_accuracy: Of all epochs: chosen on the test set, so no fair estimate.
    curve: [epoch, test accuracy] of each evaluation.
    epochs: Done.
    parameters: Trainable ones, all of them.
    seconds: Wall time.
    images_per_second: While training.
    command: What makes the run alone.
    flags: All of them.
    versions: Of Python and the libraries.
    git_revision: Of the code, "+" where it had changes.
    device: Its platform, kind and count.
    date: When it ended, in UTC.
    architecture: Version of the computation of its network.
  """

  row: str
  dataset: str
  protocol: str
  seed: int
  status: str
  test_accuracy: float | None
  best_test_accuracy: float | None
  curve: list[list[float]]
  epochs: float
  parameters: int
  seconds: float
  images_per_second: float | None
  command: str
  flags: dict[str, Any]
  versions: dict[str, str]
  git_revision: str | None
  device: dict[str, Any]
  date: str
  architecture: int = 1

  @functools.cached_property
  def job(self) -> Job:
    """The run that it is of; the augmentation and the precision of its study are among its flags."""
    row, flags = ROWS[self.row], current_fields(self.flags)
    other = None if self.architecture == row.architecture else self.architecture
    changes = flags.get("augmentation", AUTO), flags.get("precision", "float32")
    return Job(row, create_study(self.dataset, self.protocol, *changes), self.seed, other)

  @property
  def is_finished(self) -> bool:
    """Whether there is nothing left to do."""
    return self.status != "interrupted"


def by_architecture(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
  """Records of the networks as they are now, and of other versions: the two are never compared."""
  records = list(records)
  present = [record for record in records if record.job.architecture is None]
  return present, [record for record in records if record.job.architecture is not None]


def path(results: pathlib.Path, job: Job) -> pathlib.Path:
  """Where the run's record is."""
  return results / FOLDER / f"{job.name}.json"


def write(results: pathlib.Path, job: Job, summary: dict[str, Any], workdir: pathlib.Path) -> Record:
  """Replaces the record of a run by what its summary and the files of its workdir say."""
  config, rows = read_config(workdir / "config.json"), read_metrics(workdir / "metrics.jsonl")
  fields = ("status", "test_accuracy", "best_test_accuracy", "epochs", "parameters")
  record = Record(
    row=job.row.name,
    dataset=job.study.dataset,
    protocol=job.study.protocol,
    seed=job.seed,
    **{name: summary[name] for name in (*fields, "seconds", "images_per_second")},
    curve=[[row["epoch"], row["accuracy"]] for row in rows if row["split"] == "test"],
    command=job.command,
    flags={k: v for k, v in config["flags"].items() if k not in ("workdir", "data_dir")},
    **{name: config[name] for name in ("versions", "git_revision", "device")},
    date=datetime.datetime.now(datetime.UTC).strftime(DATE),
    architecture=job.row.architecture,
  )
  save(results, record)
  return record


def save(results: pathlib.Path, record: Record) -> None:
  """Replaces a record in one step; a line a field, as the curve has many numbers.

  What is there and is not a record of the run is kept beside it, with the ending .bad.
  """
  target = path(results, record.job)
  target.parent.mkdir(parents=True, exist_ok=True)
  if find(results, record.job) is None and os.path.lexists(target):
    os.replace(target, target.with_name(f"{target.name}.bad"))
  fields = dataclasses.asdict(record)
  lines = [f"  {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in fields.items()]
  with replaced(target) as scratch:
    scratch.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read(results: pathlib.Path) -> list[Record]:
  """Reads all records below a results folder; none where there are none.

  A file that is no record, or lies where another run's belongs, is named in a warning and left out, so
  that its run counts as missing.

  Raises:
    UsageError: If a record was made with other flags than the run has now, so that it must not be put
      together with newer ones.
  """
  files = sorted((results / FOLDER).glob("*/*.json"))
  found = [read_checked(file, functools.partial(_record, results, file)) for file in files]
  return [record for record in found if record is not None]


def find(results: pathlib.Path, job: Job) -> Record | None:
  """Reads the record of a run; None if it has none, or a bad one, which `read` names.

  Raises:
    UsageError: As `read`.
  """
  file = path(results, job)
  try:
    record = _record(results, file, read_json(file))
  except (OSError, ValueError, RecursionError):
    return None
  return record if record.job == job else None


def move_old(results: pathlib.Path, found: Iterable[Record]) -> None:
  """Moves what is left of runs made before --augmentation into the folders of their studies.

  Until then runs without augmentation lay where those of the paper's protocol lie now.
  """
  for record in found:
    old, new = _old_name(record), record.job.name
    if old == new or path(results, record.job).exists():
      continue
    for folder, ending in ((WORK, ""), (PICTURES, ".png"), (FOLDER, ".json")):  # the record last
      source, target = (results / folder / f"{name}{ending}" for name in (old, new))
      if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


def _old_name(record):
  """The name of its run before --augmentation was a flag; the present one if it was made since."""
  job = record.job
  if "augmentation" in record.flags:
    return job.name
  return job._replace(study=job.study._replace(augmentation=AUTO)).name


def _record(results, file, value):
  """The record that a file holds; ValueError if it holds none."""
  _RECORD("record", value)
  if value["dataset"] == "digits" and value["protocol"] == "paper":
    raise ValueError("the paper has no digits")
  record = Record(**value)
  place = path(results, record.job)
  is_old = file == results / FOLDER / f"{_old_name(record)}.json" and not place.exists()
  if file != place and not is_old:
    raise ValueError(f"it is the record of another run, {record.job.name}")
  _check_curve(record)
  differences = record.job.differences(record.flags)
  if differences:
    raise UsageError(
      f"--results: {file} was made with other flags ({'; '.join(differences)}); move it away, and the"
      " folder of its checkpoints, to run it anew"
    )
  return record


def _check_curve(record):
  """ValueError if its epochs do not rise up to those done, or its accuracies are not its curve's."""
  epochs, accuracies = zip(*record.curve, strict=True) if record.curve else ((), ())
  ends = (*epochs, record.epochs, record.job.config().epochs)
  if list(ends[:-2]) != sorted(set(epochs)) or list(ends) != sorted(ends):
    checks.fail("record.curve", record.curve, f"rising epochs up to {record.epochs:g}, of {ends[-1]}")
  last = accuracies[-1] if accuracies else None
  best = max((accuracy for accuracy in accuracies if accuracy is not None), default=None)
  for name, expected in (("test_accuracy", last), ("best_test_accuracy", best)):
    if getattr(record, name) != expected:
      checks.fail(f"record.{name}", getattr(record, name), f"{expected}, as in its curve")


def _flags(name, value):
  """The fields of a run by their names; they are in the ranges of today's."""
  object_of({}, others=anything)(name, value)
  try:
    Config(**recorded_fields(value))
  except ValueError as error:
    raise ValueError(f"{name}.{error}") from error


def _date(name, value):
  try:
    datetime.datetime.strptime(value, DATE)
  except (TypeError, ValueError):
    checks.fail(name, value, "a date and a time, YYYY-MM-DD HH:MM")


_PAIR, _EPOCHS, _ACCURACY = list_of(anything, 2), number(0, 1e9), optional(number(0, 1))


def _evaluation(name, value):
  _PAIR(name, value)
  _EPOCHS(f"{name}[0]", value[0])
  _ACCURACY(f"{name}[1]", value[1])


_RECORD = object_of(
  {
    "row": one_of(ROWS),
    "dataset": one_of(TITLES),
    "protocol": one_of(PROTOCOLS),
    "seed": whole(0, 2**32 - 1),
    "status": one_of(("ok", "diverged", "interrupted")),
    "test_accuracy": _ACCURACY,
    "best_test_accuracy": _ACCURACY,
    "curve": list_of(_evaluation),
    "epochs": _EPOCHS,
    "parameters": whole(1, 2**53),
    "seconds": number(0, 1e10),
    "images_per_second": optional(number(0, 1e12)),
    "command": text,
    "flags": _flags,
    "versions": object_of({"jax": text}, others=text),
    "git_revision": optional(text),
    "device": object_of({"platform": text, "kind": text, "count": whole(1, 2**20)}, others=anything),
    "date": _date,
    "architecture": whole(1, 2**20),
  },
  may_lack=("architecture",),
)
"""What a record must be: types, ranges, and no other fields."""
