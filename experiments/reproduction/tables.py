"""Tables 2 and 3 in Markdown, with our results next to the paper's numbers."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cscjax.runs import AUTO
from experiments import text_tables
from experiments.reproduction.paper import ROWS, TITLES, Row
from experiments.reproduction.records import Record
from experiments.reproduction.studies import Study


class Cell(NamedTuple):
  """The finished runs of one network in one study.

  Attributes:
    trained: The runs that did not diverge. Means, differences and curves contain these runs alone.
    diverged: Number of runs that diverged.
    parameters: Number of trainable parameters; None without a run.
  """

  trained: Sequence[Record]
  diverged: int
  parameters: int | None

  @property
  def count(self) -> int:
    """Number of runs."""
    return len(self.trained) + self.diverged

  @property
  def last(self) -> dict[int, float]:
    """Test accuracy in percent after the last epoch, by seed."""
    return {r.seed: 100 * (r.test_accuracy or 0) for r in self.trained}

  @property
  def best(self) -> dict[int, float]:
    """Test accuracy in percent of the best epoch, by seed."""
    return {r.seed: 100 * (r.best_test_accuracy or 0) for r in self.trained}


def cell(records: Iterable[Record], study: Study, row: str) -> Cell:
  """Returns the finished runs of a row; interrupted runs are ignored."""
  found = [r for r in records if (r.job.study, r.row) == (study, row) and r.is_finished]
  return Cell(
    [r for r in found if r.status == "ok" and r.test_accuracy is not None],
    sum(r.status == "diverged" for r in found),
    found[0].parameters if found else None,
  )


def markdown(records: Sequence[Record], wanted: Iterable[tuple[Study, int]]) -> str:
  """Returns the Markdown of several tables with their titles.

  Args:
    records: Records of any studies.
    wanted: Pairs of a study and the number of a table, 2 or 3.
  """
  tables = ((title(study, number), table(records, study, number)) for study, number in wanted)
  return "\n\n".join(f"### {heading}\n\n{text}" for heading, text in tables)


def table(records: Sequence[Record], study: Study, number: int, *, all_rows: bool = True) -> str:
  """Returns the Markdown of a table, or an empty string if it has no rows.

  Args:
    records: Records of any studies.
    study: Study whose runs the table shows.
    number: Number of the table, 2 or 3.
    all_rows: Whether rows without a run are shown.
  """
  head = ["Model", "Layers", *(["Unfolding"] if number == 3 else [])]
  head += ["Parameters: paper; ours" if study.is_papers else "Parameters"]
  head += ["Paper", "Ours, last epoch", "Difference"] if study.is_papers else ["Last epoch"]
  found = [(row, cell(records, study, row.name)) for row in ROWS.values() if row.table == number]
  rows = [
    list(_columns(row, study, runs)) for row, runs in found if all_rows or runs.parameters is not None
  ]
  return text_tables.markdown([*head, "Best epoch"], rows) if rows else ""


def title(study: Study, table: int) -> str:
  """Returns the title of a table, with its protocol and precision."""
  name = f"Table {table} on {description(study)}"
  return name if study.is_papers else f"The networks of {name}"


def label(study: Study) -> str:
  """Returns a short name of a study."""
  parts = [TITLES[study.dataset]]
  if study.protocol == "reduced" and study.dataset != "digits":
    parts.append("reduced")
  if study.augmentation != AUTO:
    parts.append(study.changed_augmentation)
  if study.precision != "float32":
    parts.append(study.precision)
  return ", ".join(parts)


def description(study: Study) -> str:
  """Describes a study: the data set, any difference from the paper's protocol, and the precision."""
  if study.dataset == "digits":
    parts, remark = [TITLES[study.dataset], "20 epochs"], " (not in the paper)"
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


def _columns(row: Row, study: Study, found: Cell) -> Iterator[str]:
  """Yields the columns of a row."""
  with_paper = study.is_papers
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
    yield f"{statistics.mean(last) - paper:+z.2f}" if last and paper is not None else "–"
  else:
    yield accuracy(last, found.diverged)
  yield accuracy(list(found.best.values()))
