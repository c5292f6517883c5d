"""A run from its configuration to its summary."""

import contextlib
import dataclasses
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax

from cscjax import training
from cscjax.data import DataError, Dataset, dataset_shape, load_dataset
from cscjax.models import ARCHITECTURES
from cscjax.plots import learning_curves
from cscjax.runs._build import (
  build,
  chance_accuracy,
  check_network,
  for_device,
  make_model,
  start,
)
from cscjax.runs._compilation_cache import use_compilation_cache
from cscjax.runs._config import Config, RunError
from cscjax.runs._processes import connect, together
from cscjax.runs._progress import create_progress
from cscjax.runs._workdir import open_workdir, replaced, run_name, write_config, write_json


@dataclasses.dataclass(frozen=True)
class Run:
  """A run that can be executed; made by `make_run`.

  Attributes:
    config: What was asked for.
    dataset: The data that it names, in host memory.
    trainer: What a training step is: the network, the optimizer, the devices.
    plan: When the run evaluates and ends.
  """

  config: Config
  dataset: Dataset
  trainer: training.Trainer
  plan: training.Plan


def never() -> bool:
  """Returns False: nothing stops the run."""
  return False


def make_run(config: Config) -> Run:
  """Loads the data of a run and checks that all of its parts fit; writes no file of the run.

  Args:
    config: The configuration. With a coordinator this process joins the others first.

  Raises:
    RunError: If the fields fit neither each other nor the data and the devices.
    DataError: If the data cannot be had.
    MissingExtraError: If a package that reads them is not installed.
  """
  connect(config)
  with _settings(), together(config):
    num_classes = dataset_shape(config.dataset)[1]
    model = make_model(for_device(config, jax.default_backend()), num_classes)  # before any data is read
    dataset = _load(config)
    trainer, plan = build(config, model, dataset, training.create_mesh())
    check_network(config, model, dataset)
    return Run(config, dataset, trainer, plan)


def execute(run: Run, *, stopped: Callable[[], bool] = never, progress: bool = True) -> dict[str, Any]:
  """Trains from the last checkpoint of the run's workdir, or from the start, and returns its summary.

  Writes config.json, metrics.jsonl, checkpoints/, curves.png and summary.json to the workdir, and turns
  on JAX's persistent compilation cache as the configuration says. Of several processes the first one
  writes and shows for all.

  Args:
    run: From `make_run`.
    stopped: Asked after every call of the device, and has to answer the same on every process; once it
      returns True the run ends with a checkpoint, and may be executed again to go on.
    progress: Whether to show a bar, or lines where stderr is no terminal.

  Returns:
    What summary.json holds: status ("ok", "diverged" or "interrupted"), accuracies in 0..1 (None where
    there was no evaluation), numbers of parameters, epochs and steps, seconds, images a second.

  Raises:
    RunError: If the workdir cannot be used, is another run's, or cannot be written any more, or a
      checkpoint cannot be read or does not fit the network.
    DataError: If there is no data directory to keep compiled programs in.
  """
  config = run.config
  with _settings(), contextlib.ExitStack() as held:
    with together(config):
      use_compilation_cache(config)
      workdir = held.enter_context(open_workdir(config))
    first = training.is_first()
    name = run_name(workdir) if first else None
    architecture = ARCHITECTURES[config.model]
    checkpoints = training.Checkpoints(workdir / "checkpoints", run=name, architecture=architecture)
    held.enter_context(contextlib.closing(checkpoints))
    with together(config):
      state, data, key = start(config, run.dataset, run.trainer, run.plan)
      restored = _restore(checkpoints, state, workdir)
    if name is not None:
      write_config(workdir, config, name)
    state, seconds = restored if restored else (state, 0.0)
    step = int(state.step)
    log = training.MetricsLog(workdir / "metrics.jsonl" if first else None, last_step=step)
    display = create_progress(step, run.plan.total_steps, progress)
    with contextlib.closing(display):
      display.say(f"{workdir}: step {step} of {run.plan.total_steps}")
      outcome = training.fit(
        run.trainer,
        run.plan,
        state,
        data,
        key,
        log=log,
        checkpoints=checkpoints,
        progress=display,
        stopped=stopped,
        seconds=seconds,
      )
      if outcome.status == "diverged":
        bad = int(outcome.state.bad_step)
        display.say(f"diverged: the loss or the parameters of step {bad} are not finite")
    summary = _summarize(run, outcome, log.rows)
    if first:
      _write_results(config, workdir, summary, log.rows)
    return summary


@contextlib.contextmanager
def _settings() -> Iterator[None]:
  """JAX_THREEFRY_PARTITIONABLE would change the random numbers; JAX_TRANSFER_GUARD would end the run."""
  with jax.threefry_partitionable(True), jax.transfer_guard("allow"):
    yield


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
    raise RunError.from_check(error) from error


def _restore(checkpoints, state, workdir):
  try:
    return checkpoints.restore(state)
  except (training.CheckpointError, OSError) as error:
    raise RunError(f"{workdir}: {error}", "workdir") from error


def _summarize(run, outcome, rows) -> dict[str, Any]:
  """summary.json. A run that has gone through all its epochs to no better than chance diverged, too."""
  accuracies = {
    split: [row["accuracy"] for row in rows if row["split"] == split] for split in ("test", "validation")
  }
  last = {split: values[-1] if values else None for split, values in accuracies.items()}
  best = {
    split: max((v for v in values if v is not None), default=None)
    for split, values in accuracies.items()
  }
  status, step = outcome.status, int(outcome.state.step)
  complete = status == "ok" and step == run.config.epochs * run.plan.steps_per_epoch
  if complete and (last["test"] or 0.0) <= chance_accuracy(run.dataset.test.labels):
    status = "diverged"
  rates = [row["images_per_second"] for row in rows if row["split"] == "train"]
  rates = [rate for rate in rates if rate is not None]
  summary = {
    "status": status,
    "test_accuracy": last["test"],
    "best_test_accuracy": best["test"],
    "parameters": training.parameter_count(outcome.state.params),
    "epochs": step / run.plan.steps_per_epoch,
    "steps": step,
    "seconds": round(outcome.seconds, 3),
    "images_per_second": round(sum(rates) / len(rates), 1) if rates else None,
  }
  if run.plan.split == "validation":
    summary |= {
      "validation_accuracy": last["validation"],
      "best_validation_accuracy": best["validation"],
    }
  return summary


def _write_results(config: Config, workdir: pathlib.Path, summary: dict[str, Any], rows) -> None:
  """Writes summary.json and curves.png; only warns where the latter, which adds nothing, cannot be."""
  write_json(workdir / "summary.json", summary)
  try:
    with replaced(workdir / "curves.png") as scratch:
      learning_curves(rows, title=config.title).savefig(scratch, format="png", dpi=120)
  except OSError as error:
    warnings.warn(f"cannot write {workdir / 'curves.png'}: {error.strerror}", stacklevel=2)
  except ImportError as error:
    warnings.warn(f"curves.png is not drawn: {error}", stacklevel=2)
