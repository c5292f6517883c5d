"""The rows that commands store in a file: other rows stay, whatever happens to a command."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from absl import flags as absl_flags

from experiments import certified_accuracy, robustness, tightness
from experiments.cli import UsageError
from experiments.result_rows import read, stored

CASE = ("name", "steps")


def made(name, value, steps=20):
  return {"name": name, "steps": steps, "value": value}


def interrupted(rows):
  yield from rows
  raise KeyboardInterrupt


def test_rows_of_other_cases_stay_and_new_ones_replace_old_ones(tmp_path):
  path = tmp_path / "new" / "rows.jsonl"
  first = [made("a", 0.1), made("b", 0.2), made("a", 0.3, steps=5)]
  assert list(stored(first, str(path), CASE)) == first
  assert read(path) == first
  again, other = made("b", 2.5), made("c", [1, None])
  with pytest.raises(KeyboardInterrupt):
    list(stored(interrupted([other, again]), str(path), CASE))
  assert read(path) == [first[0], again, first[2], other]
  assert sorted(os.listdir(path.parent)) == ["rows.jsonl", "rows.jsonl.lock"]


def test_without_a_file_the_rows_are_only_yielded(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert list(stored([made("a", 1)], None, CASE)) == [made("a", 1)]
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("line", ['{"name": "a"', "[1]", '{"name": "a", "value": NaN}', ""])
def test_a_damaged_file_is_refused_before_the_first_measurement(tmp_path, line):
  path = tmp_path / "rows.jsonl"
  content = json.dumps(made("a", 1)) + f"\n{line}\n"
  path.write_text(content)
  with pytest.raises(
    UsageError, match=r"^--results: line 2 of .*rows.jsonl is not a row \(.+\); correct"
  ):
    list(stored(interrupted([]), str(path), CASE))
  assert path.read_text() == content


def test_a_row_that_cannot_be_stored_changes_nothing(tmp_path):
  path = tmp_path / "rows.jsonl"
  list(stored([made("a", 1)], str(path), CASE))
  with pytest.raises(ValueError, match="not JSON compliant"):
    list(stored([made("b", float("nan"))], str(path), CASE))
  assert read(path) == [made("a", 1)]


def test_two_commands_cannot_write_at_the_same_time(tmp_path):
  path = str(tmp_path / "rows.jsonl")
  rows = stored([made("a", 1), made("b", 2)], path, CASE)
  next(rows)
  with pytest.raises(UsageError, match=r"^--results: another command is writing to .*rows.jsonl"):
    list(stored([made("c", 3)], path, CASE))
  rows.close()
  list(stored([made("c", 3)], path, CASE))
  assert read(tmp_path / "rows.jsonl") == [made("a", 1), made("c", 3)]


KILLED = """
import sys
from experiments.result_rows import stored
def rows():
  for k in range(10**9):
    yield {"name": k % 40, "steps": k, "value": "x" * 20_000}
for row in stored(rows(), sys.argv[1], ("name",)):
  print(row["steps"], flush=True)
"""


@pytest.mark.slow
def test_a_kill_loses_nothing(tmp_path):
  path = tmp_path / "rows.jsonl"
  list(stored([made("kept", 1)], str(path), CASE))
  for wait in (3, 57, 111):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
    for _ in range(wait):
      last = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = read(path)
    assert found[0] == made("kept", 1)
    steps = [row["steps"] for row in found[1:] if row["value"] == "x" * 20_000]
    assert len(steps) == len(found) - 1
    assert max(steps) >= last


@pytest.mark.parametrize("command", [robustness, tightness, certified_accuracy])
def test_the_commands_keep_the_rows_of_other_cases(command, tmp_path, monkeypatch, capsys):
  """With the stored rows as measurements, of which the first one is measured again."""
  folder = pathlib.Path(robustness.__file__).parent / "results"
  rows = read(folder / f"{command.__name__.rpartition('.')[-1]}.jsonl")
  path = tmp_path / "rows.jsonl"
  other = dict.fromkeys(rows[0]) | {name: "another" for name in command.CASE}
  path.write_text(json.dumps(other) + "\n" + json.dumps({**rows[0], "date": "2000-01-01"}) + "\n")
  measured = iter(rows)
  monkeypatch.setattr(command, "rows", lambda *_, **__: measured)
  values = absl_flags.FlagValues()
  command.define_flags(values)
  values(["command", f"--results={path}"])
  command.main(values)
  assert read(path) == [other, *rows]
  assert capsys.readouterr().out
