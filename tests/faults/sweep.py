"""Makes each file call of a short run fail, in a run of its own, and checks the results.

    python -m tests.faults.sweep --every=1 --errno=ENOSPC,EIO,EROFS,EDQUOT,EACCES,EMFILE

A run makes some hundred file calls below its workdir. `preload.c` counts them and makes the n-th fail,
alone or together with all later ones. Such a run must end with the right result, or with an error in one
line and exit code 2. The same command without a fault must then give the same result as a run without
any fault, bit by bit.

Each run is a fork of a process that has imported everything but started no thread, which saves the time
of the imports.
"""

import atexit
import contextlib
import ctypes
import errno
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from absl import app, flags

from tests.faults import harness

# A checkpoint after each call of the device; the number of calls does not depend on the clock.
FLAGS = (*harness.TINY, "--epochs=2", "--checkpoint_seconds=0", "--dispatch_seconds=1000")
ERRNOS = ("ENOSPC", "EIO", "EROFS", "EDQUOT", "EACCES", "EMFILE")
SECONDS = 120  # time after which a run counts as hung
EXPECTED = re.compile(r"\S+: step \d+ of \d+$|compiling the training step|step \d+/|epoch \d|warning: ")


class Fault(NamedTuple):
  """Number of the call that fails, name of the error, and whether all later calls fail too."""

  call: int
  error: str
  lasting: bool


class Ended(NamedTuple):
  """Result of a run: exit code (None if it hung), stdout, stderr, and number of file calls."""

  returncode: int | None
  stdout: str
  stderr: str
  calls: int


def has_compiler() -> bool:
  """Whether this machine has a C compiler."""
  return shutil.which("cc") is not None


def compiled(folder: pathlib.Path) -> pathlib.Path:
  """Compiles preload.c into a library in `folder`."""
  library, source = folder / "preload.so", pathlib.Path(__file__).with_name("preload.c")
  subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
  return library


