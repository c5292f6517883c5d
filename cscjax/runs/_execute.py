"""Makes and executes a run: from its configuration to its summary."""

import contextlib
import dataclasses
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax

from cscjax import training
from cscjax.data import DataError, Dataset, load_dataset
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
from cscjax.runs._config import Config, RunError, check_sizes
from cscjax.runs._initial import check_initial, initialized
from cscjax.runs._processes import connect, together
from cscjax.runs._tensorboard import EventFile, check_tensorboard
from cscjax.runs._workdir import open_workdir, replaced, run_name, write_config, write_json


@dataclasses.dataclass(frozen=True)
class Run:
  """A run that can be executed, made by `make_run`.

  Attributes:
    config: The configuration.
    dataset: Its data set, in host memory.
    trainer: Defines a training step: the network, the optimizer and the devices.
    plan: When the run evaluates, saves checkpoints and ends.

  Example:
    >>> from cscjax import runs
    >>> run = runs.make_run(runs.Config(dataset="digits", depth=2, batch_size=64, epochs=3))
    >>> len(run.dataset.train), run.plan.total_steps, type(run.trainer.model).__name__
    (1437, 66, 'MSDCSC')
  """

  config: Config
  dataset: Dataset
  trainer: training.Trainer
  plan: training.Plan


def never() -> bool:
  """Returns False, so that the run is never stopped."""
  return False


def make_run(config: Config) -> Run:
  """Loads the data of a run, builds its parts, and checks that they fit together.

  Nothing is written except for the cache of the data set.

  Args:
    config: The configuration. If it has a coordinator, this process first connects to the others.

  Returns:
    The run, for `execute`.

  Raises:
    RunError: If a field does not fit the network, the data or the devices, or the processes of the run
      cannot connect or have different configurations.
    DataError: If the data are missing or damaged.
    MissingExtraError: If a package that reads the data, or writes event files, is not installed.

  Example:
    >>> from cscjax import runs
    >>> config = runs.Config(model="msdnet", dataset="digits", depth=3, width=8, epochs=2)
    >>> run = runs.make_run(config)
    >>> run.plan.steps_per_epoch, run.plan.total_steps
    (11, 22)
  """
  connect(config)
  with _settings(), together(config):
    chosen = for_device(config, jax.default_backend())
    # An error of the network, or a missing package, is raised before any data are read.
    make_model(chosen, num_classes=2)
    if config.tensorboard:
      check_tensorboard()
    dataset = _load(config)
    model = make_model(chosen, dataset.num_classes)
    trainer, plan = build(config, model, dataset, training.create_mesh())
    check_network(config, model, dataset)
    check_initial(config, dataset, trainer)
    return Run(config, dataset, trainer, plan)


