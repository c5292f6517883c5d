"""experiments.run as a process: outputs, exit codes, resuming, signals."""

import json
import signal

import pytest

from tests.faults.harness import (
  EPOCH,
  OFTEN,
  TINY,
  assert_refused,
  contents,
  final_digest,
  rows,
  run,
  start,
  steps_saved,
  wait_for,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run without interruption: its directory and the finished process."""
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


def test_a_finished_run_prints_its_summary_again(finished):
  workdir, done = finished
  before = (workdir / "metrics.jsonl").read_text()
  again = run(*TINY, f"--workdir={workdir}")
  assert again.returncode == 0, again.stderr
  first, second = (json.loads(d.stdout.splitlines()[-1]) for d in (done, again))
  assert {k: v for k, v in first.items() if k != "seconds"} == {
    k: v for k, v in second.items() if k != "seconds"
  }
  assert (workdir / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_a_run_killed_within_an_epoch_resumes_and_ends_with_the_same_bits(finished, tmp_path):
  killed = tmp_path / "killed"
  for least in (1, EPOCH + 1):
    process = start(*TINY, *OFTEN, f"--workdir={killed}")
    wait_for(lambda least=least: [s for s in steps_saved(killed) if s >= least and s % EPOCH], process)
    process.kill()
    process.communicate()
  done = run(*TINY, f"--workdir={killed}")
  assert done.returncode == 0, done.stderr
  assert ": step 0 of" not in done.stderr
  assert final_digest(killed) == final_digest(finished[0])
  assert rows(killed) == rows(finished[0])


@pytest.mark.slow
@pytest.mark.parametrize(
  ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]
)
def test_a_signal_ends_a_run_with_a_checkpoint(tmp_path, number, code):
  process = start(*TINY, "--epochs=1000", f"--workdir={tmp_path}")
  wait_for(lambda: steps_saved(tmp_path), process)
  process.send_signal(number)
  out, err = process.communicate(timeout=60)
  assert process.returncode == code, err
  summary = json.loads(out.splitlines()[-1])
  assert summary["status"] == "interrupted"
  assert steps_saved(tmp_path)[-1] == summary["steps"]
  assert "\ncompiling the training step" in err
  end = f"{tmp_path}: stopped at step {summary['steps']}, with a checkpoint\nstopped: the same command"
  assert err.endswith(f"{end} resumes the run\n")


@pytest.mark.slow
def test_a_second_run_in_the_same_workdir_is_an_error(tmp_path):
  first = start(*TINY, "--epochs=1000", f"--workdir={tmp_path}")
  wait_for(lambda: steps_saved(tmp_path), first)
  second = run(*TINY, "--epochs=1000", f"--workdir={tmp_path}")
  first.kill()
  first.communicate()
  assert_refused(second, "--workdir")


@pytest.mark.parametrize(
  ("arguments", "name"),
  [
    (["--depth=-6"], "--depth"),
    (["--batch_size=2000", "--dataset=digits"], "--batch_size"),
    (["--flagfile=experiments/none.flags"], "none.flags"),
    (["--dataset=cifar10", "--data_dir=nowhere"], "--data_dir"),
    (["digits"], "digits"),
  ],
)
def test_bad_flags(tmp_path, arguments, name):
  workdir = tmp_path / "run"
  assert_refused(run("--dataset=digits", *arguments, f"--workdir={workdir}"), name)
  assert not workdir.exists()


def test_missing_data_without_network(tmp_path):
  folders = (f"--data_dir={tmp_path}", f"--cache_dir={tmp_path}/cache", f"--workdir={tmp_path}/run")
  done = run("--dataset=cifar10", "--nodownload", *folders)
  assert_refused(done, f"--data_dir: {tmp_path} contains no cifar10 prepared by TFDS")


def test_another_configuration_does_not_change_a_run(finished):
  workdir, _ = finished
  before = contents(workdir)
  assert_refused(run(*TINY, "--unfolding=2", f"--workdir={workdir}"), "--unfolding", str(workdir))
  assert contents(workdir) == before


@pytest.mark.slow
def test_config_json_repeats_a_run(finished, tmp_path):
  workdir, _ = finished
  again = run(f"--from_config={workdir / 'config.json'}", f"--workdir={tmp_path / 'again'}")
  assert again.returncode == 0, again.stderr
  assert final_digest(tmp_path / "again") == final_digest(workdir)
  assert rows(tmp_path / "again") == rows(workdir)


@pytest.mark.slow
def test_a_run_started_as_on_a_gpu_can_be_resumed_as_on_a_cpu(finished, tmp_path):
  started = run(*TINY, "--epochs=1", "--channel_multiple=8", f"--workdir={tmp_path}")
  assert started.returncode == 0, started.stderr
  done = run(*TINY, f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  assert "channel_multiple 8, now 1" in done.stderr
  for row, expected in zip(rows(tmp_path), rows(finished[0]), strict=True):
    # Other sums round differently, and training amplifies that: 5e-4 on one processor.
    assert row["loss"] == pytest.approx(expected["loss"], rel=5e-3)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_reported(tmp_path):
  done = run(*TINY, "--nonorm", "--learning_rate=1e9", "--momentum=0", f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout.splitlines()[-1])["status"] == "diverged"


@pytest.mark.slow
def test_a_network_at_chance_is_reported_as_diverged(tmp_path):
  done = run(*TINY, "--epochs=1", "--learning_rate=1e-9", f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout.splitlines()[-1])["status"] == "diverged"


@pytest.mark.slow
def test_a_validation_split(tmp_path):
  done = run(*TINY, "--validation_fraction=0.2", f"--workdir={tmp_path}")
  summary = json.loads(done.stdout.splitlines()[-1])
  assert 0.3 < summary["validation_accuracy"] <= 1
  assert [r["split"] for r in rows(tmp_path)].count("test") == 1
