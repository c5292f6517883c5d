"""experiments.robustness: its tables, the stored rows, and two systems trained for an epoch."""

import json
import math
import pathlib

import numpy as np
import pytest
from absl import flags as absl_flags
from scipy import stats

from experiments import robustness
from experiments.cli import UsageError

RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"


def made(system, seed, value):
  values = dict.fromkeys(robustness.MEASURES, value)
  fixed = {"parameters": 1234, "test_accuracy": 0.95, "certified_below_attack": 1.0}
  return {"system": system, "seed": seed, **fixed, **values}


def test_stored_rows():
  """The page shows their tables, and no attack came closer than a certified radius."""
  stored = [json.loads(line) for line in (RESULTS / "robustness.jsonl").read_text().splitlines()]
  seeds = {row["seed"] for row in stored}
  assert len(seeds) >= 3
  cells = [(row["seed"], row["system"]) for row in stored]
  assert cells == [(seed, system) for seed in sorted(seeds) for system in robustness.SYSTEMS]
  assert all(row["certified_below_attack"] == 1 for row in stored)
  page = (RESULTS / "README.md").read_text()
  assert robustness.systems_table(stored) in page
  assert robustness.ratios_table(stored) in page


def test_ratios_are_geometric_means_with_the_interval_of_their_logarithms():
  first, second = robustness.PAIRS[0]
  ratios = np.array([2.0, 3.0, 5.0])
  found = [made(first, seed, 7 * (seed + 1) * ratio) for seed, ratio in enumerate(ratios)]
  found += [made(second, seed, 7.0 * (seed + 1)) for seed in range(3)]
  *_, line = robustness.ratios_table(found).splitlines()
  low, high = np.exp(stats.t.interval(0.95, 2, np.log(ratios).mean(), stats.sem(np.log(ratios))))
  assert line.count(f"| {math.cbrt(30):.3g} ({low:.3g} to {high:.3g}) ") == len(robustness.MEASURES)


def test_systems_show_medians_and_ranges():
  found = [made("msdnet6", seed, value) for seed, value in enumerate((1e-3, 4e-3, 2e-3))]
  *_, line = robustness.systems_table(found).splitlines()
  assert line.startswith("| MSDNet, d = 6 | 1,234 | 95.0 (95.0 to 95.0) | 0.002 (0.001 to 0.004) |")


def test_an_unknown_system_is_an_error():
  values = absl_flags.FlagValues()
  robustness.define_flags(values)
  values(["robustness", "--systems=msdnet6,vgg"])
  with pytest.raises(UsageError, match=r"^--systems: unknown vgg; choose from plain20, "):
    robustness.main(values)


@pytest.mark.slow
def test_two_systems(tmp_path):
  systems = ("feed_forward", "msdnet6")
  smaller = {"epochs": 1, "decay_epochs": (), "width": 4}
  found = list(robustness.rows(systems, [3], 4, 2, tmp_path, **smaller))
  assert [(row["system"], row["seed"], row["width"]) for row in found] == [(s, 3, 4) for s in systems]
  for row in found:
    assert row["certified_below_attack"] == 1
    assert row["margin"] / row["lipschitz"] <= (1 + 1e-5) * row["certified_radius"]
    assert row["certified_radius"] <= row["attack_radius"]
    summary = json.loads((tmp_path / f"{row['system']}-seed3" / "summary.json").read_text())
    assert row["test_accuracy"] == summary["test_accuracy"]
  json.dumps(found, allow_nan=False)
