"""experiments.run as a process: outputs, exit codes, resume, signals."""

import dataclasses
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from experiments.config import Config

ROOT = pathlib.Path(__file__).parents[2]
TINY = ("--dataset=digits", "--depth=2", "--width=4", "--unfolding=1", "--epochs=3", "--batch_size=64")


def command(*arguments):
  return [sys.executable, "-m", "experiments.run", *arguments]


def run(*arguments):
  return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300)


def start(*arguments):
  return subprocess.Popen(
    command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def steps_saved(workdir):
  folder = workdir / "checkpoints"
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.exists() else []


def wait_for(condition, process, seconds=120):
  deadline = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, process.communicate()[1]
    assert time.monotonic() < deadline
    time.sleep(0.02)


def final_digest(workdir):
  """SHA-256 of the last state, as it was saved."""
  last = steps_saved(workdir)[-1]
  return json.loads((workdir / "checkpoints" / str(last) / "meta" / "metadata").read_text())["digest"]


def rows(workdir):
  """The metrics without what depends on the clock."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  timed = {"seconds", "images_per_second"}
  return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run that was left alone: its directory and what it printed."""
  workdir = tmp_path_factory.mktemp("run") / "finished"
  done = run(*TINY, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  return workdir, done


def test_outputs(finished):
  workdir, done = finished
  summary = json.loads(done.stdout.splitlines()[-1])
  assert summary == json.loads((workdir / "summary.json").read_text())
  assert (summary["status"], summary["steps"], summary["epochs"]) == ("ok", 66, 3.0)
  assert 0.3 < summary["test_accuracy"] <= summary["best_test_accuracy"] <= 1
  config = json.loads((workdir / "config.json").read_text())
  assert config["flags"]["unfolding"] == 1
  assert config["versions"]["jax"]
  assert config["device"]["platform"] == "cpu"
  assert [(r["step"], r["split"]) for r in rows(workdir)] == [
    (22, "train"),
    (22, "test"),
    (44, "train"),
    (44, "test"),
    (66, "train"),
    (66, "test"),
  ]
  expected = {"step", "epoch", "split", "loss", "accuracy", "learning_rate"}
  assert all(set(row) == expected for row in rows(workdir))
  assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
  assert "Traceback" not in done.stderr


def test_a_finished_run_gives_its_summary_again(finished):
  workdir, done = finished
  before = (workdir / "metrics.jsonl").read_text()
  again = run(*TINY, f"--workdir={workdir}")
  assert again.returncode == 0, again.stderr
  first, second = (json.loads(d.stdout.splitlines()[-1]) for d in (done, again))
  assert {k: v for k, v in first.items() if k != "seconds"} == {
    k: v for k, v in second.items() if k != "seconds"
  }
  assert (workdir / "metrics.jsonl").read_text() == before


def test_killed_in_an_epoch_it_resumes_and_ends_with_the_same_bits(finished, tmp_path):
  killed, epoch = tmp_path / "killed", 22
  often = ("--checkpoint_seconds=0", "--dispatch_seconds=0")
  for least in (1, epoch + 1):
    process = start(*TINY, *often, f"--workdir={killed}")
    wait_for(lambda least=least: [s for s in steps_saved(killed) if s >= least and s % epoch], process)
    process.send_signal(signal.SIGKILL)
    process.wait()
  done = run(*TINY, f"--workdir={killed}")
  assert done.returncode == 0, done.stderr
  assert ": step 0 of" not in done.stderr
  assert final_digest(killed) == final_digest(finished[0])
  assert rows(killed) == rows(finished[0])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_a_checkpoint(tmp_path, number, code):
  process = start(*TINY, "--epochs=1000", f"--workdir={tmp_path}")
  wait_for(lambda: steps_saved(tmp_path), process)
  sent = time.monotonic()
  process.send_signal(number)
  out, err = process.communicate(timeout=60)
  assert process.returncode == code, err
  assert time.monotonic() - sent < 20
  summary = json.loads(out.splitlines()[-1])
  assert summary["status"] == "interrupted"
  assert steps_saved(tmp_path)[-1] == summary["steps"]
  assert "Traceback" not in err


def test_a_second_run_on_the_same_workdir_stops(tmp_path):
  first = start(*TINY, "--epochs=1000", f"--workdir={tmp_path}")
  wait_for(lambda: steps_saved(tmp_path), first)
  second = run(*TINY, "--epochs=1000", f"--workdir={tmp_path}")
  first.kill()
  first.communicate()
  assert_refused(second, "--workdir")


def assert_refused(done, *names):
  """Exit code 2 and one line on stderr that names what was wrong."""
  assert done.returncode == 2, done.stderr
  lines = done.stderr.strip().splitlines()
  assert len(lines) == 1, done.stderr
  assert lines[0].startswith("error: ")
  for name in names:
    assert name in lines[0]
  assert done.stdout == ""


@pytest.mark.parametrize(
  ("arguments", "name"),
  [
    (["--model=vgg"], "model"),
    (["--depth=-6"], "--depth"),
    (["--depth=six"], "depth"),
    (["--batch_size=0"], "--batch_size"),
    (["--batch_size=2000", "--dataset=digits"], "--batch_size"),
    (["--dilations=1,x"], "--dilations"),
    (["--learning_rate=nan"], "--learning_rate"),
    (["--unfoldings=2"], "unfoldings"),
    (["--flagfile=experiments/none.flags"], "none.flags"),
    (["--model=msdnet", "--unfolding=1"], "--unfolding"),
    (["--dataset=cifar10", "--data_dir=nowhere"], "--data_dir"),
    (["digits"], "digits"),
  ],
)
def test_bad_flags(tmp_path, arguments, name):
  workdir = tmp_path / "run"
  assert_refused(run("--dataset=digits", *arguments, f"--workdir={workdir}"), name)
  assert not (workdir / "config.json").exists()


def test_missing_data_without_network(tmp_path):
  done = run("--dataset=cifar10", "--nodownload", f"--data_dir={tmp_path}", f"--workdir={tmp_path}/run")
  assert_refused(done, "cifar10", str(tmp_path), "--data_dir", "prepare_data")


def test_another_configuration_does_not_touch_a_run(finished):
  workdir, _ = finished
  before = {p: p.read_bytes() for p in workdir.glob("*.json*")}
  assert_refused(run(*TINY, "--unfolding=2", f"--workdir={workdir}"), "--unfolding", str(workdir))
  assert {p: p.read_bytes() for p in workdir.glob("*.json*")} == before


def test_a_loss_that_is_not_finite_is_reported_not_a_crash(tmp_path):
  done = run(*TINY, "--nonorm", "--learning_rate=1e9", "--momentum=0", f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout.splitlines()[-1])["status"] == "diverged"


def test_a_network_at_chance_is_reported_as_diverged(tmp_path):
  done = run(*TINY, "--epochs=1", "--learning_rate=1e-9", f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout.splitlines()[-1])["status"] == "diverged"


def test_a_validation_split(tmp_path):
  done = run(*TINY, "--validation_fraction=0.2", f"--workdir={tmp_path}")
  summary = json.loads(done.stdout.splitlines()[-1])
  assert 0.3 < summary["validation_accuracy"] <= 1
  assert [r["split"] for r in rows(tmp_path)].count("test") == 1


def test_help_lists_every_flag():
  text = run("--help").stdout
  missing = [f.name for f in dataclasses.fields(Config) if not re.search(rf"--(\[no\])?{f.name}:", text)]
  assert not missing
