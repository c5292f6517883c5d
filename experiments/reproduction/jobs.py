"""Runs of a queue side by side, and the locks by which commands share the queue of a results folder."""

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

from cscjax.runs import open_lock
from experiments.cli import UsageError
from experiments.reproduction.records import WORK
from experiments.reproduction.studies import Job

POLL_SECONDS = 0.1
MEMORY_FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""Variables with the fraction of a GPU's memory that JAX takes: the present name, and an older one."""
MEMORY_FRACTION = 0.75
"""JAX's default."""


@contextlib.contextmanager
def claimed(results: pathlib.Path, name: str) -> Iterator[bool]:
  """Within, no other process claims the same name; gives False where one has done so.

  The claim is a lock on a file, which ends with the process, however it ends.

  Args:
    results: Folder of the results.
    name: Of a run, or of what else is to be made once.
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


def share_of_memory(jobs: int, environment: Mapping[str, str]) -> dict[str, str]:
  """Returns the variable that gives each of `jobs` processes an equal part of a GPU's memory.

  Args:
    jobs: Number of processes.
    environment: The variables of this process; a fraction that is set there is what they divide.

  Raises:
    UsageError: If that fraction is no number.
  """
  given = [name for name in MEMORY_FRACTIONS if environment.get(name)]
  name = given[0] if given else MEMORY_FRACTIONS[0]
  try:
    return {name: f"{float(environment.get(name) or MEMORY_FRACTION) / jobs:.4f}"}
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
  """Makes runs, each in a process of its own, and returns the exit codes of the processes.

  Lines that a process prints on stderr are printed here, with the name of its run before each.

  A process that loses this one, by SIGKILL for example, ends after its run.

  Args:
    runs: The runs, in the order in which they are begun.
    jobs: The most processes at a time, among which a GPU's memory is divided.
    command: Returns the command that makes a run.
    is_wanted: Tells whether a run is still to be made, right before it is begun.
    is_over: Tells, several times a second, whether to end. Then, or once a process has ended with code
      2, no run is begun, and the processes get SIGTERM, on which they write a checkpoint and end.

  Raises:
    UsageError: See `share_of_memory`.
  """
  environment = {**os.environ, **share_of_memory(jobs, os.environ)}
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
    _stop(running.values())  # some are left only after an exception


class _Process(subprocess.Popen):
  """A process whose lines on stderr are printed here, with its name before them."""

  def __init__(self, name, command, environment):
    super().__init__(
      command,
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      errors="replace",
      start_new_session=True,  # a terminal's signals reach the first process alone, which passes one on
    )
    self._printing = threading.Thread(target=self._print, args=(name,), daemon=True)
    self._printing.start()

  def _print(self, name):
    assert self.stderr
    with self.stderr as lines:
      for line in lines:
        print(f"{name}: {line}", end="", file=sys.stderr, flush=True)

  def end(self):
    """Its exit code, after its last line."""
    self._printing.join()
    return self.returncode


def _stop(processes):
  for process in processes:
    process.send_signal(signal.SIGTERM)
