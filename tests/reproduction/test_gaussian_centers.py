"""The simulation of Figure 3 agrees with scikit-learn's Lasso, with Theorem 1 and with NumPy."""

import copy
import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso

from experiments import gaussian_centers
from experiments.cli import UsageError
from experiments.reproduction import figure3, simulation
from experiments.reproduction.simulation import MODELS, Pursuit

ROOT = pathlib.Path(__file__).parents[2]
BETA = (0.3, 0.1)
RATE = 0.1
SIZES = {"width": 5, "dimension": 6, "num_classes": 4}
SOLVED = {"signed": Pursuit(1000, nonnegative=False), "nonnegative": Pursuit(1000, nonnegative=True)}


def matrices(model, params):
  """Returns D_1 and D_2 as matrices."""
  atoms = [np.asarray(f)[0] for f in params.filters]
  return atoms if model == "ml_csc" else [np.hstack([np.eye(len(a)), a]) for a in atoms]


def lasso(d, x, beta, nonnegative):
  """Returns scikit-learn's solution; its objective is divided by the number of rows."""
  solver = Lasso(beta / len(x), fit_intercept=False, positive=nonnegative, tol=1e-12, max_iter=10**6)
  return solver.fit(d, x).coef_


def codes_of(model, params, x, nonnegative):
  first, second = matrices(model, params)
  code_1 = lasso(first, x, BETA[0], nonnegative)
  return code_1, lasso(second, code_1, BETA[1], nonnegative)


def mean_failed(model, params, sample, nonnegative):
  first, second = matrices(model, params)
  counts = []
  for x in sample:
    code_1, code_2 = codes_of(model, params, x, nonnegative)
    reconstructions = first @ code_1, first @ (second @ code_2)
    counts.append([np.sum(np.abs(r - x) > 2 * BETA[0]) for r in reconstructions])
  return np.mean(counts, axis=0)


def problem(model):
  rng = np.random.default_rng(1)
  x, labels = rng.normal(size=(12, 6)), rng.integers(4, size=12).astype(np.int32)
  order = rng.integers(12, size=(3, 8)).astype(np.int32)
  params = simulation.initial(model, jax.random.key(2), **SIZES)
  return params, x, labels, order, rng.normal(size=(7, 6))


