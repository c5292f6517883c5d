"""What is kept of a run: one small JSON file, runs/STUDY/ROW-seedN.json."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from experiments.cli import UsageError
from experiments.reproduction.paper import ROWS
from experiments.reproduction.runs import PROTOCOLS, Run, Study
from experiments.workdir import replaced

FOLDER, PICTURES = "runs", "pictures"


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

  @property
  def run(self) -> Run:
    """The run that it is of."""
    row = ROWS[self.row]
    other = None if self.architecture == row.architecture else self.architecture
    return Run(row, Study(self.dataset, self.protocol), self.seed, other)

  @property
  def is_finished(self) -> bool:
    """Whether there is nothing left to do."""
    return self.status != "interrupted"


def by_architecture(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
  """Records of the networks as they are now, and of other versions: the two are never compared."""
  records = list(records)
  present = [record for record in records if record.run.architecture is None]
  return present, [record for record in records if record.run.architecture is not None]


def path(results: pathlib.Path, run: Run) -> pathlib.Path:
  """Where the run's record is."""
  return results / FOLDER / f"{run.name}.json"


def write(results: pathlib.Path, run: Run, summary: dict[str, Any], workdir: pathlib.Path) -> Record:
  """Replaces the record of a run by what its summary and the files of its workdir say."""
  config = json.loads((workdir / "config.json").read_text())
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  fields = ("status", "test_accuracy", "best_test_accuracy", "epochs", "parameters")
  record = Record(
    row=run.row.name,
    dataset=run.study.dataset,
    protocol=run.study.protocol,
    seed=run.seed,
    **{name: summary[name] for name in (*fields, "seconds", "images_per_second")},
    curve=[[row["epoch"], row["accuracy"]] for row in rows if row["split"] == "test"],
    command=run.command,
    flags={k: v for k, v in config["flags"].items() if k not in ("workdir", "data_dir")},
    **{name: config[name] for name in ("versions", "git_revision", "device")},
    date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}",
    architecture=run.row.architecture,
  )
  save(results, record)
  return record


def save(results: pathlib.Path, record: Record) -> None:
  """Replaces a record in one step; a line a field, as the curve has many numbers."""
  target = path(results, record.run)
  target.parent.mkdir(parents=True, exist_ok=True)
  fields = dataclasses.asdict(record)
  lines = [f"  {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in fields.items()]
  with replaced(target) as scratch:
    scratch.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def read(results: pathlib.Path) -> list[Record]:
  """All records below a results folder; none where there are none.

  Raises:
    UsageError: If a file is no record, lies where another run's belongs, or was made with other flags
      than the run has now, so that it must not be put together with newer ones.
  """
  return [_read(results, file) for file in sorted((results / FOLDER).glob("*/*.json"))]


def _read(results, file):
  try:
    record = Record(**json.loads(file.read_text()))
    if record.protocol not in PROTOCOLS or path(results, record.run) != file:
      raise ValueError("it is the record of another run")
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise UsageError(f"--results: {file} is not the record of a run ({error!r})") from error
  differences = record.run.differences(record.flags)
  if differences:
    raise UsageError(
      f"--results: {file} was made with other flags ({'; '.join(differences)}); move it away, and the"
      " folder of its checkpoints, to run it anew"
    )
  return record
