"""Faults of real runs: kills, damaged files, full disks, signals. See also test_run.py."""

import contextlib
import json
import pathlib
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_restore

from tests.faults import kills
from tests.faults.harness import (
  EPOCH,
  OFTEN,
  ROOT,
  TINY,
  assert_refused,
  contents,
  cut,
  fill,
  final_digest,
  flip,
  remove,
  rows,
  run,
  small_disk,
  start,
  steps_saved,
  summary,
  wait_for,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """The directory of a run without interruption."""
  workdir = tmp_path_factory.mktemp("faults") / "alone"
  summary(run(*TINY, f"--workdir={workdir}"))
  return workdir


def assert_ends_like(alone, workdir):
  done = run(*TINY, f"--workdir={workdir}")
  assert summary(done)["status"] == "ok"
  assert final_digest(workdir) == final_digest(alone)
  assert rows(workdir) == rows(alone)
  return done


def test_runs_killed_at_random_times_resume_and_end_with_the_same_bits(tmp_path):
  found = kills.measure(kills=5, seed=1, folder=tmp_path)
  assert found["kills"] == 5
  assert found["runs_resumed"] == found["runs_with_the_same_bits"] == found["runs"]


@pytest.mark.parametrize("damage", [cut, flip, remove])
def test_damaged_files_cost_at_most_an_epoch(alone, tmp_path, damage):
  summary(run(*TINY, "--epochs=2", f"--workdir={tmp_path}"))
  damage(tmp_path / "checkpoints" / str(2 * EPOCH) / "state.msgpack")
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 44, "epo')
  done = assert_ends_like(alone, tmp_path)
  assert f"skipped the damaged checkpoint of step {2 * EPOCH}" in done.stderr
  assert f"step {EPOCH} of" in done.stderr
  assert (tmp_path / "checkpoints" / f"{2 * EPOCH}.damaged").is_dir()


@pytest.mark.parametrize("name", ["meta/metadata", "state.msgpack", "_CHECKPOINT_METADATA"])
def test_a_flipped_bit_of_a_checkpoint_costs_at_most_an_epoch(alone, tmp_path, name):
  summary(run(*TINY, "--epochs=2", f"--workdir={tmp_path}"))
  flip(tmp_path / "checkpoints" / str(2 * EPOCH) / name)
  assert_ends_like(alone, tmp_path)


def test_a_flipped_byte_of_config_json_is_an_error(tmp_path):
  summary(run(*TINY, "--epochs=1", f"--workdir={tmp_path}"))
  flip(tmp_path / "config.json")
  before = contents(tmp_path)
  assert_refused(run(*TINY, f"--workdir={tmp_path}"), "--workdir", "config.json")
  assert contents(tmp_path) == before


def test_a_temporary_change_to_float64_costs_no_checkpoint(alone, tmp_path, monkeypatch):
  summary(run(*TINY, "--epochs=2", f"--workdir={tmp_path}"))
  before = contents(tmp_path)
  with monkeypatch.context() as patch:
    patch.setenv("JAX_ENABLE_X64", "1")
    assert_refused(run(*TINY, f"--workdir={tmp_path}"), f"step {2 * EPOCH}", "float32", "float64")
  assert contents(tmp_path) == before
  assert f"step {2 * EPOCH} of" in assert_ends_like(alone, tmp_path).stderr


def test_the_environment_does_not_change_the_random_numbers(alone, tmp_path, monkeypatch):
  monkeypatch.setenv("JAX_DEFAULT_PRNG_IMPL", "rbg")
  monkeypatch.setenv("JAX_THREEFRY_PARTITIONABLE", "0")
  assert_ends_like(alone, tmp_path)


def test_a_missing_metrics_file_only_costs_its_rows(alone, tmp_path):
  summary(run(*TINY, "--epochs=2", f"--workdir={tmp_path}"))
  (tmp_path / "metrics.jsonl").unlink()
  summary(run(*TINY, f"--workdir={tmp_path}"))
  assert final_digest(tmp_path) == final_digest(alone)
  assert rows(tmp_path) == [row for row in rows(alone) if row["step"] >= 2 * EPOCH]


def assert_reports_a_full_disk(done):
  assert done.returncode == 2, done.stderr
  assert "Traceback" not in done.stderr
  errors = re.findall(r"^error: .*", done.stderr, re.MULTILINE)
  assert errors == [done.stderr.splitlines()[-1]]
  assert re.search(r"--workdir: .*(No space left on device|File too large)", errors[0])
  assert done.stdout == ""


@pytest.mark.parametrize("spare", [0, 16_000])  # too small for config.json; too small for the checkpoint
def test_a_full_disk_is_an_error_and_damages_no_file(alone, tmp_path, spare):
  try:
    with small_disk(tmp_path / "disk") as disk:
      workdir = disk / "run"
      summary(run(*TINY, "--epochs=1", f"--workdir={workdir}"))
      fill(disk / "filler", spare)
      assert_reports_a_full_disk(run(*TINY, f"--workdir={workdir}"))
      assert steps_saved(workdir) == [EPOCH]
      (disk / "filler").unlink()
      assert f"step {EPOCH} of" in assert_ends_like(alone, workdir).stderr
  except PermissionError as error:
    pytest.skip(str(error))


LIMITED = """
import resource, runpy, sys
size = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
runpy.run_module("experiments.run", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
  "size", [500, 4_000]
)  # of a file: smaller than config.json; smaller than a checkpoint
def test_a_limit_on_file_sizes_is_an_error_and_damages_no_file(alone, tmp_path, size):
  summary(run(*TINY, "--epochs=1", f"--workdir={tmp_path}"))
  command = [sys.executable, "-c", LIMITED, str(size), *TINY, f"--workdir={tmp_path}"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
  assert_reports_a_full_disk(done)
  assert steps_saved(tmp_path) == [EPOCH]
  assert_ends_like(alone, tmp_path)


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
  done = run(*TINY, *OFTEN, "--nonorm", "--learning_rate=1e9", "--momentum=0", f"--workdir={tmp_path}")
  assert summary(done)["status"] == "diverged"
  (step,) = re.findall(r"^diverged: the loss or the parameters of step (\d+) are", done.stderr, re.M)
  assert steps_saved(tmp_path)[-1] == int(step)  # the state before that step
  state = msgpack_restore((tmp_path / "checkpoints" / step / "state.msgpack").read_bytes())
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


def test_a_disk_remounted_read_only_ends_the_run_at_its_next_write(alone, tmp_path):
  try:
    with small_disk(tmp_path / "disk") as disk:
      process = start(*TINY, *OFTEN, "--epochs=1000", f"--workdir={disk / 'run'}")
      wait_for(lambda: steps_saved(disk / "run"), process)
      while subprocess.run(
        ["mount", "-o", "remount,ro", disk], check=False, capture_output=True
      ).returncode:
        assert process.poll() is None  # it cannot be remounted while a file is being written
      out, err = process.communicate(timeout=60)
      assert (process.returncode, out) == (2, ""), err
      assert re.fullmatch("error: --workdir: .*Read-only file system.*", err.splitlines()[-1])
      assert "Traceback" not in err
      assert steps_saved(disk / "run")
      subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
      assert ": step 0 of" not in assert_ends_like(alone, disk / "run").stderr
  except PermissionError as error:
    pytest.skip(str(error))


def test_a_disk_without_inodes_is_an_error_and_damages_no_file(alone, tmp_path):
  try:
    with small_disk(tmp_path / "disk", options="nr_inodes=40") as disk:
      workdir = disk / "run"
      summary(run(*TINY, "--epochs=1", f"--workdir={workdir}"))
      fillers = [disk / str(i) for i in range(40)]
      with contextlib.suppress(OSError):
        for filler in fillers:
          filler.touch()
      fillers[0].unlink()
      assert_reports_a_full_disk(run(*TINY, f"--workdir={workdir}"))
      assert steps_saved(workdir) == [EPOCH]
      for filler in filter(pathlib.Path.exists, fillers):
        filler.unlink()
      assert f"step {EPOCH} of" in assert_ends_like(alone, workdir).stderr
  except PermissionError as error:
    pytest.skip(str(error))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step_ends_the_run(alone, tmp_path, number):
  process = start(*TINY, f"--workdir={tmp_path}")
  wait_for((tmp_path / "lock").exists, process)
  process.send_signal(number)
  out, err = process.communicate(timeout=300)
  assert process.returncode == 128 + number, err
  assert (json.loads(out)["status"], json.loads(out)["steps"]) == ("interrupted", 0)
  assert "Traceback" not in err
  assert_ends_like(alone, tmp_path)


def test_of_two_simultaneous_runs_one_is_an_error(alone, tmp_path):
  both = [start(*TINY, f"--workdir={tmp_path}") for _ in range(2)]
  for process in both:
    process.stdout, process.stderr = process.communicate(timeout=300)
  ended, refused = sorted(both, key=lambda process: process.returncode)
  assert summary(ended)["status"] == "ok"
  assert_refused(refused, "--workdir", "another run")
  assert_ends_like(alone, tmp_path)
