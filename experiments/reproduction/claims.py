"""The claims of the paper about its tables, tested on paired differences between our runs."""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from scipy import stats

from experiments.reproduction.paper import ROWS
from experiments.reproduction.records import Record
from experiments.reproduction.studies import Study
from experiments.reproduction.tables import cell

CONFIDENCE = 0.95


class Claim(NamedTuple):
  """A statement of the paper that compares pairs of networks.

  Attributes:
    title: Short name of the claim.
    statement: The claim in full.
    pairs: Pairs of row names: the network that the paper finds more accurate, then the other one.
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
    "Res-CSC-simplified is more accurate than the plain network, both with 56 layers.",
    (("res_csc_simplified56", "plain56"),),
  ),
  Claim(
    "Res-CSC overcomes the degradation",
    "Res-CSC gains accuracy with depth up to 218 layers, and is more accurate than the plain network.",
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
    "Res-CSC is as accurate as ResNet or slightly more accurate.",
    tuple((f"res_csc{depth}", f"resnet{depth}") for depth in (20, 32, 44, 56, 110, 218)),
  ),
  Claim(
    "Unfolding helps",
    "MSD-CSC becomes more accurate from unfolding 0 to 1 to 2, without additional parameters.",
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
"""Names of the rows for which the paper prints × because the network could not be trained."""


class Difference(NamedTuple):
  """The paired difference between the accuracies of two rows, in percentage points.

  Attributes:
    mean: Mean over the seeds that both rows have; NaN if they share no seed.
    low: Lower end of the `CONFIDENCE` interval (Student's t over the pairs); NaN below two seeds.
    high: Upper end of the interval; NaN below two seeds.
    count: Number of seeds that both rows have.
  """

  mean: float
  low: float
  high: float
  count: int

  @property
  def verdict(self) -> str:
    """The verdict in words: whether the interval lies above zero, below zero, or contains it."""
    if self.count == 0:
      return "no runs"
    if self.low > 0:
      return "reproduced"
    if self.high < 0:
      return "not reproduced"
    return f"undecided at n = {self.count}"


def paired(better: dict[int, float], worse: dict[int, float]) -> Difference:
  """Returns the difference `better - worse`, paired by seed.

  Runs with the same seed see the same order of the data and the same augmentation.

  Args:
    better: Accuracy in percent of each seed, of the network that is said to be more accurate.
    worse: Accuracy in percent of each seed, of the other network.
  """
  differences = [better[seed] - worse[seed] for seed in sorted(better.keys() & worse.keys())]
  count = len(differences)
  mean = statistics.mean(differences) if count else math.nan
  if count < 2:
    return Difference(mean, math.nan, math.nan, count)
  quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
  half = quantile * statistics.stdev(differences) / math.sqrt(count)
  return Difference(mean, mean - half, mean + half, count)


def compare_pairs(
  records: Sequence[Record], study: Study, claim: Claim
) -> dict[tuple[str, str], Difference]:
  """Returns the difference of each pair of the claim for which both networks have runs."""
  found = {pair: paired(*(cell(records, study, row).last for row in pair)) for pair in claim.pairs}
  return {pair: difference for pair, difference in found.items() if difference.count}


def overall(differences: Iterable[Difference]) -> str:
  """Returns the verdict on a claim from the differences of all its pairs that have runs."""
  verdicts = [difference.verdict for difference in differences]
  if not verdicts:
    return "no runs"
  if "not reproduced" in verdicts:
    return "not reproduced" if set(verdicts) == {"not reproduced"} else "not reproduced in every pair"
  if set(verdicts) == {"reproduced"}:
    return "reproduced"
  return "reproduced in some pairs, undecided in others" if "reproduced" in verdicts else "undecided"


def headline(claim: Claim, differences: dict[tuple[str, str], Difference]) -> str:
  """Returns the claim's title and verdict, and the number of pairs behind it if some have no runs."""
  text = f"{claim.title}: {overall(differences.values())}"
  count, pairs = len(differences), len(claim.pairs)
  return text if count == pairs else f"{text}, from {count} of {pairs} pairs"


def markdown(records: Sequence[Record], study: Study) -> str:
  """Returns Markdown with a paragraph and a table for each claim that has runs in the study."""
  texts = []
  for claim in CLAIMS:
    found = compare_pairs(records, study, claim)
    if found:
      texts.append(f"**{headline(claim, found)}.** The paper: {claim.statement}")
      texts.append("\n".join(_lines(study, found)))
  untrainable = _untrainable(records, study)
  return "\n\n".join([*texts, untrainable] if untrainable else texts)


def _lines(study: Study, found: dict[tuple[str, str], Difference]) -> Iterator[str]:
  """Yields the lines of a claim's table."""
  with_paper = study.is_papers  # under another protocol the paper's differences are not comparable
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


def _printed(study: Study, better: str, worse: str) -> str:
  """Returns the difference between the accuracies that the paper prints."""
  first, second = (ROWS[row].accuracy[study.dataset] for row in (better, worse))
  return "–" if first is None or second is None else f"{first - second:+.2f}"


def _untrainable(records: Sequence[Record], study: Study) -> str:
  """Returns how many of our runs diverged, for the networks that the paper could not train."""
  parts = []
  for row in UNTRAINABLE:
    found = cell(records, study, row)
    runs = len(found.last) + found.diverged
    if runs:
      parts.append(f"{row}: {found.diverged} of {runs} runs")
  if not parts:
    return ""
  return "**Could not be trained** (the paper prints × for all of these rows): " + "; ".join(parts) + "."
