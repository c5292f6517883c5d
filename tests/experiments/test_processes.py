"""experiments.run on several local processes: same results as one process, kills, signals, errors."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from tests.faults.harness import ROOT, TINY, assert_refused, rows, run, steps_saved, wait_for
from tests.several_devices import xla_flags

STEPS = 20
TWENTY = (
  *TINY,
  f"--epochs={STEPS}",
  "--batch_size=1436",
  "--dispatch_seconds=0.1",
)  # one step per epoch
SECONDS = 40  # time after which a process counts as lost

# Output of Gloo when processes connect. Its threads write lines in pieces, which can interleave.
GLOO = re.compile(
  r"(\[Gloo\] Rank |\d+| is connected to | peer ranks\. |Expected number of connected peer ranks is : )*"
)


def free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def start_two(workdir, *arguments, slurm=False, second=()):
  """Starts two processes of two devices each; the second has its own workdir and the flags `second`."""
  port, flags = free_port(), (*TWENTY, f"--peer_timeout={SECONDS}", *arguments)
  processes = []
  for i in range(2):
    environment = {**os.environ, "XLA_FLAGS": xla_flags(2)}
    if slurm:
      found = ("--coordinator=auto",)
      cluster = {"JOB_ID": 1, "STEP_NODELIST": "127.0.0.1", "NTASKS": 2, "PROCID": i, "LOCALID": i}
      environment |= {f"SLURM_{name}": str(value) for name, value in cluster.items()}
      environment["JAX_COORDINATOR_PORT"] = str(port)
    else:
      found = (f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={i}")
    own = () if i == 0 else (f"--workdir={workdir}-second", *second)
    processes.append(
      subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *flags, f"--workdir={workdir}", *found, *own],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  return processes


def end(processes, seconds=300):
  """Waits for the processes; returns stdout, without the lines of Gloo, and stderr of each."""
  printed = [process.communicate(timeout=seconds) for process in processes]
  return [([line for line in out.splitlines() if not GLOO.fullmatch(line)], err) for out, err in printed]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """The metrics of a run on one process with one device."""
  workdir = tmp_path_factory.mktemp("one") / "run"
  done = run(*TWENTY, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  return rows(workdir)


def assert_same_curve(found, expected):
  place = [(r["step"], r["split"]) for r in expected]
  assert [(r["step"], r["split"]) for r in found] == place
  assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in expected], rel=1e-5)


@pytest.mark.slow
def test_two_processes_train_and_resume_like_one_and_only_process_0_writes(alone, tmp_path):
  workdir = tmp_path / "run"
  for steps in (STEPS // 2, STEPS):
    processes = start_two(workdir, f"--max_steps={steps}")
    (out, err), others = end(processes)
    assert [p.returncode for p in processes] == [0, 0], err
    assert len(out) == 1
    assert others == ([], "")
    assert steps_saved(workdir)[-1] == steps
  assert f": step {STEPS // 2} of {STEPS}" in err
  assert not (tmp_path / "run-second").exists()
  assert_same_curve(rows(workdir), alone)


@pytest.mark.slow
def test_a_lost_process_ends_the_other_and_one_process_can_finish_the_run(alone, tmp_path):
  workdir = tmp_path / "run"
  assert run(*TWENTY, "--max_steps=3", f"--workdir={workdir}").returncode == 0
  for victim in (1, 0):
    begun = steps_saved(workdir)[-1]
    processes = start_two(workdir, "--epochs=1000")
    wait_for(lambda begun=begun: steps_saved(workdir)[-1] > begun, processes[0], seconds=300)
    processes[victim].kill()
    _, err = end(processes)[1 - victim]
    assert processes[1 - victim].returncode not in (0, 2)
    assert "lost another process" in err or "another task died" in err
    assert f": step {begun} of" in err or victim == 0
  done = run(*TWENTY, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  assert ": step 0 of" not in done.stderr
  assert_same_curve(rows(workdir), alone)


@pytest.mark.slow
def test_a_signal_to_one_process_ends_both_with_one_checkpoint(tmp_path):
  workdir = tmp_path / "run"
  processes = start_two(workdir, "--epochs=1000", slurm=True)
  wait_for(lambda: steps_saved(workdir), processes[0], seconds=300)
  processes[1].send_signal(signal.SIGTERM)
  (out, err), _ = end(processes, seconds=60)
  assert [p.returncode for p in processes] == [143, 143], err
  assert '"status": "interrupted"' in out[-1]
  assert f'"steps": {steps_saved(workdir)[-1]},' in out[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("second", "named"),
  [
    (["--dataset=cifar10", "--data_dir=nowhere"], ("another process", "--data_dir")),
    (["--momentum=0.8"], ("different configurations", "different configurations")),
    (["--batch_size=62"], ("another process", "--batch_size")),
  ],
)
def test_an_error_on_one_process_ends_both(tmp_path, second, named):
  processes = start_two(tmp_path / "run", second=second)
  for process, (_, err), name in zip(processes, end(processes), named, strict=True):
    assert process.returncode == 2, err
    assert len(err.splitlines()) == 1, err
    assert name in err
  assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_a_batch_that_the_devices_cannot_share_is_an_error_on_both(tmp_path):
  processes = start_two(tmp_path / "run", "--batch_size=66")
  for process, (_, err) in zip(processes, end(processes), strict=True):
    assert process.returncode == 2, err
    assert err == "error: --batch_size: expected a multiple of 4, the number of devices, got 66\n"


@pytest.mark.slow
def test_a_silent_coordinator_and_a_port_in_use_are_errors(tmp_path):
  few = (*TINY, "--num_processes=2", "--peer_timeout=1", f"--workdir={tmp_path}/run")
  with socket.socket() as taken:
    taken.bind(("", 0))
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    assert_refused(run(*few, f"--coordinator={address}", "--process_id=1"), "--coordinator", address)
    assert_refused(run(*few, f"--coordinator={address}", "--process_id=0"), "--coordinator", "in use")
  assert not (tmp_path / "run").exists()
