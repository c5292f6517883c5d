"""Trains a network: python -m experiments.run --flagfile=experiments/quickstart.flags.

Writes config.json, metrics.jsonl, checkpoints/, curves.png and summary.json to --workdir and resumes
what that holds. The last line on stdout is the summary. Exit code 0 for a run that ended, also a
diverged one; 2 for bad flags or data, or where the files cannot be written (a full disk); 128 + n after
a clean stop on signal n: SIGHUP, SIGINT, SIGQUIT, SIGTERM or SIGUSR1, of which a second one ends the
process at once. Of several processes (--coordinator) the first prints and writes; each of them exits
with the run's code.
"""

import contextlib
import json
from typing import Any

from absl import flags as absl_flags

from cscjax import runs, training
from experiments import cli, flags
from experiments.cluster import connected
from experiments.signals import received, remembered


class Signals:
  """Whether a signal asks a run to end.

  Attributes:
    agreed: The number of one that a process of the run has received, 0 while they know of none.
  """

  def __init__(self):
    self.agreed = 0

  def stopped(self) -> bool:
    """Whether a process has received one; every process has to ask at the same point."""
    self.agreed = training.process_max(received())
    return self.agreed != 0


def main() -> int:
  """Runs what the flags ask for and returns the exit code."""
  signals = Signals()
  summary = execute(flags.config_from_flags(), signals)
  if training.is_first():
    print(json.dumps(summary, allow_nan=False), flush=True)
  return 128 + signals.agreed if summary["status"] == "interrupted" else 0


def execute(config: runs.Config, signals: Signals) -> dict[str, Any]:
  """Makes and executes a run, which a signal ends at a checkpoint; returns its summary.

  Raises:
    UsageError: If the devices that the environment asks for cannot be used.
    RunError: As `runs.make_run` and `runs.execute`.
    DataError: As these.
  """
  with connected(config), contextlib.ExitStack() as held:
    if config.coordinator:  # the others would wait for a process that ends alone
      held.enter_context(remembered())
    run = runs.make_run(config)
    held.enter_context(remembered())
    return runs.execute(run, stopped=signals.stopped)


if __name__ == "__main__":
  flags.define_flags()
  absl_flags.adopt_module_key_flags(flags)  # so that --help lists them
  cli.run(main)
