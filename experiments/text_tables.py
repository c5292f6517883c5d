"""Tables as plain text and in Markdown."""

from collections.abc import Iterable, Sequence


def plain(rows: Sequence[Sequence[str]]) -> str:
  """Returns one line per row, with the cells of a column aligned on the left."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
  return "\n".join(line.rstrip() for line in lines)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a table in Markdown."""
  return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))
