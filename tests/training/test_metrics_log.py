"""metrics.jsonl after kills and resumes."""

import json

from cscjax.training import MetricsLog


def test_rows_after_the_checkpoint_and_half_lines_are_dropped(tmp_path):
  path = tmp_path / "metrics.jsonl"
  log = MetricsLog(path, last_step=0)
  for step in (10, 20, 30):
    log.write({"step": step, "split": "test", "loss": 1.0 / step})
  path.write_text(path.read_text() + '{"step": 25, "spl')
  resumed = MetricsLog(path, last_step=20)
  assert [row["step"] for row in resumed.rows] == [10, 20]
  resumed.write({"step": 30, "split": "test", "loss": 0.5})
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
  row = json.loads((tmp_path / "metrics.jsonl").read_text())
  assert row == {"step": 1, "loss": None, "rate": None, "accuracy": 0.5}
