"""metrics.jsonl after kills, damage and resumes."""

import json

import pytest

from cscjax.training import MetricsLog


def row(step, split="test", loss=0.5):
  rest = {"epoch": step / 10, "accuracy": 0.5, "images_per_second": None}
  return {"step": step, "split": split, "loss": loss, **rest}


def test_rows_after_the_checkpoint_and_half_lines_are_dropped(tmp_path):
  path = tmp_path / "metrics.jsonl"
  log = MetricsLog(path, last_step=0)
  for step in (10, 20, 30):
    log.write(row(step, loss=1.0 / step))
  path.write_text(path.read_text() + '{"step": 25, "spl')
  resumed = MetricsLog(path, last_step=20)
  assert [row["step"] for row in resumed.rows] == [10, 20]
  resumed.write(row(30))
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert lines == resumed.rows
  assert [line["step"] for line in lines] == [10, 20, 30]


def test_without_a_file_the_rows_are_kept_in_memory():
  log = MetricsLog(None, last_step=5)
  log.write({"step": 6})
  assert log.rows == [{"step": 6}]


def test_numbers_that_are_not_finite_are_null(tmp_path):
  log = MetricsLog(tmp_path / "metrics.jsonl", last_step=0)
  log.write({"step": 1, "loss": float("nan"), "rate": float("inf"), "accuracy": 0.5})
  written = json.loads((tmp_path / "metrics.jsonl").read_text())
  assert written == {"step": 1, "loss": None, "rate": None, "accuracy": 0.5}


@pytest.mark.parametrize(
  "damage",
  [
    lambda line: line[:20],
    lambda line: line[:20] + b"\xff" + line[21:],
    lambda line: line.replace(b'"step"', b'"stop"'),
    lambda line: line.replace(b'"loss"', b'"lost"'),
    lambda line: line.replace(b'"step": 20', b'"step": "2"'),
    lambda _: b"20",
    lambda _: b"[]",
    lambda _: b"",
  ],
)
def test_damaged_lines_are_dropped_with_a_warning(tmp_path, damage):
  path = tmp_path / "metrics.jsonl"
  log = MetricsLog(path, last_step=0)
  for step in (10, 20, 30):
    log.write(row(step))
  lines = path.read_bytes().splitlines()
  path.write_bytes(b"\n".join([lines[0], damage(lines[1]), lines[2]]) + b"\n")
  with pytest.warns(UserWarning, match=r"metrics\.jsonl: dropped 1 damaged lines"):
    rows = MetricsLog(path, last_step=30).rows
  assert rows == [row(10), row(30)]
  assert MetricsLog(path, last_step=30).rows == rows
