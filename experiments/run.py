"""Trains a network.

    python -m experiments.run --flagfile=experiments/quickstart.flags

Writes config.json, metrics.jsonl, checkpoints/, curves.png and summary.json to --workdir. If --workdir
already holds the run, the command resumes it from its last checkpoint. The last line on stdout is the
summary, a JSON object.

The network of --model is changed by --depth, --width, --dilations, --solver, --unfolding, --pursuit,
--step, --c, --norm, --remat, --unroll and --channel_multiple. If one of them is not given, the network
uses its own default; one that the network does not have is an error.

Exit codes:
  0        the run is complete, even if it diverged
  2        bad flags or data, or the files cannot be written (for example a full disk)
  128 + n  signal n (SIGHUP, SIGINT, SIGQUIT, SIGTERM or SIGUSR1) stopped the run after a checkpoint; a
           second signal ends the process at once

With several processes (--coordinator) only process 0 prints and writes files; all of them exit with the
same code.
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
  """Stops a run on a signal, on all of its processes together.

  Attributes:
    agreed: Number of a signal that a process of the run has received, 0 if there is none. It is the same
      on all processes, as of the last call of `stopped`.
  """

  def __init__(self) -> None:
    self.agreed = 0

  def stopped(self) -> bool:
    """Whether a process has received a signal; all processes must call this at the same point."""
    self.agreed = training.process_max(received())
    return self.agreed != 0


def main() -> int:
  """Executes the run that the flags describe and returns the exit code."""
  signals = Signals()
  summary = execute(flags.config_from_flags(), signals)
  if training.is_first():
    print(json.dumps(summary, allow_nan=False), flush=True)
  return 128 + signals.agreed if summary["status"] == "interrupted" else 0


def execute(config: runs.Config, signals: Signals) -> dict[str, Any]:
  """Makes and executes a run, which a signal ends with a checkpoint; returns its summary.

  Raises:
    UsageError: If the devices that the environment asks for cannot be used.
    RunError: If the run cannot be made or executed, see `runs.make_run` and `runs.execute`.
    DataError: If the data are missing or damaged.
    MissingExtraError: If a package that reads the data is not installed.
  """
  with connected(config), contextlib.ExitStack() as held:
    if config.coordinator:  # otherwise the other processes would wait for this one
      held.enter_context(remembered())
    run = runs.make_run(config)
    held.enter_context(remembered())
    summary = runs.execute(run, stopped=signals.stopped)
    if summary["status"] == "interrupted" and training.is_first():
      where = "" if config.workdir else " with this directory as --workdir"
      cli.say(f"the same command{where} resumes the run", "stopped")
    return summary


if __name__ == "__main__":
  flags.define_flags()
  absl_flags.adopt_module_key_flags(flags)  # so that --help lists them
  cli.run(main, topics=flags.topics())
