"""experiments.reproduce: the runs that it lists and executes, and how it resumes after a stop."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from absl import flags as absl_flags

from experiments import reproduce
from experiments.cli import UsageError
from experiments.reproduction import records, studies
from experiments.reproduction.paper import DATASETS, ROWS
from experiments.reproduction.studies import Job, Study
from experiments.run import Signals
from tests.faults.harness import ROOT, contents, final_digest
from tests.reproduction.made import record

DIGITS = Study("digits", "reduced")


def parse(*arguments):
  values = absl_flags.FlagValues()
  reproduce.define_flags(values)
  values(["reproduce", *map(str, arguments)])
  return values


@pytest.fixture
def short(monkeypatch):
  """Reduces the protocol of the digits from twenty epochs to two."""
  monkeypatch.setattr(studies, "_DIGITS", {"epochs": 2, "batch_size": 128, "decay_epochs": (1,)})


class StopAfter(Signals):
  """Signals that report a stop once they have been asked `count` times."""

  def __init__(self, count):
    super().__init__()
    self.left = count

  def stopped(self):
    self.left -= 1
    return self.left < 0


@pytest.mark.slow
def test_the_dry_run_of_both_tables_lists_all_cells_of_the_paper(tmp_path, capsys):
  assert reproduce.main(parse("--dry_run", f"--results={tmp_path / 'none'}")) == 0
  lines = capsys.readouterr().out.splitlines()
  cells = [line.split()[:3] for line in lines[1:-2]]
  expected = {
    (dataset, name): "x" if row.accuracy[dataset] is None else str(row.accuracy[dataset])
    for name, row in ROWS.items()
    for dataset in DATASETS
  }
  assert len(cells) == len(expected) == 120
  assert {(dataset, name): paper for dataset, name, paper in cells} == expected
  assert lines[-2].startswith("120 cells, 360 runs")
  assert "?" not in "".join(lines)  # every cell has an estimate
  assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("path", ["", "a\0b", "a\udcff"])
def test_invalid_paths_are_rejected(path):
  for flag in ("data_dir", "results", "rates"):
    with pytest.raises(absl_flags.IllegalFlagValueError, match=f"{flag}=.*expected a path"):
      parse(f"--{flag}={path}")


@pytest.mark.parametrize("bad", ["--jobs=0", "--jobs=two", "--precision=float16", "--augmentation=crop"])
def test_a_flag_out_of_range_is_rejected(bad):
  with pytest.raises(absl_flags.IllegalFlagValueError, match=bad.removeprefix("--")):
    parse(bad)


def test_precision_and_augmentation_are_parts_of_the_queue(tmp_path, capsys):
  arguments = ("--dataset=cifar10,svhn_cropped", "--rows=msdnet6", "--seeds=0", "--precision=bfloat16")
  runs = reproduce.wanted(parse(*arguments, "--augmentation=none"))
  names = [job.name for job in runs]
  assert names == [
    "cifar10-no-augmentation-bfloat16/msdnet6-seed0",
    "svhn_cropped-bfloat16/msdnet6-seed0",  # the paper does not augment SVHN
  ]
  records.save(tmp_path, record("msdnet6", 87.0))
  reproduce.main(parse(*arguments, "--dry_run", f"--results={tmp_path}"))
  lines = capsys.readouterr().out.splitlines()
  paper = str(ROWS["msdnet6"].accuracy["cifar10"])
  assert lines[1].split()[:6] == ["cifar10-bfloat16", "msdnet6", paper, "0", "of", "1"]


def test_the_dry_run_counts_what_is_done(tmp_path, capsys):
  done = [record("msdnet6", 87.0, seed=s) for s in (0, 1)]
  half = record("msdnet6", 80.0, seed=2, status="interrupted", epochs=75)
  for one in (*done, half):
    records.save(tmp_path, one)
  reproduce.main(parse("--dry_run", "--dataset=cifar10", "--rows=msdnet6", f"--results={tmp_path}"))
  columns = capsys.readouterr().out.splitlines()[1].split()
  assert columns[3:6] == ["2", "of", "3"]
  assert float(columns[7]) == pytest.approx(float(columns[6]) / 2, abs=0.1)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--rows=msdnet7"], "--rows: unknown msdnet7"),
    (["--table=2", "--rows=msdnet6"], "--rows: expected rows of table 2, got msdnet6"),
    (["--dataset=mnist"], "--dataset: unknown mnist"),
    (["--dataset=digits"], "--dataset: the paper has no results for digits"),
    (["--dataset="], "--dataset: expected at least one"),
    (["--seeds=0,-1"], "--seeds: expected integers in 0..4294967295, got '-1'"),
    (["--seeds=a"], "--seeds"),
    (["--seeds=4294967296"], "--seeds"),
    ([f"--seeds={'1' * 5000}"], "--seeds"),
    (["--seeds="], "--seeds: expected at least one"),
    (["--budget_minutes=0"], "--budget_minutes: expected minutes > 0"),
    (["--budget_minutes=nan"], "--budget_minutes"),
    (["--dry_run", "--rates=nowhere"], "--rates: nowhere"),
  ],
)
def test_bad_flags(tmp_path, arguments, message):
  with pytest.raises(UsageError) as error:
    reproduce.main(parse(*arguments, f"--results={tmp_path}"))
  assert str(error.value).startswith(message)
  assert contents(tmp_path) == {}


def test_a_record_made_with_other_flags_is_reported_and_kept(tmp_path):
  one = record("msdnet6", 87.0)
  records.save(tmp_path, one)
  file = records.path(tmp_path, one.job)
  file.write_text(file.read_text().replace('"weight_decay": 0.0001', '"weight_decay": 0.0005'))
  before = contents(tmp_path)
  with pytest.raises(UsageError, match=f"--results: {file}") as error:
    reproduce.main(parse("--dataset=cifar10", "--rows=msdnet6", f"--results={tmp_path}"))
  assert "weight_decay 0.0005, now 0.0001" in str(error.value)
  assert contents(tmp_path) == before


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_each_missing_run_is_made_once_and_the_table_is_printed(tmp_path, capsys):
  arguments = (
    *("--table=3", "--protocol=reduced", "--dataset=digits", "--rows=msdnet6,feed_forward"),
    *("--seeds=0,1", f"--results={tmp_path}"),
  )
  assert reproduce.main(parse(*arguments)) == 0
  printed = capsys.readouterr()
  found = {one.job: one for one in records.read(tmp_path)}
  assert {(job.row.name, job.seed) for job in found} == {
    (row, seed) for row in ("msdnet6", "feed_forward") for seed in (0, 1)
  }
  one = found[Job(ROWS["msdnet6"], DIGITS, 1)]
  assert one.status == "ok"
  assert [epoch for epoch, _ in one.curve] == [1, 2]
  assert one.curve[-1][1] == one.test_accuracy
  assert one.best_test_accuracy == max(accuracy for _, accuracy in one.curve)
  assert one.flags["seed"] == 1
  assert one.versions["jax"]
  assert one.device["platform"] == "cpu"
  assert "| MSDNet | 6 | 0 |" in printed.out
  assert printed.out.count("(2)") == 4  # last and best epoch of two rows with two seeds
  drawn = [str(path) for path in sorted(contents(tmp_path / "pictures"))]
  assert drawn == ["digits-reduced/feed_forward-seed0.png", "digits-reduced/msdnet6-seed0.png"]
  before = contents(tmp_path / "runs")
  assert reproduce.main(parse(*arguments)) == 0
  assert "run 1" not in capsys.readouterr().err
  assert contents(tmp_path / "runs") == before


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_an_interrupted_run_resumes_and_ends_with_the_same_bits(tmp_path):
  job = Job(ROWS["feed_forward"], DIGITS, 0)
  whole = reproduce.make(job, tmp_path / "whole", None, Signals())
  stopped = reproduce.make(job, tmp_path / "parts", None, StopAfter(3))
  assert (stopped.status, whole.status) == ("interrupted", "ok")
  assert 0 < stopped.epochs < 2
  assert not records.read(tmp_path / "parts")[0].is_finished
  again = reproduce.make(job, tmp_path / "parts", None, Signals())
  assert records.read(tmp_path / "parts") == [again]
  assert again.curve == whole.curve
  digests = [final_digest(tmp_path / name / "work" / job.name) for name in ("whole", "parts")]
  assert digests[0] == digests[1]


def test_a_run_whose_checkpoints_are_gone_is_not_drawn(tmp_path):
  one = record("msdnet6", 87.0)
  (tmp_path / "work" / one.job.name).mkdir(parents=True)
  reproduce.draw(one, tmp_path, None)
  assert not (tmp_path / "pictures").exists()


def test_no_run_starts_at_the_end_of_the_budget(tmp_path, capsys):
  arguments = ("--protocol=reduced", "--dataset=digits", "--rows=feed_forward", "--budget_minutes=0.01")
  assert reproduce.main(parse(*arguments, f"--results={tmp_path}")) == 0
  assert "3 runs are left" in capsys.readouterr().err
  assert not (tmp_path / "runs").exists()


def command(results, *arguments):
  return [
    *(sys.executable, "-m", "experiments.reproduce", "--protocol=reduced", "--dataset=digits"),
    *("--rows=msdnet6", "--seeds=0,1", f"--results={results}", *arguments),
  ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The results of a queue without interruption."""
  results = tmp_path_factory.mktemp("queue") / "whole"
  subprocess.run(command(results), cwd=ROOT, check=True, capture_output=True)
  return results


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_queue_interrupted_at_random_moments_ends_like_an_uninterrupted_one(whole, tmp_path, number):
  parts = tmp_path / "parts"
  rng, ends = random.Random(number), []
  for _ in range(3):
    process = subprocess.Popen(command(parts), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(rng.uniform(4, 12))
    process.send_signal(number)
    ends.append((process.wait(), process.communicate()[1].decode()))
  assert all(code in (0, -9, 143) for code, _ in ends), ends
  subprocess.run(command(parts), cwd=ROOT, check=True, capture_output=True)
  found = {path: {one.job: one for one in records.read(path)} for path in (whole, parts)}
  assert len(found[parts]) == 2
  for job, one in found[whole].items():
    assert found[parts][job].curve == one.curve
    assert found[parts][job].status == "ok"
    assert final_digest(parts / "work" / job.name) == final_digest(whole / "work" / job.name)
  assert len(list(pathlib.Path(parts, "runs").rglob("*.json"))) == 2
