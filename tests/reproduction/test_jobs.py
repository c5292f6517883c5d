"""`--jobs` and locks: the number of concurrent processes, their memory, and how they end."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from experiments import reproduce
from experiments.cli import UsageError
from experiments.reproduction import records
from experiments.reproduction.jobs import claimed, memory_fraction, side_by_side
from experiments.reproduction.paper import ROWS
from experiments.reproduction.studies import Job, Study
from tests.faults.harness import ROOT, contents, final_digest
from tests.reproduction.made import record
from tests.reproduction.test_reproduce import command, parse

DIGITS = Study("digits", "reduced")
RUNS = [Job(ROWS["msdnet6"], DIGITS, seed) for seed in range(6)]


def python(folder, text):
  """Returns the command of a run: Python code with the variables `seed` and `folder`."""
  return lambda job: [sys.executable, "-c", f"seed, folder = {job.seed}, {str(folder)!r}\n{text}"]


def make(folder, text, jobs, runs=RUNS, is_wanted=lambda job: True, is_over=lambda: False):
  return side_by_side(runs, jobs, python(folder, text), is_wanted=is_wanted, is_over=is_over)


TIMED = """
import json, os, time
began = time.time()
time.sleep(0.5)
with open(f"{folder}/{seed}", "w") as file:
  json.dump([began, time.time(), os.environ["XLA_CLIENT_MEM_FRACTION"]], file)
"""


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2, 4])
def test_at_most_jobs_processes_run_at_a_time_each_with_its_fraction_of_memory(
  jobs, tmp_path, monkeypatch
):
  monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
  monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.8")
  assert make(tmp_path, TIMED, jobs) == dict.fromkeys(RUNS, 0)
  times = [json.loads((tmp_path / str(job.seed)).read_text()) for job in RUNS]
  assert {float(fraction) for *_, fraction in times} == {0.8 / jobs}
  most = max(sum(began <= at < ended for began, ended, _ in times) for at, *_ in times)
  assert most <= jobs
  assert jobs == 1 or most > 1
  first = sorted(range(6), key=lambda seed: times[seed][0])[0]
  assert first < jobs  # they start in their order


def test_exit_codes_and_runs_that_are_not_wanted(tmp_path, capsys):
  text = "import sys; print('line', file=sys.stderr); sys.exit(seed)"
  codes = make(tmp_path, text, 2, runs=RUNS[:2], is_wanted=lambda job: job.seed != 0)
  assert codes == {RUNS[1]: 1}
  assert capsys.readouterr().err == "digits-reduced/msdnet6-seed1: line\n"


ENDLESS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open(f"{folder}/stopped{seed}", "w").close(), sys.exit(143)))
open(f"{folder}/began{seed}", "w").close()
time.sleep(60)
"""


def test_when_over_processes_receive_sigterm_and_none_starts(tmp_path):
  def is_over():
    return all((tmp_path / f"began{seed}").exists() for seed in (0, 1))

  assert make(tmp_path, ENDLESS, 2, is_over=is_over) == dict.fromkeys(RUNS[:2], 143)
  names = {str(path) for path in contents(tmp_path)}
  assert names == {"began0", "began1", "stopped0", "stopped1"}


def test_exit_code_2_stops_the_other_processes(tmp_path):
  text = f"""
import os, sys, time
if seed == 0:
  while not os.path.exists(f"{{folder}}/began1"): time.sleep(0.01)
  sys.exit(2)
{ENDLESS}"""
  assert make(tmp_path, text, 2) == {RUNS[0]: 2, RUNS[1]: 143}


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({}, {"XLA_CLIENT_MEM_FRACTION": "0.1875"}),
    ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.4"}, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.1000"}),
  ],
)
def test_fractions_of_gpu_memory(environment, expected):
  assert memory_fraction(4, environment) == expected
  with pytest.raises(UsageError, match="XLA_CLIENT_MEM_FRACTION: expected a number, got 'most'"):
    memory_fraction(4, {"XLA_CLIENT_MEM_FRACTION": "most"})


