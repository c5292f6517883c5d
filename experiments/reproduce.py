"""Trains the networks in the tables of the paper.

    python -m experiments.reproduce --table=3 --dataset=cifar10

The command works through a queue of runs, the most informative first, and can be stopped and repeated:
finished runs in --results are kept, interrupted runs are resumed from their last checkpoint, and runs
that are missing or have a damaged record are started. Each run writes a record
runs/STUDY/ROW-seedN.json in --results, and the files of experiments.run to work/STUDY/ROW-seedN. At the
end the tables are printed. With --dry_run the command only prints the queue and an estimate of the time
that it takes, one run after the other.

With --jobs=K the command trains K runs at a time, each in its own process with an equal part of the
memory of a GPU. Several commands may use the same --results: a lock assigns each run to one of them.

Exit codes:
  0        the queue or the time of --budget_minutes is over
  1        a run failed; the other runs were made nevertheless
  2        bad flags or data, or the files cannot be written
  128 + n  signal n stopped the command, as for experiments.run
"""

import functools
import gc
import pathlib
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence

import jax
from absl import flags

from cscjax.runs import AUGMENTATIONS, AUTO, PRECISIONS, replaced
from experiments import cli, pictures, text_tables
from experiments.environment import platform_problem
from experiments.reproduction import records, tables
from experiments.reproduction.estimates import Rates
from experiments.reproduction.jobs import claimed, side_by_side
from experiments.reproduction.paper import DATASETS, ROWS, TITLES
from experiments.reproduction.records import Record
from experiments.reproduction.studies import PROTOCOLS, Job, Study, create_study, queue
from experiments.run import Signals, execute
from experiments.signals import received, remembered

START_SECONDS = 30  # if less time is left, no run is started: it would hardly reach its first step
_RATES = pathlib.Path(__file__).with_name("results") / "train.jsonl"


class Budget(Signals):
  """Stops runs on a signal or at the end of a time budget; only for a single process per run.

  Args:
    minutes: The budget; None for no limit.
  """

  def __init__(self, minutes: float | None):
    super().__init__()
    self._end = float("inf") if minutes is None else time.monotonic() + 60 * minutes

  @property
  def seconds_left(self) -> float:
    """Seconds until the end of the budget."""
    return self._end - time.monotonic()

  def stopped(self) -> bool:
    """Whether a signal was received or the time is over."""
    self.agreed = received()
    return self.agreed != 0 or self.seconds_left <= 0

  def allows_start(self) -> bool:
    """Whether another run may be started."""
    return not self.stopped() and self.seconds_left >= START_SECONDS


def main(args: flags.FlagValues = flags.FLAGS) -> int:
  """Works through the queue of the flags, prints the tables and returns the exit code."""
  runs, results = wanted(args), pathlib.Path(args.results)
  known = {record.job: record for record in records.read(results)}
  if args.dry_run:
    if problem := platform_problem():
      raise cli.UsageError(problem)
    device = jax.devices()[0].device_kind
    rates = Rates(list(known.values()), pathlib.Path(args.rates), device)
    print(plan(runs, known, rates, device))
    return 0
  budget = Budget(args.budget_minutes)
  todo = [job for job in runs if not _is_finished(known.get(job))]
  with remembered(), cli.writing("results", results):
    records.move_old(results, known.values())
    make_all = make_in_turn if args.jobs == 1 else functools.partial(make_side_by_side, jobs=args.jobs)
    code = make_all(todo, results, args.data_dir, budget)
    known |= {job: found for job in todo if (found := records.find(results, job))}
    for job in runs:  # plots that are missing because a run was killed or they were deleted
      if job in known and not budget.stopped():
        draw(known[job], results, args.data_dir)
  left = sum(not _is_finished(known.get(job)) for job in todo)
  if left:
    _say(f"{left} runs are left; repeat the command to continue")
  present, _ = records.by_architecture(known.values())
  print(tables.markdown(present, list(dict.fromkeys((r.study, r.row.table) for r in runs))))
  return 128 + budget.agreed if budget.agreed else code


