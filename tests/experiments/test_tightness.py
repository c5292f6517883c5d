"""experiments.tightness: its stored rows, and the bounds beside adversarial noise."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from experiments import tightness
from experiments.benchmarks import problems

RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"
CASES = [pytest.param(case, id=case.name) for case in tightness.CROPS]
ROUNDING = 0.005  # of a goal
MEBIBYTE = 2**20


def test_stored_rows():
  """The page shows their tables; no change exceeds its bound, and each bound reaches its goal."""
  stored = [json.loads(line) for line in (RESULTS / "tightness.jsonl").read_text().splitlines()]
  cases = (tightness.WHOLE, *tightness.CROPS)
  expected = [(case.name, level, goal) for case in cases for level, goal in case.goals.items()]
  assert [(row["case"], row["noise"], row["goal"]) for row in stored] == expected
  whole, *attacked = stored
  for row in attacked:
    _check(row)
  assert whole["proved"] == 1
  assert whole["seconds"] < 120
  assert whole["peak_bytes"] < 2048 * MEBIBYTE
  page = (RESULTS / "README.md").read_text()
  assert tightness.bounds_table(attacked) in page
  assert tightness.cost_table(whole) in page


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("case", CASES)
def test_bounds_are_tight(case):
  if case.problem not in problems.available():
    pytest.skip("the problem needs SPORCO and scikit-image")
  for row in tightness.rows([case]):
    _check(row)
    if row["goal"] is not None and row["noise"] == 1e-4:  # hardly another atom becomes active
      assert row["adversarial"] > 0.9 * row["bound"]


def _check(row):
  if row["bound"] is None:
    assert row["active"][1] > row["pixels"]
    return
  assert max(row["adversarial"], row["random"]) <= row["bound"] * (1 + 1e-6)
  assert row["bound"] / row["adversarial"] <= (row["goal"] or math.inf) + ROUNDING
  assert row["random"] < row["adversarial"]


@pytest.mark.slow
def test_gradient_of_the_attack():
  """Against differences of the exact solutions of a small photograph."""
  case = tightness.PhotographCase("china128x16", 12, 0.2, {})
  photograph = tightness.Photograph(case)
  rng = np.random.default_rng(0)
  e, direction = 1e-3 * photograph.norm * rng.normal(size=(2, 12, 12, 1)) / 12
  change, gradient = photograph._change(e)
  step = 1e-5
  ends = [photograph._change(e + sign * step * direction)[0] for sign in (1, -1)]
  slope = (ends[0] - ends[1]) / (2 * step)
  np.testing.assert_allclose(np.sum(gradient * direction) / change, slope, rtol=1e-5)
  with jax.enable_x64(True):
    moved = cscjax.fista(
      photograph._dictionary, photograph._x + jnp.asarray(e), photograph._beta, tolerance=1e-12
    ).code
  np.testing.assert_allclose(
    change, np.linalg.norm(np.asarray(moved) - photograph.stability.code), rtol=1e-4
  )


@pytest.mark.slow
def test_proves_the_bound_of_a_whole_photograph():
  """In about a minute of two cores and 1.3 GiB; the large sets of atoms are factored."""
  if "g256x32" not in problems.available():
    pytest.skip("the problem needs SPORCO and scikit-image")
  photograph = tightness.Photograph(tightness.WHOLE)
  result, noise = photograph.stability, 1e-3 * photograph.norm
  assert result.nonzeros == 1952
  assert result.active_set(noise).proved == 1
  assert result.bound(noise) < 0.07 * np.linalg.norm(result.code)
  assert result.largest_noise > 3 * noise
