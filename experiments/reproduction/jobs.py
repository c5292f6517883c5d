"""Parallel execution of runs, and the locks with which several commands share one results folder."""

import collections
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, cast

from cscjax.runs import open_lock
from experiments.cli import UsageError
from experiments.reproduction.records import WORK
from experiments.reproduction.studies import Job

POLL_SECONDS = 0.1
MEMORY_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""Environment variables that set the fraction of GPU memory that JAX allocates, the newer name first."""
DEFAULT_MEMORY_FRACTION = 0.75
"""The fraction of GPU memory that JAX allocates by default."""


@contextlib.contextmanager
def claimed(results: pathlib.Path, name: str) -> Iterator[bool]:
  """Context manager that claims a name, so that no other process does the same work.

  It yields True, or False if another process holds the claim. The claim is a lock on a file, which the
  operating system releases when the process ends, even if the process is killed.

  Args:
    results: Folder of the results.
    name: Name of a run, or of anything else that must be made only once.
  """
  file = results / WORK / f"{name}.lock"
  file.parent.mkdir(parents=True, exist_ok=True)
  try:
    lock = open_lock(file)
  except BlockingIOError:
    yield False
    return
  try:
    yield True
  finally:
    os.close(lock)


def memory_fraction(jobs: int, environment: Mapping[str, str]) -> dict[str, str]:
  """Returns the environment variable that gives each of `jobs` processes an equal part of GPU memory.

  Args:
    jobs: Number of processes.
    environment: Environment of this process. If it sets the fraction of GPU memory for JAX, the
      processes divide that fraction among them.

  Raises:
    UsageError: If the fraction in the environment is not a number.
  """
  given = [name for name in MEMORY_VARIABLES if environment.get(name)]
  name = given[0] if given else MEMORY_VARIABLES[0]
  try:
    return {name: f"{float(environment.get(name) or DEFAULT_MEMORY_FRACTION) / jobs:.4f}"}
  except ValueError:
    raise UsageError(f"the environment: {name}: expected a number, got {environment[name]!r}") from None


def side_by_side(
  runs: Iterable[Job],
  jobs: int,
  command: Callable[[Job], list[str]],
  *,
  is_wanted: Callable[[Job], bool],
  is_over: Callable[[], bool],
) -> dict[Job, int]:
  """Executes runs in parallel, each in its own process, and returns the exit codes of the processes.

  The lines that a process prints on stderr appear on this process's stderr, prefixed with the name of
  the run. If this process is killed, its child processes finish their run and end.

  Args:
    runs: The runs, in the order in which they start.
    jobs: Largest number of concurrent processes, which divide the GPU memory among them.
    command: Returns the command line of a run.
    is_wanted: Called right before a run starts; returns whether it is still needed.
    is_over: Called several times per second; returns whether to stop. If it returns True, or if a
      process exits with code 2, no further run starts, and the running processes receive SIGTERM, upon
      which they write a checkpoint and exit.

  Raises:
    UsageError: If the fraction of GPU memory in the environment is not a number.
  """
  environment = {**os.environ, **memory_fraction(jobs, os.environ)}
  queue, codes = collections.deque(runs), {}
  running: dict[Job, _Process] = {}
  is_ending = False
  try:
    while True:
      if not is_ending and (is_over() or 2 in codes.values()):
        is_ending = True
        queue.clear()
        _stop(running.values())
      while queue and len(running) < jobs:
        job = queue.popleft()
        if is_wanted(job):
          running[job] = _Process(job.name, command(job), environment)
      if not running:
        return codes
      time.sleep(POLL_SECONDS)
      for job in [job for job, process in running.items() if process.poll() is not None]:
        codes[job] = running.pop(job).end()
  finally:
    _stop(running.values())  # processes are left only after an exception


class _Process(subprocess.Popen):
  """A process whose lines on stderr are printed on ours, prefixed with its name."""

  def __init__(self, name: str, command: list[str], environment: Mapping[str, str]):
    super().__init__(
      command,
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      errors="replace",
      start_new_session=True,  # Ctrl-C in a terminal then reaches only this process, which sends SIGTERM
    )
    self._printing = threading.Thread(target=self._print, args=(name,), daemon=True)
    self._printing.start()

  def _print(self, name: str) -> None:
    with cast(IO[str], self.stderr) as lines:
      for line in lines:
        print(f"{name}: {line}", end="", file=sys.stderr, flush=True)

  def end(self) -> int:
    """Waits until the last line is printed and returns the exit code."""
    self._printing.join()
    return self.returncode


def _stop(processes: Iterable[subprocess.Popen]) -> None:
  for process in processes:
    process.send_signal(signal.SIGTERM)
