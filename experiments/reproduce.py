"""Makes the runs of the paper's tables: python -m experiments.reproduce --table=3 --dataset=cifar10.

A queue that resumes: what is finished in --results is left alone, what was interrupted goes on from its
last checkpoint, what is missing or has a damaged record is run, the most telling first. Each run leaves
runs/STUDY/ROW-seedN.json in --results, and in work/STUDY/ROW-seedN what experiments.run leaves. In the
end the tables are printed. With --dry_run the command only shows the queue and the minutes that it will
take, one run after the other.

With --jobs=K the command makes K runs side by side, each in a process of its own with its part of a
GPU's memory. Several commands may share one --results: a lock gives each run to one of them.

Exit code 0 at the end of the queue or of --budget_minutes, 1 where a run failed (the others are made
all the same), 2 for bad flags or data, 128 + n after a clean stop on signal n, as experiments.run.
"""

import contextlib
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
from experiments import cli, pictures
from experiments.environment import platform_problem
from experiments.reproduction import records, tables
from experiments.reproduction.estimates import Rates
from experiments.reproduction.jobs import claimed, side_by_side
from experiments.reproduction.paper import DATASETS, ROWS, TITLES
from experiments.reproduction.records import Record
from experiments.reproduction.studies import PROTOCOLS, Job, Study, create_study, queue
from experiments.run import Signals, execute
from experiments.signals import received, remembered

START_SECONDS = 30  # with less left no run is begun: it would hardly come to its first step
_RATES = pathlib.Path(__file__).with_name("results") / "train.jsonl"


class Budget(Signals):
  """Signals, and the end of the time that the queue was given. Asking uses no device."""

  def __init__(self, minutes: float | None):
    super().__init__()
    self._end = float("inf") if minutes is None else time.monotonic() + 60 * minutes

  @property
  def seconds_left(self) -> float:
    """Until the end of the budget."""
    return self._end - time.monotonic()

  def stopped(self) -> bool:
    """Whether a signal was received or the time is over."""
    self.agreed = received()
    return self.agreed != 0 or self.seconds_left <= 0

  def allows_start(self) -> bool:
    """Whether a run may be begun."""
    return not self.stopped() and self.seconds_left >= START_SECONDS


def main(args: flags.FlagValues = flags.FLAGS) -> int:
  """Does what the flags ask for and returns the exit code."""
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
  with remembered(), _writing(results):
    records.move_old(results, known.values())
    make_all = make_in_turn if args.jobs == 1 else functools.partial(make_side_by_side, jobs=args.jobs)
    code = make_all(todo, results, args.data_dir, budget)
    known |= {job: found for job in todo if (found := records.find(results, job))}
    for job in runs:  # what was killed before it was drawn, or deleted to be drawn anew
      if job in known and not budget.stopped():
        draw(known[job], results, args.data_dir)
  left = sum(not _is_finished(known.get(job)) for job in todo)
  if left:
    _say(f"{left} runs are left; the same command goes on")
  present, _ = records.by_architecture(known.values())
  print(tables.markdown(present, list(dict.fromkeys((r.study, r.row.table) for r in runs))))
  return 128 + budget.agreed if budget.agreed else code


def make_in_turn(
  todo: Sequence[Job], results: pathlib.Path, data_dir: str | None, budget: Budget
) -> int:
  """Makes the runs that no other command is making; returns 1 where one failed, else 0."""
  code = 0
  for i, job in enumerate(todo):
    if not budget.allows_start():
      break
    with claimed(results, job.name) as is_mine:
      if not is_mine:
        _say(f"{job.name}: another command is making it")
      elif not _is_finished(records.find(results, job)):
        _say(f"run {i + 1} of {len(todo)}: {job.name}")
        try:
          make(job, results, data_dir, budget)
        except jax.errors.JaxRuntimeError as error:  # out of memory, mostly: another network may fit
          cli.say(f"{job.name} failed: {str(error).splitlines()[0]}")
          code = 1
  return code


def make_side_by_side(
  todo: Sequence[Job], results: pathlib.Path, data_dir: str | None, budget: Budget, *, jobs: int
) -> int:
  """Makes the runs as `make_in_turn`, several at a time, each by this command in a process of its own.

  Returns:
    2 where a process was refused its flags, data or files, else 1 where a run failed, else 0.
  """

  def is_wanted(job):
    with claimed(results, job.name) as is_mine:
      is_open = is_mine and not _is_finished(records.find(results, job))
    return is_open and budget.allows_start()

  def command(job):
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
  """Does a run, or what is left of it, and records it."""
  workdir = results / records.WORK / job.name
  config = job.config(workdir=str(workdir), data_dir=data_dir)
  summary = execute(config, budget)
  record = records.write(results, job, summary, workdir)
  draw(record, results, data_dir)
  jax.clear_caches()  # of programs that no other run uses
  gc.collect()
  return record


