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
import pathlib
import sys
from typing import Any

import jax
from absl import flags as absl_flags

from cscjax import training
from cscjax.data import DataError, Dataset, dataset_shape, load_dataset
from cscjax.models import ARCHITECTURES
from cscjax.plots import learning_curves
from experiments import cli, flags
from experiments.build import build, chance_accuracy, check_network, make_model, start
from experiments.cluster import connected, together
from experiments.compilation_cache import use_compilation_cache
from experiments.config import Config
from experiments.progress import create_progress
from experiments.signals import received, remembered
from experiments.workdir import open_workdir, replaced, run_name, write_config, write_json


class Signals:
  """Whether a signal asks a run to end.

  Attributes:
    agreed: The number of one that a process of the run has received, 0 while they know of none.
  """

  def __init__(self):
    self.agreed = 0

  def stopped(self) -> bool:
    """Whether a process has received one; every process has to ask at the same point."""
    self.agreed = training.largest(received())
    return self.agreed != 0


def main() -> int:
  """Runs what the flags ask for and returns the exit code."""
  signals = Signals()
  summary = execute(flags.config_from_flags(), signals)
  if training.is_first():
    print(json.dumps(summary, allow_nan=False), flush=True)
  return 128 + signals.agreed if summary["status"] == "interrupted" else 0


def execute(config: Config, signals: Signals) -> dict[str, Any]:
  """Does a run, from the last checkpoint of its workdir or from the start; returns its summary.

  Raises:
    UsageError: If the flags fit neither each other nor the data, or the workdir cannot be used.
    DataError: If the data cannot be had.
  """
  make_model(config, dataset_shape(config.dataset)[1])  # refused before any data is read
  # JAX_THREEFRY_PARTITIONABLE would change the random numbers; JAX_TRANSFER_GUARD would end the run.
  with connected(config), jax.threefry_partitionable(True), jax.transfer_guard("allow"):
    with contextlib.ExitStack() as held:
      if config.coordinator:  # the others would wait for a process that ends alone
        held.enter_context(remembered())
      with together(config):
        dataset = _load(config)
        # This and the next refuse before anything is written.
        trainer, plan = build(config, dataset, training.create_mesh())
        check_network(config, dataset, trainer.model)
        use_compilation_cache(config)
        held.enter_context(remembered())
        workdir = held.enter_context(open_workdir(config))
      outcome, rows = train(config, dataset, trainer, plan, workdir, signals)
      summary = summarize(config, plan, dataset, outcome, rows)
      if training.is_first():
        write_results(config, workdir, summary, rows)
      return summary


def _load(config):
  try:
    return load_dataset(
      config.dataset,
      data_dir=config.data_dir,
      validation_fraction=config.validation_fraction,
      train_examples=config.train_examples,
      download=config.download,
    )
  except DataError:
    raise
  except ValueError as error:  # a number of examples that is right for other data
    raise cli.UsageError(f"--{error}") from error


def train(
  config: Config,
  dataset: Dataset,
  trainer: training.Trainer,
  plan: training.Plan,
  workdir: pathlib.Path,
  signals: Signals,
) -> tuple[training.Outcome, list[dict[str, Any]]]:
  """Trains from the last checkpoint of `workdir`, or from the start; returns the rows too.

  Raises:
    UsageError: If a checkpoint cannot be read or does not fit the network; nothing is written then.
  """
  first = training.is_first()
  name = run_name(workdir) if first else None
  checkpoints = training.Checkpoints(
    workdir / "checkpoints", run=name, architecture=ARCHITECTURES[config.model]
  )
  with contextlib.closing(checkpoints):
    with together(config):
      state, data, key = start(config, dataset, trainer, plan)
      restored = _restore(checkpoints, state, workdir)
    if name is not None:
      write_config(workdir, config, name)
    state, seconds = restored if restored else (state, 0.0)
    step = int(state.step)
    log = training.MetricsLog(workdir / "metrics.jsonl" if first else None, last_step=step)
    if first:
      print(f"{workdir}: step {step} of {plan.total_steps}", file=sys.stderr, flush=True)
    with contextlib.closing(create_progress(step, plan.total_steps)) as progress:
      outcome = training.fit(
        trainer,
        plan,
        state,
        data,
        key,
        log=log,
        checkpoints=checkpoints,
        progress=progress,
        stopped=signals.stopped,
        seconds=seconds,
      )
  return outcome, log.rows


def _restore(checkpoints, state, workdir):
  try:
    return checkpoints.restore(state)
  except (training.CheckpointError, OSError) as error:
    raise cli.UsageError(f"--workdir: {workdir}: {error}") from error


def summarize(
  config: Config,
  plan: training.Plan,
  dataset: Dataset,
  outcome: training.Outcome,
  rows: list[dict[str, Any]],
) -> dict[str, Any]:
  """summary.json: accuracies in 0..1 (null where there was no evaluation), sizes, times, status.

  A run that went through all its epochs and answers no better than chance has diverged, too.
  """
  accuracies = {
    split: [row["accuracy"] for row in rows if row["split"] == split] for split in ("test", "validation")
  }
  last = {split: values[-1] if values else None for split, values in accuracies.items()}
  best = {
    split: max((v for v in values if v is not None), default=None)
    for split, values in accuracies.items()
  }
  status, step = outcome.status, int(outcome.state.step)
  complete = status == "ok" and step == config.epochs * plan.steps_per_epoch
  if complete and (last["test"] or 0.0) <= chance_accuracy(dataset.test.labels):
    status = "diverged"
  if outcome.status == "diverged" and training.is_first():
    bad = int(outcome.state.bad_step)
    print(f"diverged: the loss or the parameters of step {bad} are not finite", file=sys.stderr)
  rates = [row["images_per_second"] for row in rows if row["split"] == "train"]
  rates = [rate for rate in rates if rate is not None]
  summary = {
    "status": status,
    "test_accuracy": last["test"],
    "best_test_accuracy": best["test"],
    "parameters": training.parameter_count(outcome.state.params),
    "epochs": step / plan.steps_per_epoch,
    "steps": step,
    "seconds": round(outcome.seconds, 3),
    "images_per_second": round(sum(rates) / len(rates), 1) if rates else None,
  }
  if plan.split == "validation":
    summary |= {
      "validation_accuracy": last["validation"],
      "best_validation_accuracy": best["validation"],
    }
  return summary


def write_results(
  config: Config, workdir: pathlib.Path, summary: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
  """Writes summary.json and curves.png; only warns where the latter, which adds nothing, cannot be."""
  write_json(workdir / "summary.json", summary)
  given = [f"{name} {getattr(config, name)}" for name in ("depth", "solver", "unfolding")]
  title = ", ".join([config.dataset, config.model, *(g for g in given if not g.endswith(" None"))])
  try:
    with replaced(workdir / "curves.png") as scratch:
      learning_curves(rows, title=title).savefig(scratch, format="png", dpi=120)
  except OSError as error:
    cli.say(f"cannot write {workdir / 'curves.png'}: {error.strerror}", "warning")


if __name__ == "__main__":
  flags.define_flags()
  absl_flags.adopt_module_key_flags(flags)  # so that --help lists them
  cli.run(main)
