"""The event files of a run: they show the rows of metrics.jsonl, also after the run was resumed."""

import dataclasses
import json
import os
import struct

import numpy as np
import pytest

from cscjax import runs
from cscjax.runs import Config, _execute
from cscjax.runs._tensorboard import EventFile
from cscjax.training import read_metrics
from cscjax.training._progress import Silent

CONFIG = Config(
  dataset="digits",
  model="msdnet",
  depth=1,
  width=4,
  batch_size=64,
  max_steps=22,
  tensorboard=True,
)
ROW = {
  "step": 5,
  "epoch": 0.5,
  "split": "train",
  "loss": 1.5,
  "accuracy": 0.25,
  "images_per_second": None,
}


@pytest.fixture(autouse=True)
def _needs(monkeypatch):
  pytest.importorskip("tensorboardX")
  monkeypatch.setattr(_execute, "use_compilation_cache", lambda config: None)


def events(path):
  """The events of a file of TFRecords: length (8 bytes), CRC (4), record, CRC (4)."""
  from tensorboardX.proto.event_pb2 import Event

  content, found = path.read_bytes(), []
  while content:
    (length,) = struct.unpack("<Q4x", content[:12])
    found.append(Event.FromString(content[12 : 12 + length]))
    content = content[16 + length :]
  return found


def shown(folder):
  """What TensorBoard shows: {(tag, step): value} after the last start, which hides what precedes it."""
  scalars = {}
  for path in sorted(folder.iterdir()):
    version, start, *rest = events(path)
    assert version.file_version == "brain.Event:2"
    assert (start.session_log.status, start.step) == (start.session_log.START, 0)
    scalars = {(v.tag, e.step): v.simple_value for e in rest for v in e.summary.value}
  return scalars


def expected(rows):
  scalars = {
    (f"{name}/{row['split']}", row["step"]): row[name]
    for row in rows
    for name in ("loss", "accuracy", "images_per_second")
  }
  for row in rows:
    if row["split"] == "train":
      scalars |= {(name, row["step"]): row.get(name) for name in ("epoch", "learning_rate")}
  return {key: np.float32(value) for key, value in scalars.items() if value is not None}


@pytest.mark.slow
def test_a_resumed_run(tmp_path):
  config = dataclasses.replace(CONFIG, workdir=str(tmp_path))
  runs.execute(runs.make_run(config), progress=False)
  folder = tmp_path / "tensorboard"
  assert shown(folder) == expected(read_metrics(tmp_path / "metrics.jsonl"))
  (first,) = folder.iterdir()
  # Rows of later steps, as a run that was killed before its checkpoint leaves them.
  first.rename(folder / "events.out.tfevents.1000000000.before")
  resumed = dataclasses.replace(config, max_steps=44)
  runs.execute(runs.make_run(resumed), progress=False)
  rows = read_metrics(tmp_path / "metrics.jsonl")
  assert [row["step"] for row in rows] == [22, 22, 44, 44]
  assert shown(folder) == expected(rows)
  assert len(os.listdir(folder)) == 2


def test_a_value_that_is_not_finite_is_left_out_and_times_continue(tmp_path):
  rows = [ROW | {"loss": None}, ROW | {"step": 10, "seconds": 90.0}]
  events_file = EventFile(tmp_path, rows, 100.0, Silent(0, 10))
  events_file.evaluated(ROW | {"step": 15, "seconds": 120.0})
  (path,) = tmp_path.iterdir()
  _, start, *found = events(path)  # written before the file is closed
  events_file.close()
  assert [v.tag for v in found[0].summary.value] == ["accuracy/train", "epoch"]
  assert [round(e.wall_time - start.wall_time) for e in found] == [-100, -10, 20]


def test_without_the_flag_there_are_no_event_files(tmp_path):
  config = dataclasses.replace(CONFIG, workdir=str(tmp_path), tensorboard=False)
  runs.execute(runs.make_run(config), stopped=lambda: True, progress=False)
  assert "tensorboard" not in os.listdir(tmp_path)
  assert json.loads((tmp_path / "config.json").read_text())["flags"]["tensorboard"] is False