def train(model, pursuit, iterations):
  params, x, labels, order, sample = problem(model)
  return simulation.train(
    *(params, jnp.asarray(x)[:, None], labels, order[:iterations], jnp.asarray(sample)[:, None]),
    *(BETA, RATE),
    model=model,
    pursuit=pursuit,
  )


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["signed", pytest.param("nonnegative", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
def test_failed_dimensions_in_each_iteration_agree_with_scikit_learn(x64, model, sign):
  params, *_, sample = problem(model)
  whole, shorter = (train(model, SOLVED[sign], count) for count in (3, 2))
  np.testing.assert_array_equal(whole.failed[:3], shorter.failed)
  reached = {0: params, 2: shorter.params, 3: whole.params}
  for iteration, at in reached.items():
    expected = mean_failed(model, at, sample, SOLVED[sign].nonnegative)
    np.testing.assert_allclose(whole.failed[iteration], expected, atol=1e-12)
  assert np.max(np.abs(whole.params.filters[0] - params.filters[0])) > 1e-3  # the atoms are trained
  if model == "ml_csc":
    assert np.min(whole.failed) > 0
  elif sign == "signed":
    np.testing.assert_array_equal(whole.failed[:, 0], 0)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_classifier_is_trained_by_momentum_on_the_cross_entropy(x64, model):
  """Two iterations of SGD with momentum 0.9 agree with gradients computed from scikit-learn's codes."""
  params, x, labels, order, _ = problem(model)
  after = [params, *(train(model, SOLVED["signed"], count).params for count in (1, 2))]
  first = np.stack([codes_of(model, params, x[i], nonnegative=False)[1] for i in order[0]])
  scale = 1 / np.sqrt(np.mean(first**2))
  velocity = np.zeros(params.kernel.shape)
  for start, end, batch in zip(after[:-1], after[1:], order[:2], strict=True):
    codes = scale * np.stack([codes_of(model, start, x[i], nonnegative=False)[1] for i in batch])
    logits = codes @ start.kernel + start.bias[None]
    errors = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(4)[labels[batch]]
    velocity = 0.9 * velocity + codes.T @ errors / len(batch)
    np.testing.assert_allclose(end.kernel, start.kernel - RATE * velocity, atol=1e-5)


@pytest.mark.slow
def test_one_iteration_is_layered_thresholding(x64):
  """The forward pass is ReLU(D^T x - beta) / L, with L from the singular values."""
  params, x, *_ = problem("msd_csc")
  steps = simulation.inverse_lipschitz(params.filters, "msd_csc")
  layers = simulation.dictionaries("msd_csc", params.filters)
  found = simulation.pursue(layers, jnp.asarray(x)[:, None], BETA, steps, Pursuit(1, nonnegative=True))
  signal = x
  for d, beta, step, code in zip(matrices("msd_csc", params), BETA, steps, found, strict=True):
    assert step == pytest.approx(1 / np.linalg.norm(d, 2) ** 2, rel=0.011)
    signal = np.maximum(signal @ d - beta, 0) * float(step)
    np.testing.assert_allclose(np.concatenate(code, axis=-1)[:, 0], signal, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.3, pytest.param(3.0, marks=pytest.mark.slow)])
def test_theorem_1_at_full_size(scale):
  """With converged codes MSD-CSC has no failure for any atoms; ML-CSC has some at each point."""
  sample = 1.4 * jax.random.normal(jax.random.key(0), (20, 1, 100))
  labels = jnp.zeros(20, jnp.int32)
  failed = {}
  for model in MODELS:
    params = simulation.initial(model, jax.random.key(1), width=50)
    params = params._replace(filters=[scale * f for f in params.filters])
    pursuit = Pursuit(300, nonnegative=False)
    failed[model] = simulation.evaluate(
      params, sample, labels, (0.5, 0.1), model=model, pursuit=pursuit
    ).failed[:, 0]
  np.testing.assert_array_equal(failed["msd_csc"], 0)
  assert np.min(failed["ml_csc"]) > 0


def test_minibatches_are_epochs():
  order = simulation.minibatches(300, 5, seed=0)
  assert order.shape == (5, 128)
  for epoch in (order[:2], order[2:4]):
    assert len(np.unique(epoch)) == 256
  assert not np.array_equal(order[0], order[2])


RUN = {
  "seeds": [{"seed": s, "start": 40.0, "end": 12.0 + s, "final_loss": 1.0} for s in (0, 1)],
  "mean": dict.fromkeys(("start", "end", "both_layers_end", "end_if_solved"), 12.5),
  "std": dict.fromkeys(("start", "end", "both_layers_end", "end_if_solved", "test_accuracy"), 0.7071),
}


def fake_results():
  """Returns results in which MSD-CSC decreases to zero and ML-CSC does not, with either pursuit."""
  runs = []
  for pursuit in figure3.PURSUITS:
    for model in MODELS:
      run = {"model": model, "pursuit": pursuit, **copy.deepcopy(RUN)}
      run["mean"]["test_accuracy"] = 0.9
      if model == "msd_csc":
        run["mean"]["end"] = run["std"]["end"] = 0.0
        for row in run["seeds"]:
          row["end"] = 0.0
      curve = {"mean": [40.0, run["mean"]["end"]], "std": [2.0, run["std"]["end"]]}
      run["curves"] = {"layer_1": curve, "both_layers": {"mean": [50.0, 45.0], "std": [1.0, 1.0]}}
      runs.append(run)
  settings = {"seeds": [0, 1], "beta": [0.5, 0.1], "iterations": 100, "unfolding": 0}
  settings |= {"lasso_iterations": 30, "nonnegative": False}
  return {"settings": settings, "iteration": [0, 100], "runs": runs}


def test_the_verdict_has_a_table_of_claims_and_one_of_numbers():
  results = fake_results()
  assert figure3.verdict(results) == "reproduced (Lasso: reproduced; forward pass: reproduced)"
  text = figure3.markdown(results)
  assert text.startswith("**Figure 3: reproduced.** ")
  name = "Lasso (30 FISTA iterations, signed codes)"
  assert f"| {name} | yes | yes | yes | reproduced |" in text
  assert (
    "with 2β = 1, before and after 100 training iterations: mean ± standard deviation over 2" in text
  )
  assert f"| {name} | MSD-CSC | 12.50 ± 0.71 | 0.00 ± 0.00 | 12.50 ± 0.71 | 12.50 ± 0.71 | 0.90" in text
  assert f"| {name} | ML-CSC | 12.50 ± 0.71 | 12.50 ± 0.71 |" in text
  assert "could not be trained" not in text
  assert "Theorem 1" not in text
  lasso = next(r for r in results["runs"] if (r["model"], r["pursuit"]) == ("msd_csc", "lasso"))
  lasso["mean"]["start"] = 0.0
  assert "as Theorem 1 states" in figure3.markdown(results)


def change_end(model, pursuit, value):
  def change(results):
    for run in results["runs"]:
      if (run["model"], run["pursuit"]) == (model, pursuit):
        run["seeds"][0]["end"] = value

  return change


def start_at_the_end(results):
  for run in results["runs"]:
    if run["pursuit"] == "lasso":
      for row in run["seeds"]:
        row["start"] = row["end"]


def without_a_loss(results):
  for row in results["runs"][0]["seeds"]:
    row["final_loss"] = None


@pytest.mark.parametrize(
  ("change", "lasso", "both"),
  [
    (lambda results: None, "reproduced", "reproduced"),
    (change_end("msd_csc", "lasso", 0.01), "not reproduced", "partly reproduced"),
    (change_end("ml_csc", "lasso", 0.0), "not reproduced", "partly reproduced"),
    (start_at_the_end, "partly reproduced", "partly reproduced"),
    (without_a_loss, "not reproduced", "partly reproduced"),
  ],
)
def test_one_seed_decides(change, lasso, both):
  results = fake_results()
  change(results)
  found = figure3.outcome(results)
  assert (found["lasso"], found["forward"], found["all"]) == (lasso, "reproduced", both)
  assert f"(Lasso: {lasso}; " in figure3.verdict(results)
  held = figure3.claims(results, "lasso").values()
  answers = " | ".join("yes" if holds else "no" for holds in held)
  assert f"signed codes) | {answers} | {lasso} |" in figure3.markdown(results)


@pytest.mark.parametrize("how", [{"loss": None}, {"accuracy": 0.01}])
def test_a_network_that_was_not_trained_is_named(how):
  results = fake_results()
  run = results["runs"][0]
  run["seeds"][1]["final_loss"] = how.get("loss", 1.0)
  run["mean"]["test_accuracy"] = how.get("accuracy", 0.9)
  assert figure3.markdown(results).count("ML-CSC could not be trained") == 1


def test_the_picture_has_the_curves():
  lasso, forward = figure3.figure(fake_results()).axes
  assert "Lasso" in lasso.get_title()
  assert "Forward" in forward.get_title()
  lines = {line.get_label(): line.get_ydata() for line in lasso.get_lines()}
  np.testing.assert_array_equal(lines[r"MSD-CSC: $D_1\gamma_1$"], [40, 0])
  np.testing.assert_array_equal(lines[r"ML-CSC: $D_1\gamma_1$"], [40, 12.5])
  assert len(lines) == 4


def command(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "experiments.gaussian_centers", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


@pytest.mark.slow
def test_the_command_at_a_tiny_size(tmp_path):
  done = command(
    f"--workdir={tmp_path / 'new'}",
    *("--iterations=3", "--width=4", "--lasso_iterations=3", "--seeds=3,1", "--beta_factors=2"),
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "new" / "figure3.png").read_bytes().startswith(b"\x89PNG")
  results = json.loads((tmp_path / "new" / "figure3.json").read_text())
  assert {p.name for p in (tmp_path / "new").iterdir()} == {"figure3.png", "figure3.json"}
  assert results["iteration"] == [0, 1, 2, 3]
  assert [row["seed"] for run in results["runs"] for row in run["seeds"]] == 4 * [3, 1]
  for run in results["runs"]:
    ends = [row["end"] for row in run["seeds"]]
    assert run["mean"]["end"] == pytest.approx(np.mean(ends), abs=1e-4)
    assert run["std"]["end"] == pytest.approx(abs(ends[0] - ends[1]) / 2**0.5, abs=1e-4)
    assert run["curves"]["layer_1"]["mean"][-1] == run["mean"]["end"]
    assert all(row["minimum"] <= min(row["start"], row["end"]) for row in run["seeds"])
  assert [row["beta"] for row in results["sensitivity"]] == 4 * [
    [1.0, 2 * results["settings"]["beta"][1]]
  ]
  assert results["versions"]["jax"]
  assert results["device"]["platform"] == "cpu"
  *text, last = done.stdout.splitlines()
  assert "\n".join(text) == figure3.markdown(results)
  assert results["verdict"] == figure3.verdict(results)
  assert json.loads(last)["outcome"] == results["outcome"]
  assert len(done.stderr.splitlines()) == 12  # one line per run


@pytest.mark.parametrize(
  "field",
  [
    {"beta": (0.5,)},
    {"beta": (0.5, 0.0)},
    {"beta_factors": (float("nan"),)},
    {"iterations": 0},
    {"learning_rate": 0.0},
    {"width": 0},
    {"unfolding": -1},
    {"lasso_iterations": 0},
    {"seeds": ()},
    {"seeds": (1, 1)},
    {"seeds": (-1,)},
  ],
)
def test_settings_out_of_range_are_named(field):
  with pytest.raises(ValueError, match=f"^{next(iter(field))}: expected"):
    figure3.Settings(**field)


@pytest.mark.parametrize(
  ("arguments", "name"),
  [(["--seeds=0,x"], "--seeds"), (["--beta=1"], "--beta"), (["--workdir=README.md/run"], "--workdir")],
)
def test_bad_flags_are_one_line(tmp_path, arguments, name):
  done = command(f"--workdir={tmp_path / 'run'}", *arguments)
  assert done.returncode == 2, done.stderr
  (line,) = done.stderr.splitlines()
  assert line.startswith(f"error: {name}")
  assert done.stdout == ""
  assert not (tmp_path / "run").exists()


def test_results_of_other_settings_are_not_replaced(tmp_path):
  path = tmp_path / "figure3.json"
  check = gaussian_centers._check_former_results
  check(path, figure3.Settings())
  check(path / "figure3.json", figure3.Settings())
  path.write_text(json.dumps({"settings": dataclasses.asdict(figure3.Settings()), "runs": []}))
  check(path, figure3.Settings())
  with pytest.raises(UsageError, match=r"^--workdir: .*figure3.json has the results of other settings"):
    check(path, figure3.Settings(iterations=3))
  for content in ("[]", "{}", '{"settings": '):
    path.write_text(content)
    with pytest.raises(UsageError, match=r"^--workdir: .*figure3.json (is damaged|has the results)"):
      check(path, figure3.Settings())


def test_long_curves_are_thinned():
  found = figure3.thinned(10_000)
  assert (found[0], found[-1], len(found)) == (0, 10_000, figure3.POINTS)