def execute(run: Run, *, stopped: Callable[[], bool] = never, progress: bool = True) -> dict[str, Any]:
  """Trains a run from its last checkpoint, or from the start, to its end.

  Writes config.json, metrics.jsonl, checkpoints/, curves.png and summary.json to the directory
  `run.config.workdir`, and event files to its folder tensorboard/ if `run.config.tensorboard` is set.
  Turns on JAX's persistent compilation cache, or turns it off, as `run.config.compilation_cache` says;
  this setting remains after the run. If there are several processes, only process 0 logs and writes
  files.

  Args:
    run: The run, from `make_run`.
    stopped: Called after every compiled call; it must return the same on every process. Once it
      returns True, the run ends with a checkpoint. Executing the run again resumes it.
    progress: Whether to show a progress bar on stderr, or lines if stderr is not a terminal.

  Returns:
    The contents of summary.json: "status" ("ok"; "diverged" if the loss or the parameters were not
    finite, or the final accuracy is not above chance; or "interrupted"), accuracies in 0..1 (None if
    there was no evaluation), "parameters", "epochs", "steps", "seconds" and "images_per_second".
    With a validation split also "validation_accuracy" and "best_validation_accuracy", and with
    `run.config.keep_best` the "best_step" whose checkpoint is kept.

  Raises:
    RunError: If the workdir cannot be written, holds another run or is used by another process, or if a
      checkpoint cannot be read or does not fit the network.

  Example:
    >>> from cscjax import runs
    >>> config = runs.Config(
    ...   model="msdnet", dataset="digits", depth=1, width=4, max_steps=1, workdir="runs/a",
    ...   compilation_cache="off",
    ... )
    >>> summary = runs.execute(runs.make_run(config), progress=False)
    >>> summary["status"], summary["steps"], summary["parameters"]
    ('ok', 1, 104)
  """
  config = run.config
  with _settings(), contextlib.ExitStack() as held:
    info = run.dataset.info
    with together(config, info.fingerprint):
      use_compilation_cache(config)
      workdir = held.enter_context(open_workdir(config, info.fingerprint))
    first = training.is_first()
    name = run_name(workdir) if first else None
    architecture = ARCHITECTURES[config.model]
    checkpoints = training.Checkpoints(workdir / "checkpoints", run=name, architecture=architecture)
    held.enter_context(contextlib.closing(checkpoints))
    with together(config):
      state, key = start(config, run.dataset, run.trainer)
      restored = _restore(checkpoints, state, workdir)
      state, seconds = restored or (initialized(config, state), 0.0)
    if name is not None:
      write_config(workdir, config, name, info)
    step = int(state.step)
    log = training.MetricsLog(workdir / "metrics.jsonl" if first else None, last_step=step)
    display = training.create_progress(step, run.plan.total_steps, shown=progress)
    with contextlib.closing(display):
      observer = display
      if config.tensorboard and first:
        observer = EventFile(workdir / "tensorboard", log.rows, seconds, display)
        held.enter_context(contextlib.closing(observer))
      display.say(f"{workdir}: step {step} of {run.plan.total_steps}")
      if step < run.plan.total_steps:
        display.say("compiling the training step, which takes minutes for deep networks")
      outcome = training.fit(
        run.trainer,
        run.dataset,
        epochs=run.plan,
        key=key,
        state=state,
        log=log,
        checkpoints=checkpoints,
        progress=observer,
        stopped=stopped,
        seconds=seconds,
      )
      if outcome.status == "diverged":
        bad = int(outcome.state.bad_step)
        display.say(f"diverged: the loss or the parameters of step {bad} are not finite")
      if outcome.status == "interrupted":
        display.say(f"{workdir}: stopped at step {int(outcome.state.step)}, with a checkpoint")
    summary = _summarize(run, outcome, log.rows, checkpoints)
    if first:
      _write_results(config, workdir, summary, log.rows)
    return summary


@contextlib.contextmanager
def _settings() -> Iterator[None]:
  """Overrides two settings of the environment: one changes random numbers, the other ends the run."""
  with jax.threefry_partitionable(True), jax.transfer_guard("allow"):
    yield


def _load(config: Config) -> Dataset:
  try:
    dataset = load_dataset(
      config.dataset,
      data_dir=config.data_dir,
      cache_dir=config.cache_dir,
      validation_fraction=config.validation_fraction,
      train_examples=config.train_examples,
      download=config.download,
    )
    check_sizes(config, dataset.example_shape)
    return dataset
  except DataError:
    raise
  except ValueError as error:  # an argument that does not fit this data set
    raise RunError.from_check(error) from error


def _restore(
  checkpoints: training.Checkpoints, state: training.TrainState, workdir: pathlib.Path
) -> tuple[training.TrainState, float] | None:
  """Returns the last checkpoint (state in host memory, seconds), None if there is none."""
  try:
    return checkpoints.restore(state)
  except (training.CheckpointError, OSError) as error:
    raise RunError(f"{workdir}: {error}", "workdir") from error


def _summarize(
  run: Run,
  outcome: training.Outcome,
  rows: list[dict[str, Any]],
  checkpoints: training.Checkpoints,
) -> dict[str, Any]:
  """Returns the summary; a complete run whose accuracy is not above chance counts as diverged."""
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
  if complete and (last["test"] or 0.0) < chance_accuracy(run.dataset.test.labels):
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
  if run.plan.keep_best:
    best = checkpoints.best()
    kept = training.process_max(-1 if best is None else best.step)  # only process 0 knows it
    summary["best_step"] = None if kept < 0 else kept
  return summary


def _write_results(
  config: Config, workdir: pathlib.Path, summary: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
  """Writes summary.json and curves.png; a plot that cannot be made only gives a warning."""
  write_json(workdir / "summary.json", summary)
  try:
    with replaced(workdir / "curves.png") as scratch:
      learning_curves(rows, title=config.title).savefig(scratch, format="png", dpi=120)
  except OSError as error:
    warnings.warn(f"cannot write {workdir / 'curves.png'}: {error.strerror}", stacklevel=2)
  except ImportError as error:
    warnings.warn(f"cannot draw curves.png: {error}", stacklevel=2)