class Server:
  """Executes runs as forks of one process."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    library = compiled(folder)
    self._process = subprocess.Popen(
      [sys.executable, "-c", f"from tests.faults import sweep; sweep.serve({str(library)!r})"],
      cwd=harness.ROOT,
      env={
        **os.environ,
        "LD_PRELOAD": str(library),
        "OPENBLAS_NUM_THREADS": "1",
      },  # a process with threads cannot be forked
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    assert self._process.stdin
    assert self._process.stdout
    self._jobs, self._answers = self._process.stdin, self._process.stdout

  def run(self, workdir: pathlib.Path, fault: Fault | None = None, *arguments: str) -> Ended:
    """Executes the run in `workdir` to its end, with `FLAGS` and the given flags."""
    cache = self._folder / "compiled"
    arguments = (*FLAGS, f"--compilation_cache={cache}", f"--workdir={workdir}", *arguments)
    names = [str(self._folder / name) for name in ("stdout", "stderr", "calls")]
    job = {"arguments": arguments, "workdir": str(workdir), "fault": fault, "files": names}
    self._jobs.write(json.dumps(job) + "\n")
    self._jobs.flush()
    returncode = json.loads(self._answers.readline())
    out, err, calls = (pathlib.Path(name).read_text() for name in names)
    return Ended(returncode, out, err, int(calls or 0))

  def close(self) -> None:
    """Ends the process."""
    self._process.communicate()


def serve(library: str) -> None:
  """Executes each job on stdin in a child process and prints the exit code of the child."""
  from experiments import cli, run
  from experiments import flags as run_flags

  run_flags.define_flags()
  faults = ctypes.CDLL(library)
  for line in sys.stdin:
    job = json.loads(line)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot be forked"
    child = os.fork()
    if child:
      print(json.dumps(_wait(child)), flush=True)
      continue
    out, err, calls = (os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in job["files"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    atexit.register(lambda file=calls: os.write(file, str(faults.fault_count()).encode()))
    call, error, lasting = job["fault"] or (0, "EIO", False)
    faults.fault_arm(job["workdir"].encode(), ctypes.c_long(call), getattr(errno, error), lasting)
    sys.argv = ["run", *job["arguments"]]
    cli.run(run.main)


def _wait(child):
  deadline = time.monotonic() + SECONDS
  while time.monotonic() < deadline:
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
      return os.waitstatus_to_exitcode(status)
    time.sleep(0.01)
  os.kill(child, signal.SIGKILL)
  os.waitpid(child, 0)
  return None


def sweep(
  folder: pathlib.Path,
  every: int,
  errnos: tuple[str, ...] = ERRNOS,
  first: int = 1,
  resumed: bool = False,
) -> Iterator[dict[str, Any]]:
  """Yields a row for each run with a fault; "wrong" lists what was wrong.

  Args:
    folder: Folder for the runs.
    every: Distance between the calls that fail, one in each run.
    errnos: Names of the errors, used in turn, first for a single call and then also for all later ones.
    first: The first call that fails.
    resumed: Whether each run resumes one that was stopped after its first epoch.
  """
  with contextlib.closing(Server(folder)) as server:
    started, workdir = folder / "started", folder / "run"
    first_epoch = server.run(started, None, "--epochs=1")
    assert first_epoch.returncode == 0, first_epoch
    if resumed:
      shutil.copytree(started, folder / "alone")
    alone = server.run(folder / "alone")
    assert alone.returncode == 0, alone.stderr
    kinds = [(error, lasting) for lasting in (False, True) for error in errnos]
    for i, call in enumerate(range(first, alone.calls + 1, every)):
      fault = Fault(call, *kinds[i % len(kinds)])
      if resumed:
        shutil.copytree(started, workdir)
      ended = server.run(workdir, fault)
      wrong = [*_wrong_with_a_fault(ended, workdir, folder / "alone")]
      again = server.run(workdir)
      wrong += [f"restart: {what}" for what in _wrong_end(again, workdir, folder / "alone")]
      yield {"calls": alone.calls, **fault._asdict(), "code": ended.returncode, "wrong": wrong} | (
        {"stderr": [ended.stderr, again.stderr]} if wrong else {}
      )
      shutil.rmtree(workdir, ignore_errors=True)


def _wrong_with_a_fault(ended, workdir, alone):
  if ended.returncode == 0:
    yield from _wrong_end(ended, workdir, alone)
    return
  if ended.returncode != 2:
    yield f"exit code {ended.returncode}"
  lines = ended.stderr.splitlines()
  if not lines or not lines[-1].startswith("error: "):
    yield "no error at the end of stderr"
  if ended.stdout:
    yield "something on stdout"
  yield from _noise(lines[:-1])


def _wrong_end(ended, workdir, alone):
  """Yields what is wrong with a run that should have ended with the right result."""
  if ended.returncode != 0:
    yield f"exit code {ended.returncode}"
    return
  if harness.final_digest(workdir) != harness.final_digest(alone):
    yield "another state"
  if harness.rows(workdir) != harness.rows(alone):
    yield "other metrics"
  if _accuracies(json.loads(ended.stdout)) != _accuracies(
    json.loads((alone / "summary.json").read_text())
  ):
    yield "another summary"
  if "skipped" in ended.stderr:
    yield "a checkpoint was skipped"
  yield from _noise(ended.stderr.splitlines())


def _accuracies(summary):
  return {name: summary[name] for name in ("status", "steps", "test_accuracy", "best_test_accuracy")}


def _noise(lines):
  unknown = [line for line in lines if not EXPECTED.match(line)]
  if unknown:
    yield f"{len(unknown)} lines of noise: {unknown[0]}"


def main(_):
  """Prints each row with a problem and a summary; returns 1 if there is a problem."""
  args = flags.FLAGS
  errnos = tuple(args.errno)
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for row in sweep(pathlib.Path(folder), args.every, errnos, args.first, args.resumed):
      rows.append(row)
      if row["wrong"]:
        print(json.dumps(row), flush=True)
  wrong = sum(bool(row["wrong"]) for row in rows)
  codes = {code: sum(row["code"] == code for row in rows) for code in {row["code"] for row in rows}}
  print(json.dumps({"calls": rows[0]["calls"], "runs": len(rows), "wrong": wrong, "exit_codes": codes}))
  return int(wrong > 0)


if __name__ == "__main__":
  flags.DEFINE_integer("every", 1, "Distance between the calls that fail.", lower_bound=1)
  flags.DEFINE_integer("first", 1, "The first call that fails.", lower_bound=1)
  flags.DEFINE_list("errno", list(ERRNOS), "Names of the errors, used in turn.")
  flags.DEFINE_bool(
    "resumed", False, "Whether each run resumes one that was stopped after its first epoch."
  )
  app.run(main)