def test_a_claim_belongs_to_one_process_until_it_ends(tmp_path):
  text = f"""
import pathlib, sys
from experiments.reproduction.jobs import claimed
with claimed(pathlib.Path({str(tmp_path)!r}), "cifar10/msdnet6-seed0") as is_mine:
  print(is_mine, flush=True)
  sys.stdin.read()
"""
  other = subprocess.Popen(
    [sys.executable, "-c", text], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  assert other.stdout.readline() == "True\n"
  with claimed(tmp_path, "cifar10/msdnet6-seed0") as is_mine:
    assert not is_mine
  with claimed(tmp_path, "cifar10/msdnet6-seed1") as is_mine:
    assert is_mine
  other.kill()
  other.communicate()
  with claimed(tmp_path, "cifar10/msdnet6-seed0") as is_mine:
    assert is_mine


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_queue_skips_runs_that_another_command_makes_or_has_made(jobs, tmp_path, monkeypatch, capsys):
  """Another command is making seed 0, and has finished seed 1 after this one had read the records."""
  made = {
    seed: record("msdnet6", 91.0, dataset="digits", protocol="reduced", seed=seed) for seed in (1, 2)
  }

  def read(results):
    records.save(results, made[1])
    return []

  def make(job, results, data_dir, budget):
    records.save(results, made[job.seed])
    return made[job.seed]

  def begun(runs, jobs, command, *, is_wanted, is_over):
    wanted = [job for job in runs if is_wanted(job)]
    assert [job.seed for job in wanted] == [2]
    make(*wanted, tmp_path, None, None)
    return dict.fromkeys(wanted, 0)

  monkeypatch.setattr(records, "read", read)
  monkeypatch.setattr(reproduce, "make", make)
  monkeypatch.setattr(reproduce, "side_by_side", begun)
  flags = parse(
    *("--protocol=reduced", "--dataset=digits", "--rows=msdnet6", f"--jobs={jobs}"),
    f"--results={tmp_path}",
  )
  with claimed(tmp_path, RUNS[0].name):
    assert reproduce.main(flags) == 0
  printed = capsys.readouterr()
  assert "91.00 ± 0.00 (2)" in printed.out
  assert "1 runs are left" in printed.err


@pytest.mark.parametrize(
  ("codes", "expected"),
  [((0, 0), 0), ((0, 1), 1), ((1, 2), 2), ((143, -15), 0), ((-9, 0), 1)],
)
def test_the_exit_code_of_a_parallel_queue(codes, expected, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(
    reproduce, "side_by_side", lambda runs, *_, **__: dict(zip(runs, codes, strict=False))
  )
  flags = parse(
    *("--protocol=reduced", "--dataset=digits", "--rows=msdnet6", "--seeds=0,1", "--jobs=2"),
    f"--results={tmp_path}",
  )
  assert reproduce.main(flags) == expected
  assert capsys.readouterr().err.count("failed: its process ended with code") == sum(
    code in (1, 2, -9) for code in codes
  )


@pytest.mark.slow
def test_the_results_do_not_depend_on_the_number_of_jobs_and_commands(tmp_path):
  """One run at a time, two in parallel, and two commands that share the queue."""
  for name, jobs, commands in (("1", 1, 1), ("2", 2, 1), ("shared", 1, 2)):
    processes = [
      subprocess.Popen(
        command(tmp_path / name, f"--jobs={jobs}"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for _ in range(commands)
    ]
    printed = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), printed
    begun = sum(err.count("run 1 of 1: ") if jobs > 1 else err.count(" of 2: ") for _, err in printed)
    assert begun == 2, printed  # each run started once, by either command
    found = {one.job: one for one in records.read(tmp_path / name)}
    assert len(found) == 2
    assert len(contents(tmp_path / name / "pictures")) == 1  # one plot per cell
    for job, one in found.items():
      first = next(o for o in records.read(tmp_path / "1") if o.job == job)
      assert one.curve == first.curve
      digests = [final_digest(tmp_path / folder / "work" / job.name) for folder in ("1", name)]
      assert digests[0] == digests[1]


@pytest.mark.slow
def test_a_signal_stops_all_jobs_with_checkpoints_and_the_command_resumes_them(tmp_path):
  arguments = ("--jobs=2",)
  process = subprocess.Popen(
    command(tmp_path, *arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  deadline = time.monotonic() + 120
  while len(list(tmp_path.glob("work/*/*/metrics.jsonl"))) < 2:
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.05)
  os.kill(process.pid, signal.SIGINT)
  _, err = process.communicate()
  assert process.returncode == 130, err
  stopped = records.read(tmp_path)
  assert {one.status for one in stopped} == {"interrupted"}
  assert len(stopped) == 2
  done = subprocess.run(
    command(tmp_path, *arguments), cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert {one.status for one in records.read(tmp_path)} == {"ok"}