def make_in_turn(
  todo: Sequence[Job], results: pathlib.Path, data_dir: str | None, budget: Budget
) -> int:
  """Makes the runs that no other command is making; returns 1 if one failed, else 0."""
  code = 0
  for i, job in enumerate(todo):
    if not budget.allows_start():
      break
    with claimed(results, job.name) as is_mine:
      if not is_mine:
        _say(f"{job.name}: skipped, another command is making this run")
      elif not _is_finished(records.find(results, job)):
        _say(f"run {i + 1} of {len(todo)}: {job.name}")
        try:
          make(job, results, data_dir, budget)
        except jax.errors.JaxRuntimeError as error:  # mostly out of memory: another network may fit
          cli.say(f"{job.name} failed: {str(error).splitlines()[0]}")
          code = 1
  return code


def make_side_by_side(
  todo: Sequence[Job], results: pathlib.Path, data_dir: str | None, budget: Budget, *, jobs: int
) -> int:
  """Makes several runs at a time, each by this command in its own process.

  Returns:
    2 if a process ended with a usage error, else 1 if a run failed, else 0.
  """

  def is_wanted(job: Job) -> bool:
    with claimed(results, job.name) as is_mine:
      is_open = is_mine and not _is_finished(records.find(results, job))
    return is_open and budget.allows_start()

  def command(job: Job) -> list[str]:
    study = [f"--{name}={value}" for name, value in job.study._asdict().items()]
    which = (f"--rows={job.row.name}", f"--seeds={job.seed}", f"--results={results}")
    data = () if data_dir is None else (f"--data_dir={data_dir}",)
    return [sys.executable, "-m", "experiments.reproduce", *study, *which, *data]

  codes = side_by_side(todo, jobs, command, is_wanted=is_wanted, is_over=budget.stopped)
  stopped = (0, 128 + signal.SIGTERM, -signal.SIGTERM)
  failed = {job: code for job, code in codes.items() if code not in stopped}
  for job, code in failed.items():
    cli.say(f"{job.name} failed: its process ended with code {code}")
  return 2 if 2 in failed.values() else int(bool(failed))


def make(job: Job, results: pathlib.Path, data_dir: str | None, budget: Signals) -> Record:
  """Makes a run or resumes it, and writes and returns its record."""
  workdir = results / records.WORK / job.name
  config = job.config(workdir=str(workdir), data_dir=data_dir)
  summary = execute(config, budget)
  record = records.write(results, job, summary, workdir)
  draw(record, results, data_dir)
  jax.clear_caches()  # no other run uses these programs
  gc.collect()
  return record


