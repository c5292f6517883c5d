"""The claims of the paper about its tables, tested on paired differences between our runs."""

import collections
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

from experiments import text_tables
from experiments.reproduction.paper import ROWS
from experiments.reproduction.records import Record
from experiments.reproduction.studies import Study
from experiments.reproduction.tables import Cell, cell

CONFIDENCE = 0.95
"""Confidence of the interval that shows that one network is more accurate than another."""
MARGIN = 0.5
"""Percentage points that separate two networks which still count as equally accurate.

The margin is smaller than every loss of accuracy from 20 to 56 layers that the paper reports for the
plain network (the smallest one is on SVHN). No effect that the paper reports can thus pass as equal
accuracy.
"""
MARGIN_CONFIDENCE = 0.90
"""Confidence of the interval that is compared with the margin: two one-sided tests at 5 %."""

Side = str | tuple[str, str]
"""The name of a row, for its accuracy, or of two rows, for the change from the second to the first."""
Pair = tuple[Side, Side]
"""The side that the paper finds more accurate, then the other one."""


class Claim(NamedTuple):
  """A statement of the paper that compares pairs of networks.

  Attributes:
    title: Short sentence that is true if the claim holds.
    statement: The claim in full.
    pairs: The pairs that the claim is about.
    margin: Percentage points by which the first side of a pair may be less accurate; 0 if it must be
      more accurate.
  """

  title: str
  statement: str
  pairs: tuple[Pair, ...]
  margin: float = 0.0

  @property
  def confidence(self) -> float:
    """Confidence of the intervals."""
    return MARGIN_CONFIDENCE if self.margin else CONFIDENCE

  @property
  def needed(self) -> str:
    """What a pair needs to be reproduced."""
    bound = f"−{self.margin:g} points" if self.margin else "zero"
    return f"Needed: a {self.confidence:.0%} interval above {bound}."


