"""The record of a run: one small JSON file, runs/STUDY/ROW-seedN.json."""

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
  """The result of a run that ended, or that was interrupted and can be continued.

  Attributes:
    row: Name of the network, a key of `paper.ROWS`.
    dataset: Name of the data set.
    protocol: One of `PROTOCOLS`.
    seed: Seed of parameters, order of the data and augmentation.
    status: "ok", "diverged" or "interrupted".
    test_accuracy: Test accuracy after the last epoch, in 0..1; None without an evaluation.
    best_test_accuracy: Best test accuracy of all epochs, in 0..1. It is an optimistic estimate, because
      the epoch is chosen on the test set.
    curve: Pairs [epoch, test accuracy], one for each evaluation.
    epochs: Number of epochs trained.
    parameters: Number of trainable parameters.
    seconds: Wall time of the run.
    images_per_second: Training speed; None if it was not measured.
    command: Command that makes this run alone.
    flags: All flags of the run.
    versions: Versions of Python and the libraries.
    git_revision: Revision of the code, with "+" if the code had uncommitted changes.
    device: Platform, kind and number of the devices.
    date: Time at which the run ended, in UTC.
    architecture: Version of the network's computation.
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
    """The run of this record. The flags hold the augmentation and the precision of its study."""
    row, flags = ROWS[self.row], current_fields(self.flags)
    other = None if self.architecture == row.architecture else self.architecture
    changes = flags.get("augmentation", AUTO), flags.get("precision", "float32")
    return Job(row, create_study(self.dataset, self.protocol, *changes), self.seed, other)

  @property
  def is_finished(self) -> bool:
    """Whether the run has ended, rather than being interrupted."""
    return self.status != "interrupted"


def by_architecture(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
  """Splits records into those of the current versions of the networks and those of other versions.

  The two kinds are never compared, because the networks compute different functions.
  """
  records = list(records)
  present = [record for record in records if record.job.architecture is None]
  return present, [record for record in records if record.job.architecture is not None]


def path(results: pathlib.Path, job: Job) -> pathlib.Path:
  """Returns the path of the record of a run."""
  return results / FOLDER / f"{job.name}.json"


def write(results: pathlib.Path, job: Job, summary: dict[str, Any], workdir: pathlib.Path) -> Record:
  """Writes the record of a run from its summary and the files in its workdir, and returns the record."""
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
    flags={k: v for k, v in config["flags"].items() if k not in ("workdir", "data_dir", "cache_dir")},
    **{name: config[name] for name in ("versions", "git_revision", "device")},
    date=datetime.datetime.now(datetime.UTC).strftime(DATE),
    architecture=job.row.architecture,
  )
  save(results, record)
  return record


def save(results: pathlib.Path, record: Record) -> None:
  """Writes a record atomically, with one line per field because the curve has many numbers.

  An older file at this path that is not a valid record of the run is kept with the suffix `.bad`.
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
  """Reads all records in a results folder.

  A file that is not a valid record, or that lies at the path of another run, is skipped with a warning,
  so that its run counts as missing.

  Raises:
    UsageError: If a record was made with other flags than the run has now, so that it cannot be combined
      with newer records.
  """
  files = sorted((results / FOLDER).glob("*/*.json"))
  found = [read_checked(file, functools.partial(_record, results, file)) for file in files]
  return [record for record in found if record is not None]


def find(results: pathlib.Path, job: Job) -> Record | None:
  """Reads the record of a run; returns None if there is no record, or none that is valid.

  Raises:
    UsageError: If the record was made with other flags than the run has now.
  """
  file = path(results, job)
  try:
    record = _record(results, file, read_json(file))
  except (OSError, ValueError, RecursionError):
    return None
  return record if record.job == job else None


def move_old(results: pathlib.Path, found: Iterable[Record]) -> None:
  """Moves the files of runs made before `--augmentation` existed into the folders of their studies.

  Before that flag, runs without augmentation were stored where runs of the paper's protocol are now.
  """
  for record in found:
    old, new = _old_name(record), record.job.name
    if old == new or path(results, record.job).exists():
      continue
    # The record moves last: if this is interrupted, the next call finds it and moves the rest.
    for folder, ending in ((WORK, ""), (PICTURES, ".png"), (FOLDER, ".json")):
      source, target = (results / folder / f"{name}{ending}" for name in (old, new))
      if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


def _old_name(record: Record) -> str:
  """Returns the name that the run had when it was made, which differs if `--augmentation` is newer."""
  job = record.job
  if "augmentation" in record.flags:
    return job.name
  return job._replace(study=job.study._replace(augmentation=AUTO)).name


def _record(results: pathlib.Path, file: pathlib.Path, value: Any) -> Record:
  """Checks the contents of a file and returns the record; raises ValueError if it is not valid."""
  _RECORD("record", value)
  if value["dataset"] == "digits" and value["protocol"] == "paper":
    raise ValueError("the paper has no results on the digits")
  record = Record(**value)
  place = path(results, record.job)
  is_old = file == results / FOLDER / f"{_old_name(record)}.json" and not place.exists()
  if file != place and not is_old:
    raise ValueError(f"the file holds the record of another run, {record.job.name}")
  _check_curve(record)
  differences = record.job.differences(record.flags)
  if differences:
    raise UsageError(
      f"--results: {file} was made with other flags ({'; '.join(differences)}); to repeat the run, move"
      " this file and the folder of its checkpoints away"
    )
  return record


def _check_curve(record: Record) -> None:
  """Raises ValueError unless the epochs of the curve increase and its accuracies match the record's."""
  epochs, accuracies = zip(*record.curve, strict=True) if record.curve else ((), ())
  ends = (*epochs, record.epochs, record.job.config().epochs)
  if list(ends[:-2]) != sorted(set(epochs)) or list(ends) != sorted(ends):
    expected = f"increasing epochs up to {record.epochs:g} of {ends[-1]}"
    checks.fail("record.curve", record.curve, expected)
  last = accuracies[-1] if accuracies else None
  best = max((accuracy for accuracy in accuracies if accuracy is not None), default=None)
  for name, expected in (("test_accuracy", last), ("best_test_accuracy", best)):
    if getattr(record, name) != expected:
      checks.fail(f"record.{name}", getattr(record, name), f"{expected}, as in the curve")


def _flags(name: str, value: Any) -> None:
  """Checks the recorded flags against the fields of `Config` and their ranges."""
  object_of({}, others=anything)(name, value)
  try:
    Config(**recorded_fields(value))
  except ValueError as error:
    raise ValueError(f"{name}.{error}") from error


def _date(name: str, value: Any) -> None:
  try:
    datetime.datetime.strptime(value, DATE)
  except (TypeError, ValueError):
    checks.fail(name, value, "a date and a time, YYYY-MM-DD HH:MM")


_PAIR, _EPOCHS, _ACCURACY = list_of(anything, 2), number(0, 1e9), optional(number(0, 1))


def _evaluation(name: str, value: Any) -> None:
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
"""The check of a record: the type and range of every field, and no further fields."""
