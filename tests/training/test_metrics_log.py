"""The file metrics.jsonl after kills, damage and resumed runs."""

import json
import os
import random
import warnings

import pytest

from cscjax.training import MetricsLog, read_metrics, seal, unseal


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
  lines = [unseal(json.loads(line)) for line in path.read_text().splitlines()]
  assert lines == resumed.rows
  assert [line["step"] for line in lines] == [10, 20, 30]


def test_rows_are_put_on_disk_all_at_once(tmp_path, monkeypatch):
  files = []
  path = tmp_path / "metrics.jsonl"
  log = MetricsLog(path, last_step=0)
  monkeypatch.setattr(os, "fsync", lambda file: files.append(os.fstat(file).st_ino))
  for step in (10, 20):
    log.write(row(step))
  assert files == []
  log.sync()
  assert files == [path.stat().st_ino]
  log.drop_after(10)  # before the new file replaces the old one
  assert files[1:] == [path.stat().st_ino]


def test_without_a_file_the_rows_are_kept_in_memory():
  log = MetricsLog(None, last_step=5)
  log.write({"step": 6})
  log.sync()
  assert log.rows == [{"step": 6}]


def test_numbers_that_are_not_finite_are_null(tmp_path):
  log = MetricsLog(tmp_path / "metrics.jsonl", last_step=0)
  log.write({"step": 1, "loss": float("nan"), "rate": float("inf"), "accuracy": 0.5})
  written = json.loads((tmp_path / "metrics.jsonl").read_text())
  assert unseal(written) == {"step": 1, "loss": None, "rate": None, "accuracy": 0.5}


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
  content = path.read_bytes()
  with pytest.warns(UserWarning, match=r"metrics\.jsonl: dropped 1 damaged .*metrics\.jsonl\.damaged$"):
    rows = MetricsLog(path, last_step=30).rows
  assert rows == [row(10), row(30)]
  assert MetricsLog(path, last_step=30).rows == rows
  assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == content


def test_a_file_that_no_run_wrote_is_kept(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"loss": 1}\n')
  for name in ("damaged", "damaged-2"):
    with pytest.warns(UserWarning, match=rf"kept as metrics\.jsonl\.{name}$"):
      MetricsLog(path, last_step=0)
    assert (tmp_path / f"metrics.jsonl.{name}").read_text() == '{"loss": 1}\n'
    assert path.read_text() == ""
    path.write_text('{"loss": 1}\n')


def test_the_rows_of_a_former_run_are_kept_when_a_new_one_starts(tmp_path):
  path = tmp_path / "metrics.jsonl"
  log = MetricsLog(path)
  for step in (10, 20):
    log.write(row(step))
  log.drop_after(10)
  assert os.listdir(tmp_path) == ["metrics.jsonl"]
  with pytest.warns(UserWarning, match=r"starts anew; the former rows are kept as metrics\.jsonl\.old$"):
    log.drop_after(0)
  assert (log.rows, path.read_text()) == ([], "")
  assert read_metrics(tmp_path / "metrics.jsonl.old") == [row(10)]


def test_a_flipped_bit_never_gives_another_value(tmp_path):
  path = tmp_path / "metrics.jsonl"
  log = MetricsLog(path, last_step=0)
  for step in (10, 20, 30):
    log.write({**row(step, loss=1 / step), "seconds": 0.1 * step, "learning_rate": 1e-05})
  content = path.read_bytes()
  bits = random.Random(0).sample(range(8 * len(content)), 1000)
  for bit in bits:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always")
      rows = read_metrics(path)
    assert all(row in log.rows for row in rows)
    cut_off = not damaged.endswith(b"\n")  # like a line that a kill has cut off
    assert len(rows) == len(log.rows) or caught or cut_off
    assert len(caught) <= 1


VALUES = {
  "null for a step": ("step", None),
  "a step that is a truth value": ("step", True),
  "a negative step": ("step", -1),
  "a step of many digits in text": ("step", "2" * 30),
  "no epoch": ("epoch", None),
  "another split": ("split", "tess"),
  "a list for a split": ("split", ["test"]),
  "NaN": ("accuracy", float("nan")),
  "infinity": ("loss", float("inf")),
  "text": ("accuracy", "0.5"),
  "a list": ("accuracy", [0.5]),
  "a truth value": ("accuracy", True),
  "above 1": ("accuracy", 1.5),
  "a huge integer": ("loss", 10**400),
  "a negative loss": ("loss", -0.5),
  "an object": ("images_per_second", {}),
  "a key that no run writes": ("losses", 0.5),
}


@pytest.mark.parametrize("checksum", [True, False])  # a valid checksum does not make a value valid
@pytest.mark.parametrize("what", VALUES)
def test_rows_are_checked_by_type_and_range(tmp_path, what, checksum):
  path = tmp_path / "metrics.jsonl"
  name, value = VALUES[what]
  bad = {**row(20), name: value}
  rows = [row(10), seal(bad) if checksum else bad, row(30)]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  with pytest.warns(UserWarning, match="dropped 1 damaged or repeated lines"):
    assert read_metrics(path) == [row(10), row(30)]


@pytest.mark.parametrize("line", ["[" * 100_000, '{"step": ' * 50_000, '{"step": ' + "1" * 5000 + "}"])
def test_rows_that_the_parser_refuses_are_dropped(tmp_path, line):
  path = tmp_path / "metrics.jsonl"
  path.write_text(json.dumps(row(10)) + "\n" + line + "\n")
  with pytest.warns(UserWarning, match="dropped 1 damaged or repeated lines"):
    assert read_metrics(path) == [row(10)]


def test_rows_are_read_once_and_sorted_by_step(tmp_path):
  path = tmp_path / "metrics.jsonl"
  rows = [row(10), row(20), row(20, split="train"), row(30)]
  lines = [json.dumps(seal(one)) for one in rows]
  path.write_text("\r\n".join([lines[3], lines[0], lines[1], lines[2], lines[1]]))
  with pytest.warns(UserWarning, match="dropped 1 damaged or repeated lines"):
    assert read_metrics(path) == rows


def test_a_path_that_is_not_a_regular_file_is_an_error(tmp_path):
  os.mkfifo(tmp_path / "metrics.jsonl")
  with pytest.raises(OSError, match="not a regular file"):
    read_metrics(tmp_path / "metrics.jsonl")


def test_rows_of_old_versions_have_no_checksum_and_get_one(tmp_path):
  path = tmp_path / "metrics.jsonl"
  old = {**row(10), "learning_rate": 0.1, "seconds": 3.0}
  path.write_text(json.dumps(old) + "\n")
  assert MetricsLog(path, last_step=10).rows == [old]
  assert json.loads(path.read_text()) == seal(old)