CLAIMS = (
  Claim(
    "Plain networks degrade with depth",
    "The plain network is less accurate with 56 layers than with 20.",
    (("plain20", "plain56"),),
  ),
  Claim(
    "Res-CSC-simplified alleviates the degradation",
    "Res-CSC-simplified loses less accuracy than the plain network from 20 to 56 layers.",
    ((("res_csc_simplified56", "res_csc_simplified20"), ("plain56", "plain20")),),
  ),
  Claim(
    "Res-CSC and ResNet overcome the degradation",
    "Res-CSC and ResNet are more accurate with 56, 110 and 218 layers than with 20.",
    tuple(
      (f"{network}{depth}", f"{network}20")
      for network in ("res_csc", "resnet")
      for depth in (56, 110, 218)
    ),
  ),
  Claim(
    "Res-CSC is more accurate than the plain network",
    "Res-CSC is more accurate at each depth at which the plain network can be trained.",
    tuple((f"res_csc{depth}", f"plain{depth}") for depth in (20, 32, 44, 56)),
  ),
  Claim(
    "Res-CSC is as accurate as ResNet",
    "The accuracy of Res-CSC is very competitive with that of ResNet, or slightly better.",
    tuple((f"res_csc{depth}", f"resnet{depth}") for depth in (20, 32, 44, 56, 110, 218)),
    MARGIN,
  ),
  Claim(
    "Unfolding helps",
    "With unfolding 1 or 2, MSD-CSC is more accurate than MSDNet, which has the same filters.",
    tuple(
      (f"msdcsc{depth}_{unfolding}", f"msdnet{depth}")
      for depth in (6, 9, 12)
      for unfolding in ("u1", "u2", "u2_fista")
    ),
  ),
  Claim(
    "A second unfolding helps further",
    "MSD-CSC is more accurate with unfolding 2 than with unfolding 1.",
    tuple((f"msdcsc{depth}_u2", f"msdcsc{depth}_u1") for depth in (6, 9, 12)),
  ),
  Claim(
    "MSD-CSC is more accurate than ML-CSC",
    "MSD-CSC is more accurate than ML-CSC with the same unfolding, and has fewer parameters.",
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
UNTRAINABLE_TITLE = "Plain networks and Res-CSC-simplified cannot be trained with 110 layers or more"


class Difference(NamedTuple):
  """The paired difference between the accuracies of two sides, in percentage points.

  Attributes:
    mean: Mean over the seeds that both sides have; NaN if they share no seed. It is infinite if one
      side always diverged, see `compare`.
    low: Lower end of the interval (Student's t over the pairs); NaN below two seeds.
    high: Upper end of the interval; NaN below two seeds.
    count: Number of seeds that both sides have.
    diverged: Number of runs of both sides that diverged and are left out.
  """

  mean: float
  low: float
  high: float
  count: int
  diverged: int = 0

  def verdict(self, margin: float = 0.0) -> str:
    """Returns the verdict: whether the interval lies above -margin, below it, or contains it."""
    if self.low > -margin:
      return "reproduced"
    return "not reproduced" if self.high < -margin else "undecided"

  def is_within(self, margin: float) -> bool:
    """Whether the interval lies between -margin and margin: the two sides are equivalent."""
    return -margin < self.low and self.high < margin


def paired(
  better: Mapping[int, float], worse: Mapping[int, float], confidence: float = CONFIDENCE
) -> Difference:
  """Returns the difference `better - worse`, paired by seed.

  Runs with the same seed see the same order of the data and the same augmentation.

  Args:
    better: Accuracy in percent of each seed, of the side that is said to be more accurate.
    worse: Accuracy in percent of each seed, of the other side.
    confidence: Confidence of the interval.
  """
  differences = [better[seed] - worse[seed] for seed in sorted(better.keys() & worse.keys())]
  count = len(differences)
  mean = statistics.mean(differences) if count else math.nan
  if count < 2:
    return Difference(mean, math.nan, math.nan, count)
  quantile = float(stats.t.ppf((1 + confidence) / 2, count - 1))
  half = quantile * statistics.stdev(differences) / math.sqrt(count)
  return Difference(mean, mean - half, mean + half, count)


def compare(records: Sequence[Record], study: Study, claim: Claim) -> dict[Pair, Difference]:
  """Returns the difference of each pair of the claim whose networks all have finished runs.

  Runs that diverged have no accuracy and are left out. A network that diverged with at least two seeds
  and was trained with none is infinitely less accurate than one that was trained with at least two.
  """
  found = {}
  for pair in claim.pairs:
    sides = [[cell(records, study, row) for row in _rows(side)] for side in pair]
    cells = [network for side in sides for network in side]
    if any(network.parameters is None for network in cells):
      continue
    better, worse = (_accuracy([network.last for network in side]) for side in sides)
    difference = paired(better, worse, claim.confidence)
    if _is_lost(sides[0]) and len(worse) > 1:
      difference = Difference(-math.inf, -math.inf, -math.inf, 0)
    elif _is_lost(sides[1]) and len(better) > 1:
      difference = Difference(math.inf, math.inf, math.inf, 0)
    found[pair] = difference._replace(diverged=sum(network.diverged for network in cells))
  return found


def headline(claim: Claim, differences: Mapping[Pair, Difference]) -> str:
  """Returns the verdict on a claim, with the numbers of pairs behind it.

  A claim is reproduced if all its pairs are.

  Args:
    claim: The claim.
    differences: The difference of each pair of the claim that has runs.
  """
  counts = collections.Counter(d.verdict(claim.margin) for d in differences.values())
  yes, no = counts["reproduced"], counts["not reproduced"]
  if not differences:
    return "no runs"
  if yes == len(claim.pairs):
    word = "reproduced"
  elif no:
    word = "mixed" if yes else "not reproduced"
  else:
    word = "partly reproduced" if yes else "undecided"
  counts["without runs"] = len(claim.pairs) - len(differences)
  kinds = ("reproduced", "not reproduced", "undecided", "without runs")
  return f"{word} (pairs: {', '.join(f'{counts[kind]} {kind}' for kind in kinds if counts[kind])})"


def verdicts(records: Sequence[Record], study: Study) -> dict[str, str]:
  """Returns the verdict on each claim that has runs in the study, by the claim's title."""
  found = {claim.title: compare(records, study, claim) for claim in CLAIMS}
  texts = {claim.title: headline(claim, found[claim.title]) for claim in CLAIMS if found[claim.title]}
  cells = [cell(records, study, row) for row in UNTRAINABLE]
  diverged, runs = (sum(getattr(network, name) for network in cells) for name in ("diverged", "count"))
  return {**texts, UNTRAINABLE_TITLE: f"{diverged} of {runs} runs diverged"} if runs else texts


def markdown(records: Sequence[Record], study: Study) -> str:
  """Returns Markdown with a paragraph and a table for each claim that has runs in the study."""
  texts = []
  for claim in CLAIMS:
    if found := compare(records, study, claim):
      title = f"**{claim.title}: {headline(claim, found)}.**"
      texts += [f"{title} The paper: {claim.statement} {claim.needed}", _table(study, claim, found)]
  cells = {row: cell(records, study, row) for row in UNTRAINABLE}
  lines = [
    f"- {ROWS[row].title}: {network.diverged} of {network.count} runs diverged."
    for row, network in cells.items()
    if network.count
  ]
  if lines:
    texts += [f"**{UNTRAINABLE_TITLE}.** The paper prints × for these networks:", "\n".join(lines)]
  return "\n\n".join(texts)


def _table(study: Study, claim: Claim, found: Mapping[Pair, Difference]) -> str:
  """Returns the table of a claim."""
  head = ["As accurate", "as"] if claim.margin else ["More accurate", "than"]
  # Under another protocol the paper's differences are not comparable.
  head += ["Paper", "Ours"] if study.is_papers else ["Ours"]
  rows = []
  for pair, ours in found.items():
    columns = [_title(side) for side in pair]
    if study.is_papers:
      columns.append(_signed(_printed(study, pair)))
    interval = f"{_signed(ours.low)} to {_signed(ours.high)}" if ours.count > 1 else "–"
    columns += [_signed(ours.mean), interval]
    columns.append(f"{ours.count}" + (f", × ({ours.diverged})" if ours.diverged else ""))
    equivalent = " (equivalent)" if claim.margin and ours.is_within(claim.margin) else ""
    rows.append([*columns, ours.verdict(claim.margin) + equivalent])
  return text_tables.markdown([*head, f"{claim.confidence:.0%} interval", "n", "Verdict"], rows)


def _signed(value: float) -> str:
  return f"{value:+z.2f}" if math.isfinite(value) else "–"


def _rows(side: Side) -> tuple[str, ...]:
  return (side,) if isinstance(side, str) else side


def _title(side: Side) -> str:
  """Returns the readable name of a side."""
  first, *base = (ROWS[row] for row in _rows(side))
  return first.title + "".join(f" minus {row.layers} layers" for row in base)


def _accuracy(side: Sequence[Mapping[int, float]]) -> dict[int, float]:
  """Returns the accuracy of a side by seed, or its change from the second network to the first."""
  first, *base = side
  seeds = set(first).intersection(*base)
  return {seed: first[seed] - sum(other[seed] for other in base) for seed in seeds}


def _printed(study: Study, pair: Pair) -> float:
  """Returns the difference between the accuracies that the paper prints; NaN if it prints ×."""
  printed = [[ROWS[row].accuracy[study.dataset] for row in _rows(side)] for side in pair]
  sides = [[{} if value is None else {0: value} for value in side] for side in printed]
  better, worse = map(_accuracy, sides)
  return paired(better, worse).mean


def _is_lost(side: Sequence[Cell]) -> bool:
  """Whether the first network of a side diverged with at least two seeds and was trained with none."""
  return not side[0].trained and side[0].diverged > 1