def draw(record: Record, results: pathlib.Path, data_dir: str | None) -> None:
  """Stores the plot of a trained run, unless its cell has a plot already or its checkpoints are gone."""
  workdir = results / records.WORK / record.job.name
  target = results / records.PICTURES / f"{record.job.name}.png"
  cell = record.job.name.rpartition("-seed")[0]
  if record.status != "ok" or not (workdir / "checkpoints").exists():
    return
  with claimed(results, cell) as is_mine:
    if not is_mine or any((results / records.PICTURES).glob(f"{cell}-seed*.png")):
      return
    pictures.draw(workdir, data_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced(target) as scratch:
      shutil.copyfile(workdir / "layers.png", scratch)


def wanted(args: flags.FlagValues) -> list[Job]:
  """Returns the runs that the flags ask for, in the order of the queue.

  Raises:
    UsageError: If a row, a data set, a seed or the budget is invalid, or no row is in the table.
  """
  cli.known("rows", args.rows or [], ROWS)
  cli.known("dataset", args.dataset, TITLES)
  rows = [row for row in ROWS.values() if args.table in (None, str(row.table))]
  rows = [row for row in rows if not args.rows or row.name in args.rows]
  if not rows:
    raise cli.UsageError(f"--rows: expected rows of table {args.table}, got {','.join(args.rows)}")
  if args.protocol == "paper" and "digits" in args.dataset:
    raise cli.UsageError("--dataset: the paper has no results for digits; add --protocol=reduced")
  seeds = [_seed(text) for text in args.seeds]
  if not args.dataset or not seeds:
    raise cli.UsageError(f"--{'seeds' if args.dataset else 'dataset'}: expected at least one, got none")
  if args.budget_minutes is not None and not args.budget_minutes > 0:
    raise cli.UsageError(f"--budget_minutes: expected minutes > 0, got {args.budget_minutes}")
  what = args.protocol, args.augmentation, args.precision
  studies = [create_study(dataset, *what) for dataset in dict.fromkeys(args.dataset)]
  return queue(rows, studies, list(dict.fromkeys(seeds)))


def plan(runs: Sequence[Job], known: dict[Job, Record], rates: Rates, device: str) -> str:
  """Returns the queue as a table with a line for each cell, and the estimated time."""
  cells: dict[tuple[Study, str], list[Job]] = {}
  for job in runs:
    cells.setdefault((job.study, job.row.name), []).append(job)
  lines = [("study", "row", "paper", "runs done", "min/run", "min to go")]
  total, unknown = 0.0, 0
  for (study, name), cell in cells.items():
    minutes = rates.minutes(cell[0])
    done = [_fraction_done(known.get(job), job) for job in cell]
    left = None if minutes is None else minutes * sum(1 - fraction for fraction in done)
    total, unknown = total + (left or 0), unknown + (left is None)
    paper = ROWS[name].accuracy[study.dataset] if study.is_papers else "-"
    mark = "" if minutes is None or rates.is_measured(cell[0]) else "~"
    lines.append(
      (
        study.name,
        name,
        "x" if paper is None else str(paper),
        f"{sum(fraction == 1 for fraction in done)} of {len(cell)}",
        "?" if minutes is None else f"{mark}{minutes:.1f}",
        "?" if left is None else f"{mark}{left:.1f}",
      )
    )
  text = [text_tables.plain(lines)]
  seeds = list(dict.fromkeys(job.seed for job in runs))
  text.append(
    f"{len(cells)} cells, {len(runs)} runs: per data set all rows in this order, with seed {seeds[0]}"
    + (f", then with {', '.join(map(str, seeds[1:]))}" if seeds[1:] else "")
  )
  text.append(
    f"{total / 60:.1f} hours to go on {device} (~: estimated from operations, not measured there)"
    + (
      f"; {unknown} cells unknown, measure them with experiments.benchmark --suite=train"
      if unknown
      else ""
    )
  )
  return "\n".join(text)


def _is_finished(record: Record | None) -> bool:
  return record is not None and record.is_finished


def _fraction_done(record: Record | None, job: Job) -> float:
  if record is None:
    return 0.0
  return 1.0 if record.is_finished else record.epochs / job.config().epochs


def _seed(text: str) -> int:
  text = text.strip()
  if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= 2**32:
    raise cli.UsageError(f"--seeds: expected integers in 0..{2**32 - 1}, got {text!r}")
  return int(text)


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of this command."""
  flags.DEFINE_enum(
    "table", None, ("2", "3"), "Table of the paper; both if not given.", flag_values=values
  )
  flags.DEFINE_list("dataset", list(DATASETS), "Data sets.", flag_values=values)
  flags.DEFINE_list("rows", None, "Names of table rows; all if not given.", flag_values=values)
  flags.DEFINE_list(
    "seeds", ["0", "1", "2"], "Random seeds; each row is run once per seed.", flag_values=values
  )
  text = "paper: the epochs and images of the paper; reduced: fewer of both, for two CPU cores."
  flags.DEFINE_enum("protocol", "paper", PROTOCOLS, text, flag_values=values)
  text = "Augmentation of the training images, as for experiments.run. auto: that of the paper."
  flags.DEFINE_enum("augmentation", AUTO, (AUTO, *AUGMENTATIONS), text, flag_values=values)
  text = "Data type of the convolutions. Runs of different precision are stored and shown separately."
  flags.DEFINE_enum("precision", "float32", PRECISIONS, text, flag_values=values)
  flags.DEFINE_float(
    "budget_minutes",
    None,
    "Stop after this many minutes; the same command continues.",
    flag_values=values,
  )
  text = "Number of runs at a time, in processes that share the memory of a GPU."
  flags.DEFINE_integer("jobs", 1, text, lower_bound=1, upper_bound=256, flag_values=values)
  text = "Folder of the records and of the files of the runs."
  cli.define_path("results", "runs/reproduction", text, values)
  cli.define_path("data_dir", None, "Data directory, as for experiments.run.", values)
  text = "Only print the queue and how long it will take."
  flags.DEFINE_bool("dry_run", False, text, flag_values=values)
  text = "Output of experiments.benchmark --suite=train --json, from which --dry_run estimates the time."
  cli.define_path("rates", str(_RATES), text, values)


if __name__ == "__main__":
  define_flags()
  cli.run(main)
