"""Tables 2 and 3 in Markdown, with our results next to the paper's numbers."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cscjax.runs import AUTO
from experiments.reproduction.paper import ROWS, TITLES, Row
from experiments.reproduction.records import Record
from experiments.reproduction.studies import Study


class Cell(NamedTuple):
  """The results of one network in one study.

  Attributes:
    last: Test accuracy in percent after the last epoch, by seed, of the runs that did not diverge.
    best: Test accuracy in percent of the best epoch, by seed, of the runs that did not diverge.
    diverged: Number of runs that diverged.
    parameters: Number of trainable parameters; None without a run.
  """

  last: dict[int, float]
  best: dict[int, float]
  diverged: int
  parameters: int | None


def cell(records: Iterable[Record], study: Study, row: str) -> Cell:
  """Returns the results of the finished runs of a row; interrupted runs are ignored."""
  found = [r for r in records if (r.job.study, r.row) == (study, row) and r.is_finished]
  trained = [r for r in found if r.status == "ok" and r.test_accuracy is not None]
  return Cell(
    {r.seed: 100 * (r.test_accuracy or 0) for r in trained},
    {r.seed: 100 * (r.best_test_accuracy or 0) for r in trained},
    sum(r.status == "diverged" for r in found),
    found[0].parameters if found else None,
  )


def markdown(
  records: Sequence[Record], wanted: Iterable[tuple[Study, int]], *, all_rows: bool = True
) -> str:
  """Returns the Markdown of several tables.

  Args:
    records: Records of any studies.
    wanted: Pairs of a study and the number of a table, 2 or 3.
    all_rows: Whether rows without a run are shown.
  """
  texts = []
  for study, table in wanted:
    lines = list(_lines(records, study, table, all_rows))
    if len(lines) > 2:
      texts.append("\n".join([f"### {title(study, table)}", "", *lines]))
  return "\n\n".join(texts)


def title(study: Study, table: int) -> str:
  """Returns the title of a table, with its protocol and precision."""
  name = f"Table {table} on {description(study)}"
  return name if study.is_papers else f"The networks of {name}"


def description(study: Study) -> str:
  """Describes a study: the data set, any difference from the paper's protocol, and the precision."""
  if study.dataset == "digits":
    parts, remark = ["scikit-learn's digits, 20 epochs"], " (not in the paper)"
  else:
    parts, remark = [TITLES[study.dataset]], " (not the paper's protocol)"
    if study.protocol == "reduced":
      parts.append("reduced: 10,000 training images, 6 epochs")
  if study.augmentation != AUTO:
    parts.append(study.changed_augmentation)
  parts.append(study.precision)
  return ", ".join(parts) + ("" if study.is_papers else remark)


def accuracy(values: Sequence[float], diverged: int = 0) -> str:
  """Formats the mean, sample standard deviation and number of runs, and the diverged runs as ×."""
  parts = []
  if values:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    parts.append(f"{statistics.mean(values):.2f}{spread} ({len(values)})")
  if diverged:
    parts.append(f"× ({diverged})")
  return ", ".join(parts) or "–"


def _lines(records: Sequence[Record], study: Study, table: int, all_rows: bool) -> Iterator[str]:
  """Yields the lines of a table."""
  with_paper = study.is_papers
  head = ["Model", "Layers", *(["Unfolding"] if table == 3 else [])]
  head += ["Parameters: paper; ours" if with_paper else "Parameters"]
  head += ["Paper", "Ours, last epoch", "Difference"] if with_paper else ["Last epoch"]
  head += ["Best epoch"]
  yield "| " + " | ".join(head) + " |"
  yield "| " + " | ".join("---" for _ in head) + " |"
  for row in ROWS.values():
    if row.table == table:
      found = cell(records, study, row.name)
      if all_rows or found.parameters is not None:
        yield "| " + " | ".join(_columns(row, study, found, with_paper)) + " |"


def _columns(row: Row, study: Study, found: Cell, with_paper: bool) -> Iterator[str]:
  """Yields the columns of a row."""
  yield row.model
  yield str(row.layers)
  if row.table == 3:
    yield str(row.unfolding)
  ours = "–" if found.parameters is None else f"{found.parameters:,}"
  yield f"{row.parameters}; {ours}" if with_paper else ours
  last = list(found.last.values())
  if with_paper:
    paper = row.accuracy[study.dataset]
    yield "×" if paper is None else f"{paper:.2f}"
    yield accuracy(last, found.diverged)
    yield f"{statistics.mean(last) - paper:+.2f}" if last and paper is not None else "–"
  else:
    yield accuracy(last, found.diverged)
  yield accuracy(list(found.best.values()))