def draw(record: Record, results: pathlib.Path, data_dir: str | None) -> None:
  """Keeps a picture of a run that could be trained, unless its cell has one or its state is gone."""
  workdir = results / records.WORK / record.job.name
  target = results / records.PICTURES / f"{record.job.name}.png"
  cell = record.job.name.rpartition("-seed")[0]
  if record.status != "ok" or not workdir.exists():
    return
  with claimed(results, cell) as is_mine:
    if not is_mine or any((results / records.PICTURES).glob(f"{cell}-seed*.png")):
      return
    pictures.draw(workdir, data_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced(target) as scratch:
      shutil.copyfile(workdir / "layers.png", scratch)


@contextlib.contextmanager
def _writing(results):
  try:
    yield
  except OSError as error:
    raise cli.UsageError(f"--results: cannot write to {results}: {error.strerror}") from error


def wanted(args: flags.FlagValues) -> list[Job]:
  """The runs that the flags ask for, in order.

  Raises:
    UsageError: If a row, a data set or a seed is none, or none of the rows is in the table.
  """
  _known("rows", args.rows or [], ROWS)
  _known("dataset", args.dataset, TITLES)
  rows = [row for row in ROWS.values() if args.table in (None, str(row.table))]
  rows = [row for row in rows if not args.rows or row.name in args.rows]
  if not rows:
    raise cli.UsageError(f"--rows: expected rows of table {args.table}, got {','.join(args.rows)}")
  if args.protocol == "paper" and "digits" in args.dataset:
    raise cli.UsageError("--dataset: the paper has no digits; expected --protocol=reduced beside them")
  seeds = [_seed(text) for text in args.seeds]
  if not args.dataset or not seeds:
    raise cli.UsageError(f"--{'seeds' if args.dataset else 'dataset'}: expected one at least, got none")
  if args.budget_minutes is not None and not args.budget_minutes > 0:
    raise cli.UsageError(f"--budget_minutes: expected minutes > 0, got {args.budget_minutes}")
  what = args.protocol, args.augmentation, args.precision
  studies = [create_study(dataset, *what) for dataset in dict.fromkeys(args.dataset)]
  return queue(rows, studies, list(dict.fromkeys(seeds)))


def plan(runs: Sequence[Job], known: dict[Job, Record], rates: Rates, device: str) -> str:
  """The queue as a table for people, a line for each cell."""
  cells: dict[tuple[Study, str], list[Job]] = {}
  for job in runs:
    cells.setdefault((job.study, job.row.name), []).append(job)
  lines = [("study", "row", "paper", "runs done", "min/run", "min to go")]
  total, unknown = 0.0, 0
  for (study, name), cell in cells.items():
    minutes = rates.minutes(cell[0])
    done = [_share_done(known.get(job), job) for job in cell]
    left = None if minutes is None else minutes * sum(1 - share for share in done)
    total, unknown = total + (left or 0), unknown + (left is None)
    paper = ROWS[name].accuracy[study.dataset] if study.is_papers else "-"
    mark = "" if minutes is None or rates.is_measured(cell[0]) else "~"
    lines.append(
      (
        study.name,
        name,
        "x" if paper is None else str(paper),
        f"{sum(share == 1 for share in done)} of {len(cell)}",
        "?" if minutes is None else f"{mark}{minutes:.1f}",
        "?" if left is None else f"{mark}{left:.1f}",
      )
    )
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
  text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
  seeds = list(dict.fromkeys(job.seed for job in runs))
  text.append(
    f"{len(cells)} cells, {len(runs)} runs: of each data set all rows in this order with seed {seeds[0]}"
    + (f", then with {', '.join(map(str, seeds[1:]))}" if seeds[1:] else "")
  )
  text.append(
    f"{total / 60:.1f} hours to go on {device} (~: scaled by operations, not measured there)"
    + (f"; {unknown} cells unknown, measure with experiments.benchmark --suite=train" if unknown else "")
  )
  return "\n".join(text)


def _is_finished(record):
  return record is not None and record.is_finished


def _share_done(record, job):
  if record is None:
    return 0.0
  return 1.0 if record.is_finished else record.epochs / job.config().epochs


def _known(flag, names, known):
  unknown = [name for name in names if name not in known]
  if unknown:
    raise cli.UsageError(f"--{flag}: unknown {', '.join(unknown)}; there are {', '.join(known)}")


def _seed(text):
  text = text.strip()
  if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= 2**32:
    raise cli.UsageError(f"--seeds: expected integers >= 0 and below 2^32, got {text!r}")
  return int(text)


def _say(text):
  print(text, file=sys.stderr, flush=True)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines this command's flags."""
  flags.DEFINE_enum("table", None, ("2", "3"), "The table; both if none is named.", flag_values=values)
  flags.DEFINE_list(
    "dataset", list(DATASETS), "Data sets; the paper's if none are named.", flag_values=values
  )
  flags.DEFINE_list(
    "rows", None, "Rows of the table, by name; all if none are named.", flag_values=values
  )
  flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each row.", flag_values=values)
  text = "The paper's epochs and images, or few of both for two CPU cores."
  flags.DEFINE_enum("protocol", "paper", PROTOCOLS, text, flag_values=values)
  text = "Augmentation of the training images. auto: the paper's, as of experiments.run."
  flags.DEFINE_enum("augmentation", AUTO, (AUTO, *AUGMENTATIONS), text, flag_values=values)
  text = "Type of the convolutions. Runs of different precisions are kept and shown apart."
  flags.DEFINE_enum("precision", "float32", PRECISIONS, text, flag_values=values)
  flags.DEFINE_float(
    "budget_minutes", None, "Stop after so long; the next call goes on.", flag_values=values
  )
  text = "Runs that are made side by side, in processes that divide a GPU's memory among them."
  flags.DEFINE_integer("jobs", 1, text, lower_bound=1, upper_bound=256, flag_values=values)
  text = "Folder of the records and of what runs leave."
  cli.define_path("results", "runs/reproduction", text, values)
  cli.define_path("data_dir", None, "As of experiments.run.", values)
  text = "Show the queue and how long it will take, and do nothing."
  flags.DEFINE_bool("dry_run", False, text, flag_values=values)
  text = "Measured rows of experiments.benchmark --suite=train --json, for --dry_run."
  cli.define_path("rates", str(_RATES), text, values)


if __name__ == "__main__":
  define_flags()
  cli.run(main)
