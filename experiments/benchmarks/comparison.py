"""The table that compares the solvers of cscjax with the best of the other libraries.

    python -m experiments.benchmarks.comparison

prints it, in Markdown, from the stored JSON rows of the suite `solvers`. The suite itself also ends with
it. Of several rows for one case, gap and solver, the last one counts.
"""

import json
import pathlib
from collections.abc import Iterable

from absl import flags

from experiments import cli, text_tables
from experiments.benchmarks.peers import OURS
from experiments.result_rows import Row

PATH = pathlib.Path(__file__).parents[1] / "results" / "solvers.jsonl"
HEAD = (
  *("problem", "gap", "cscjax", "seconds", "MiB", "fastest other", "seconds / ours", "SPORCO / ours"),
  *("leanest other", "MiB / ours"),
)
NOTHING = "–"


def table(rows: Iterable[Row]) -> str:
  """Returns the table, with a line for each problem and gap that one of our solvers reached.

  The line has our fastest solver, and the time and the peak memory of the best other solvers, divided by
  ours: above 1, ours is better. "SPORCO" is its fastest solver.
  """
  cells = {(row["case"], row["gap"], _name(row)): row for row in rows if "error" not in row}
  lines = []
  for case, gap in dict.fromkeys((case, gap) for case, gap, _ in cells):
    group = [row for (*key, _), row in cells.items() if key == [case, gap]]
    others = [row for row in group if row["library"] != OURS]
    ours = _smallest([row for row in group if row["library"] == OURS], "seconds")
    if ours is not None:
      lines.append(_line(ours, others))
  return text_tables.markdown(HEAD, lines)


def _line(ours: Row, others: list[Row]) -> tuple[str, ...]:
  fastest, leanest = _smallest(others, "seconds"), _smallest(others, "peak_bytes")
  sporco = _smallest([row for row in others if row["library"] == "sporco"], "seconds")
  return (
    *(ours["case"], f"{ours['gap']:g}", ours["solver"], f"{ours['seconds']:.3g}"),
    f"{ours['peak_bytes'] / 2**20:.0f}",
    NOTHING if fastest is None else _name(fastest),
    _ratio(fastest, ours, "seconds"),
    _ratio(sporco, ours, "seconds"),
    NOTHING if leanest is None else _name(leanest),
    _ratio(leanest, ours, "peak_bytes"),
  )


def _smallest(rows: list[Row], column: str) -> Row | None:
  return min(rows, key=lambda row: row[column], default=None)


def _ratio(other: Row | None, ours: Row, column: str) -> str:
  return NOTHING if other is None else f"{other[column] / ours[column]:.2f}"


def _name(row: Row) -> str:
  return f"{row['library']} {row['solver']}"


def main() -> None:
  """Prints the table of a file of rows."""
  text = pathlib.Path(flags.FLAGS.rows).read_text()
  print(table(json.loads(line) for line in text.splitlines()))


if __name__ == "__main__":
  cli.define_path("rows", str(PATH), "File of JSON rows of the suite solvers.")
  cli.run(main, prints_only=True)
