"""Tables and verdicts on fake records agree with SciPy's paired test and with hand-computed numbers."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from experiments.reproduction import claims, document, tables
from experiments.reproduction.paper import ROWS
from experiments.reproduction.studies import Study
from tests.reproduction.made import record

PAPER, REDUCED = Study("cifar10", "paper"), Study("cifar10", "reduced")
MSDNET = {d: ROWS[f"msdnet{d}"].accuracy["cifar10"] for d in (6, 9)}
PERCENT = st.integers(0, 10_000).map(lambda n: n / 100)
PAIRS = st.lists(st.tuples(PERCENT, PERCENT), min_size=2, max_size=8)


def row_of(text, start):
  (line,) = [line for line in text.splitlines() if line.startswith(start)]
  return [column.strip() for column in line.strip("|").split("|")]


def test_a_row_has_mean_deviation_and_difference_from_the_paper():
  records = [record("msdnet6", a, seed=s) for s, a in enumerate((87.0, 88.0, 89.0))]
  records.append(record("msdnet6", 10.0, seed=3, status="interrupted"))
  records.append(record("msdnet6", 20.0, seed=0, protocol="reduced"))
  text = tables.markdown(records, [(PAPER, 3)])
  assert row_of(text, "| MSDNet | 6 |") == [
    *("MSDNet", "6", "0", f"{ROWS['msdnet6'].parameters}; 143,424"),
    *(f"{MSDNET[6]}", "88.00 ± 1.00 (3)", f"{88 - MSDNET[6]:+.2f}", "89.00 ± 1.00 (3)"),
  ]
  assert row_of(text, "| MSDNet | 9 |")[4:] == [f"{MSDNET[9]}", "–", "–", "–"]
  assert len(text.splitlines()) == 2 + 2 + 16


def test_diverged_runs_are_counted_separately():
  records = [record("plain110", 0.1, seed=s, status="diverged") for s in range(2)]
  records.append(record("plain110", 80.0, seed=2))
  columns = row_of(tables.markdown(records, [(PAPER, 2)]), "| Plain network | 110 |")
  assert columns[3:] == ["×", "80.00 (1), × (2)", "–", "81.00 (1)"]
  assert "plain110: 2 of 3 runs" in claims.markdown(records, PAPER)


def test_results_of_a_reduced_protocol_are_never_next_to_the_papers_numbers():
  records = [record("msdnet6", 55.0, protocol="reduced"), record("msdcsc6_u1", 56.0, protocol="reduced")]
  text = tables.markdown(records, [(REDUCED, 3)]) + claims.markdown(records, REDUCED)
  assert f"{MSDNET[6]}" not in text
  assert "Paper |" not in text
  assert "not the paper's protocol" in text


def test_precisions_and_augmentations_are_never_mixed_and_every_caption_names_them():
  values = {("auto", "float32"): 80.0, ("auto", "bfloat16"): 81.0, ("none", "float32"): 82.0}
  records = [
    record("msdnet6", value, augmentation=augmentation, precision=precision)
    for (augmentation, precision), value in values.items()
  ]
  captions = {
    ("auto", "float32"): "### Table 3 on CIFAR10, float32",
    ("auto", "bfloat16"): "### Table 3 on CIFAR10, bfloat16",
    ("none", "float32"): (
      "### The networks of Table 3 on CIFAR10, no augmentation, float32 (not the paper's protocol)"
    ),
  }
  assert len({one.job.study.name for one in records}) == len(document.studies(records)) == 3
  for changes, value in values.items():
    study = Study("cifar10", "paper", *changes)
    text = tables.markdown(records, [(study, 3)])
    assert text.splitlines()[0] == captions[changes]
    assert f"{value:.2f} (1)" in row_of(text, "| MSDNet | 6 |")
    assert (f"{MSDNET[6]}" in text) == (
      changes[0] == "auto"
    )  # the paper's protocol alone shows its number
    assert f"{changes[1]}, 2026" in document.made(records, study)
    given = {"bfloat16": "--precision=bfloat16`", "none": "--augmentation=none`"}
    assert all((text in document.made(records, study)) == (c in changes) for c, text in given.items())


@given(PAIRS)
def test_the_interval_is_scipys(pairs):
  first, second = zip(*pairs, strict=True)
  assume(np.std(np.subtract(second, first)) > 0.01)
  found = claims.paired(dict(enumerate(second)), dict(enumerate(first)))
  expected = stats.ttest_rel(second, first).confidence_interval(0.95)
  np.testing.assert_allclose((found.low, found.high), expected, rtol=1e-6, atol=1e-9)
  assert found.mean == pytest.approx(np.mean(second) - np.mean(first), abs=1e-9)
  decided = found.verdict in ("reproduced", "not reproduced")
  assert decided == (stats.ttest_rel(second, first).pvalue < 0.05)


def test_only_common_seeds_are_paired():
  found = claims.paired({0: 1.0, 1: 5.0, 7: 90.0}, {1: 4.0, 0: 2.0, 8: 10.0})
  assert (found.mean, found.count) == (0.0, 2)
  assert claims.paired({0: 1.0}, {1: 1.0}).verdict == "no runs"
  alone = claims.paired({0: 3.0}, {0: 1.0})
  assert (alone.mean, alone.verdict) == (2.0, "undecided at n = 1")
  assert math.isnan(alone.low)


@pytest.mark.parametrize(
  ("differences", "verdict"),
  [
    ((1.0, 1.1, 0.9), "reproduced"),
    ((-1.0, -1.1, -0.9), "not reproduced"),
    ((1.0, -1.0, 0.5), "undecided at n = 3"),
  ],
)
def test_verdicts(differences, verdict):
  records = [record("plain56", 80.0, seed=s) for s in range(3)]
  records += [record("plain20", 80.0 + d, seed=s) for s, d in enumerate(differences)]
  claim = claims.CLAIMS[0]
  (found,) = claims.compare_pairs(records, PAPER, claim).values()
  assert found.verdict == verdict
  text = claims.markdown(records, PAPER)
  assert f"**{claim.title}: {verdict.partition(' at')[0]}.**" in text
  paper = ROWS["plain20"].accuracy["cifar10"] - ROWS["plain56"].accuracy["cifar10"]
  assert row_of(text, "| plain20 | plain56 |")[2] == f"{paper:+.2f}"


def test_pairs_that_disagree_are_not_called_reproduced():
  def difference(low, high):
    return claims.Difference((low + high) / 2, low, high, 3)

  up, down, around = difference(1, 2), difference(-2, -1), difference(-1, 1)
  assert claims.overall([up, up]) == "reproduced"
  assert claims.overall([down]) == "not reproduced"
  assert claims.overall([up, down]) == "not reproduced in every pair"
  assert claims.overall([up, around]) == "reproduced in some pairs, undecided in others"
  assert claims.overall([around]) == "undecided"
  assert claims.overall([]) == "no runs"


def test_a_verdict_states_its_number_of_pairs():
  depth = next(claim for claim in claims.CLAIMS if ("res_csc20", "plain20") in claim.pairs)
  records = [record("plain20", 80.0 + s / 8, seed=s) for s in range(3)]
  records += [record("res_csc20", 82.0 + s / 4, seed=s) for s in range(3)]
  assert f"**{depth.title}: reproduced, from 1 of 5 pairs.**" in claims.markdown(records, PAPER)


def test_every_claim_holds_in_the_papers_cifar10_column_with_one_exception():
  against = [
    (better, worse)
    for claim in claims.CLAIMS
    for better, worse in claim.pairs
    if None not in (values := [ROWS[row].accuracy["cifar10"] for row in (better, worse)])
    and values[0] <= values[1]
  ]
  assert against == [("res_csc44", "resnet44")]


def test_what_is_missing_is_listed():
  everything = [
    record(row, 50.0, dataset=d) for d in ("cifar10", "cifar100", "svhn_cropped") for row in ROWS
  ]
  assert document.missing([]).startswith("120 of the 120 cells")
  assert document.missing(everything).startswith("All 120 cells")
  text = document.missing([r for r in everything if (r.dataset, r.row) != ("svhn_cropped", "resnet32")])
  assert text.startswith("1 of the 120 cells")
  assert text.endswith("\n\n- SVHN: resnet32")
  interrupted = [
    record("resnet32", 50.0, status="interrupted"),
    record("plain20", 9.0, protocol="reduced"),
    record("msdnet6", 82.0, augmentation="none"),
  ]
  assert document.missing(interrupted).startswith("120 of the 120 cells")
  half = [record("msdnet6", 87.0, precision="bfloat16")]
  assert document.missing(half).startswith("119 of the 120 cells")
