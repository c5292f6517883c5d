"""Tables and verdicts on fake records agree with SciPy's paired test and with hand-computed numbers."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from experiments.reproduction import claims, document, figures, tables
from experiments.reproduction.paper import DATASETS, ROWS
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


def test_runs_that_diverged_are_left_out_of_tables_differences_and_figures():
  """The curve of the diverged run would pull the mean in the figure from 80 to 50."""
  records = [record("plain56", 20.0, seed=0, status="diverged")]
  records += [record("plain56", 80.0, seed=s, status=t) for s, t in ((1, "ok"), (2, "interrupted"))]
  records += [record("plain20", 90.0 + s, seed=s) for s in (0, 1)]
  columns = row_of(tables.markdown(records, [(PAPER, 2)]), "| Plain network | 56 |")
  assert columns[4] == "80.00 (1), × (1)"
  claim = claims.markdown(records, PAPER)
  assert row_of(claim, "| Plain network, 20 layers |")[3:] == ["+11.00", "–", "1, × (1)", "undecided"]
  (axes,) = figures.figure("figure4", records, PAPER).axes
  curve = next(line for line in axes.lines if line.get_label().startswith("Plain network, 56"))
  assert curve.get_xydata()[-1].tolist() == [200, 80]
  labels = [text.get_text() for text in axes.get_legend().get_texts()]
  assert labels == [
    "Plain network, 56 layers (1 seed, 1 diverged)",
    "Plain network, 20 layers (2 seeds)",
  ]


@pytest.mark.parametrize(
  ("seeds", "verdict"), [((0, 1), "not reproduced"), ((0,), "undecided"), ((), None)]
)
def test_a_network_that_always_diverges_is_less_accurate(seeds, verdict):
  """Its differences have no seed, which must not read as "no runs"; one seed decides nothing."""
  overcomes = claims.CLAIMS[2]
  pair = ("res_csc218", "res_csc20")
  assert pair in overcomes.pairs
  records = [record("res_csc218", 10.0, seed=s, status="diverged") for s in seeds]
  records += [record("res_csc20", 90.0 + s, seed=s) for s in (0, 1)]
  found = claims.compare(records, PAPER, overcomes)
  assert {p: d.verdict() for p, d in found.items()} == ({pair: verdict} if verdict else {})
  lines = claims.markdown(records, PAPER).splitlines()
  if verdict:
    expected = f"| +2.46 | – | – | 0, × ({len(seeds)}) | {verdict} |"
    assert any(line.endswith(expected) for line in lines)


def test_a_plain_network_that_always_diverges_degrades():
  records = [record("plain56", 10.0, seed=s, status="diverged") for s in (0, 1)]
  records += [record("plain20", 90.0 + s, seed=s) for s in (0, 1)]
  assert claims.verdicts(records, PAPER) == {claims.CLAIMS[0].title: "reproduced (pairs: 1 reproduced)"}
  alone = claims.verdicts(records[:3], PAPER)  # one run that was trained may be luck
  assert alone == {claims.CLAIMS[0].title: "undecided (pairs: 1 undecided)"}


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
  decided = found.verdict() in ("reproduced", "not reproduced")
  assert decided == (stats.ttest_rel(second, first).pvalue < 0.05)


@given(st.lists(st.integers(-200, 200).map(lambda n: n / 100), min_size=2, max_size=8))
def test_equal_accuracy_is_scipys_two_one_sided_tests(differences):
  assume(np.std(differences) > 0.01)
  margin = claims.MARGIN
  found = claims.paired(dict(enumerate(differences)), dict.fromkeys(range(8), 0.0), 0.90)

  def rejects(bound, alternative):
    p = stats.ttest_1samp(differences, bound, alternative=alternative).pvalue
    assume(abs(p - 0.05) > 1e-9)
    return p < 0.05

  above, below = rejects(-margin, "greater"), rejects(margin, "less")
  assert found.is_within(margin) == (above and below)
  worse = rejects(-margin, "less")
  expected = "reproduced" if above else "not reproduced" if worse else "undecided"
  assert found.verdict(margin) == expected


@pytest.mark.parametrize(
  ("differences", "verdict"),
  [
    ((0.0, 0.1, -0.1), "reproduced (equivalent)"),
    ((-0.2, -0.25, -0.3), "reproduced (equivalent)"),  # certainly less accurate, but not by the margin
    ((2.0, 2.1, 1.9), "reproduced"),
    ((0.0, 1.0, -1.0), "undecided"),  # no difference was found, which shows nothing
    ((-1.0, -1.1, -0.9), "not reproduced"),
  ],
)
def test_verdicts_on_equal_accuracy(differences, verdict):
  records = [record("resnet20", 80.0, seed=s) for s in range(3)]
  records += [record("res_csc20", 80.0 + d, seed=s) for s, d in enumerate(differences)]
  text = claims.markdown(records, PAPER)
  assert row_of(text, "| Res-CSC, 20 layers | ResNet, 20 layers |")[-1] == verdict
  assert "Needed: a 90% interval above −0.5 points." in text
  assert "| As accurate | as | Paper | Ours | 90% interval | n | Verdict |" in text


def test_the_margin_is_smaller_than_every_effect_of_depth_in_the_paper():
  plain = [ROWS[f"plain{depth}"].accuracy for depth in (20, 56)]
  assert 0 < claims.MARGIN < min(plain[0][d] - plain[1][d] for d in DATASETS)


def test_only_common_seeds_are_paired():
  found = claims.paired({0: 1.0, 1: 5.0, 7: 90.0}, {1: 4.0, 0: 2.0, 8: 10.0})
  assert (found.mean, found.count) == (0.0, 2)
  assert claims.paired({0: 1.0}, {1: 1.0}).verdict() == "undecided"
  alone = claims.paired({0: 3.0}, {0: 1.0})
  assert (alone.mean, alone.verdict()) == (2.0, "undecided")
  assert math.isnan(alone.low)


@pytest.mark.parametrize(
  ("differences", "verdict"),
  [
    ((1.0, 1.1, 0.9), "reproduced"),
    ((-1.0, -1.1, -0.9), "not reproduced"),
    ((1.0, -1.0, 0.5), "undecided"),
  ],
)
def test_verdicts(differences, verdict):
  records = [record("plain56", 80.0, seed=s) for s in range(3)]
  records += [record("plain20", 80.0 + d, seed=s) for s, d in enumerate(differences)]
  claim = claims.CLAIMS[0]
  (found,) = claims.compare(records, PAPER, claim).values()
  assert found.verdict() == verdict
  text = claims.markdown(records, PAPER)
  assert f"**{claim.title}: {verdict} (pairs: 1 {verdict}).**" in text
  paper = ROWS["plain20"].accuracy["cifar10"] - ROWS["plain56"].accuracy["cifar10"]
  columns = row_of(text, "| Plain network, 20 layers | Plain network, 56 layers |")
  assert (columns[2], columns[-1]) == (f"{paper:+.2f}", verdict)


def test_alleviation_compares_the_losses_with_depth():
  """A network that is more accurate at 56 layers, by as much as at 20 layers, alleviates nothing."""
  loss = {"plain20": 90.0, "plain56": 85.0, "res_csc_simplified20": 93.0, "res_csc_simplified56": 88.0}
  noise = dict(zip(loss, ((0, 0.1, 0.2), (0.2, 0, 0.1), (0.1, 0, 0), (0, 0.1, 0.1)), strict=True))
  records = [record(row, loss[row] + noise[row][s], seed=s) for row in loss for s in range(3)]
  alleviates = claims.CLAIMS[1]
  (found,) = claims.compare(records, PAPER, alleviates).values()
  changes = [np.subtract(noise[f"{n}56"], noise[f"{n}20"]) for n in ("res_csc_simplified", "plain")]
  interval = stats.ttest_rel(*changes).confidence_interval(0.95)
  np.testing.assert_allclose((found.low, found.high), interval, atol=1e-9)
  assert found.verdict() == "undecided"
  columns = row_of(claims.markdown(records, PAPER), "| Res-CSC-simplified, 56 layers minus")
  paper = {row: ROWS[row].accuracy["cifar10"] for row in loss}
  change = paper["res_csc_simplified56"] - paper["res_csc_simplified20"]
  expected = f"{change - paper['plain56'] + paper['plain20']:+.2f}"
  assert columns[:3] == [
    "Res-CSC-simplified, 56 layers minus 20 layers",
    "Plain network, 56 layers minus 20 layers",
    expected,
  ]


def test_pairs_that_disagree_are_not_called_reproduced():
  claim = claims.Claim("", "", (("a", "b"), ("c", "d"), ("e", "f")))
  intervals = {"up": (1, 2), "down": (-2, -1), "around": (-1, 1)}

  def headline(*names):
    ends = [intervals[name] for name in names]
    differences = [claims.Difference((low + high) / 2, low, high, 3) for low, high in ends]
    return claims.headline(claim, dict(zip(claim.pairs, differences, strict=False)))

  assert headline("up", "up", "up") == "reproduced (pairs: 3 reproduced)"
  assert headline("up", "up") == "partly reproduced (pairs: 2 reproduced, 1 without runs)"
  assert headline("down") == "not reproduced (pairs: 1 not reproduced, 2 without runs)"
  assert headline("down", "around").startswith("not reproduced (pairs: 1 not reproduced, 1 undecided,")
  assert headline("up", "down") == "mixed (pairs: 1 reproduced, 1 not reproduced, 1 without runs)"
  assert headline("up", "up", "around") == "partly reproduced (pairs: 2 reproduced, 1 undecided)"
  assert headline("around") == "undecided (pairs: 1 undecided, 2 without runs)"
  assert headline() == "no runs"


def rows_of(side):
  return (side,) if isinstance(side, str) else side


def test_degradation_is_only_judged_where_the_depth_varies():
  about_depth = [claim for claim in claims.CLAIMS if "degrad" in claim.title]
  assert len(about_depth) == 3
  for claim in about_depth:
    for pair in claim.pairs:
      layers = [ROWS[row].layers for side in pair for row in rows_of(side)]
      assert len(set(layers)) == 2
  records = [record("plain20", 80.0 + s, seed=s) for s in range(3)]
  records += [record("res_csc20", 85.0 + s, seed=s) for s in range(3)]
  assert not [title for title in claims.verdicts(records, PAPER) if "degrad" in title]


def test_every_claim_holds_in_the_papers_tables_with_one_exception():
  """The paper's own numbers, as three seeds each, are judged as the paper says."""
  against = []
  for dataset in DATASETS:
    found = {row.name: row.accuracy[dataset] for row in ROWS.values() if row.accuracy[dataset]}
    noise = (-1e-6, 0.0, 1e-6)
    records = [
      record(row, accuracy + noise[(s * (i % 2 + 1)) % 3], dataset=dataset, seed=s)
      for i, (row, accuracy) in enumerate(found.items())
      for s in range(3)
    ]
    for claim in claims.CLAIMS:
      differences = claims.compare(records, Study(dataset, "paper"), claim)
      assert len(differences) == len(claim.pairs)
      against += [
        (dataset, *p) for p, d in differences.items() if d.verdict(claim.margin) != "reproduced"
      ]
  assert against == [("svhn_cropped", "msdcsc6_u1", "ml_csc_u1")]


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
