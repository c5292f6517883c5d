"""What the paper claims its tables show, and whether paired differences of runs show it too."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from scipy import stats

from experiments.reproduction.paper import ROWS
from experiments.reproduction.records import Record
from experiments.reproduction.studies import Study
from experiments.reproduction.tables import cell

CONFIDENCE = 0.95


class Claim(NamedTuple):
  """A statement of the paper about pairs of networks.

  Attributes:
    title: In a few words.
    statement: What the paper says.
    pairs: (the row that is said to be more accurate, the other one).
  """

  title: str
  statement: str
  pairs: tuple[tuple[str, str], ...]


CLAIMS = (
  Claim(
    "Plain networks degrade with depth",
    "The plain network with 56 layers is less accurate than the one with 20.",
    (("plain20", "plain56"),),
  ),
  Claim(
    "The simplified rule alleviates the degradation",
    "Res-CSC-simplified with 56 layers is more accurate than the plain network with 56.",
    (("res_csc_simplified56", "plain56"),),
  ),
  Claim(
    "Res-CSC overcomes the degradation",
    "Res-CSC gains from depth up to 218 layers, and is more accurate than the plain network.",
    (
      ("res_csc20", "plain20"),
      ("res_csc56", "plain56"),
      ("res_csc56", "res_csc20"),
      ("res_csc110", "res_csc56"),
      ("res_csc218", "res_csc110"),
    ),
  ),
  Claim(
    "Res-CSC against ResNet",
    "Res-CSC is very competitive with ResNet, or slightly better.",
    tuple((f"res_csc{depth}", f"resnet{depth}") for depth in (20, 32, 44, 56, 110, 218)),
  ),
  Claim(
    "Unfolding helps",
    "With more unfolding MSD-CSC is more accurate, without further parameters: 0 < 1 < 2.",
    tuple(
      pair
      for depth in (6, 9, 12)
      for pair in (
        (f"msdcsc{depth}_u1", f"msdnet{depth}"),
        (f"msdcsc{depth}_u2", f"msdcsc{depth}_u1"),
        (f"msdcsc{depth}_u2", f"msdnet{depth}"),
        (f"msdcsc{depth}_u2_fista", f"msdnet{depth}"),
      )
    ),
  ),
  Claim(
    "MSD-CSC against ML-CSC",
    "MSD-CSC has fewer parameters than ML-CSC and is more accurate.",
    (
      ("msdnet6", "feed_forward"),
      ("msdcsc6_u1", "ml_csc_u1"),
      ("msdcsc6_u2", "ml_csc_u2"),
      ("msdcsc6_u2_fista", "ml_csc_u2_fista"),
    ),
  ),
)
UNTRAINABLE = tuple(row.name for row in ROWS.values() if None in row.accuracy.values())
"""Rows that the paper prints as x."""


class Difference(NamedTuple):
  """The paired difference of two rows, in percentage points.

  Attributes:
    mean: Over the seeds that both have; NaN without one.
    low: Of the `CONFIDENCE` interval (Student's t over the pairs); NaN below two seeds.
    high: Likewise.
    count: Seeds that both have.
  """

  mean: float
  low: float
  high: float
  count: int

  @property
  def verdict(self) -> str:
    """Whether the interval lies above 0, below it, or around it."""
    if self.count == 0:
      return "no runs"
    if self.low > 0:
      return "reproduced"
    if self.high < 0:
      return "not reproduced"
    return f"undecided at n = {self.count}"


def paired(better: dict[int, float], worse: dict[int, float]) -> Difference:
  """The difference better - worse over common seeds, which pair data order and augmentation.

  Args:
    better: Accuracy in percent by seed.
    worse: Likewise.
  """
  differences = [better[seed] - worse[seed] for seed in sorted(better.keys() & worse.keys())]
  count = len(differences)
  mean = statistics.mean(differences) if count else math.nan
  if count < 2:
    return Difference(mean, math.nan, math.nan, count)
  quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
  half = quantile * statistics.stdev(differences) / math.sqrt(count)
  return Difference(mean, mean - half, mean + half, count)


def judge(records: Sequence[Record], study: Study, claim: Claim) -> dict[tuple[str, str], Difference]:
  """The differences of a claim's pairs that have runs."""
  found = {pair: paired(*(cell(records, study, row).last for row in pair)) for pair in claim.pairs}
  return {pair: difference for pair, difference in found.items() if difference.count}


def overall(differences: Iterable[Difference]) -> str:
  """One verdict on all pairs of a claim that have runs."""
  verdicts = [difference.verdict for difference in differences]
  if not verdicts:
    return "no runs"
  if "not reproduced" in verdicts:
    return "not reproduced" if set(verdicts) == {"not reproduced"} else "not reproduced in every pair"
  if set(verdicts) == {"reproduced"}:
    return "reproduced"
  return "reproduced in some pairs, undecided in others" if "reproduced" in verdicts else "undecided"


def headline(claim: Claim, differences: dict[tuple[str, str], Difference]) -> str:
  """The claim, the verdict on it, and how many of its pairs that rests on where not all have runs."""
  text = f"{claim.title}: {overall(differences.values())}"
  count, pairs = len(differences), len(claim.pairs)
  return text if count == pairs else f"{text}, from {count} of {pairs} pairs"


def markdown(records: Sequence[Record], study: Study) -> str:
  """A paragraph and a table for each claim that has runs in the study."""
  texts = []
  for claim in CLAIMS:
    found = judge(records, study, claim)
    if found:
      texts.append(f"**{headline(claim, found)}.** The paper: {claim.statement}")
      texts.append("\n".join(_lines(study, found)))
  untrainable = _untrainable(records, study)
  return "\n\n".join([*texts, untrainable] if untrainable else texts)


def _lines(study, found):
  with_paper = study.is_papers  # its differences are of no use beside those of another one
  head = ["More accurate", "than", *(["Paper"] if with_paper else []), "Ours"]
  head += [f"{CONFIDENCE:.0%} interval", "n", "Verdict"]
  yield "| " + " | ".join(head) + " |"
  yield "| " + " | ".join("---" for _ in head) + " |"
  for (better, worse), difference in found.items():
    columns = [better, worse]
    if with_paper:
      columns.append(_printed(study, better, worse))
    columns.append(f"{difference.mean:+z.2f}")
    columns.append(f"{difference.low:+z.2f} to {difference.high:+z.2f}" if difference.count > 1 else "–")
    yield "| " + " | ".join([*columns, str(difference.count), difference.verdict]) + " |"


def _printed(study, better, worse):
  """The paper's own difference."""
  first, second = (ROWS[row].accuracy[study.dataset] for row in (better, worse))
  return "–" if first is None or second is None else f"{first - second:+.2f}"


def _untrainable(records, study):
  """What became of the networks that the paper could not train."""
  parts = []
  for row in UNTRAINABLE:
    found = cell(records, study, row)
    runs = len(found.last) + found.diverged
    if runs:
      parts.append(f"{row}: {found.diverged} of {runs} runs")
  if not parts:
    return ""
  return "**Could not be trained** (the paper prints × for all of these): " + "; ".join(parts) + "."
