"""Figure 3: the runs of both models with both pursuits, their numbers, the verdict and the picture.

`verdict` and `figure` need no more than what figure3.json holds.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from cscjax import checks, plots
from cscjax.data import gaussian_centers
from cscjax.runs import KEYS
from experiments.reproduction import simulation
from experiments.reproduction.simulation import MODELS, Pursuit

if TYPE_CHECKING:
  from matplotlib.figure import Figure

NAMES = {"ml_csc": "ML-CSC", "msd_csc": "MSD-CSC"}
PURSUITS = ("lasso", "forward")
RECONSTRUCTIONS = {"layer_1": r"$D_1\gamma_1$", "both_layers": r"$D_1 D_2\gamma_2$"}
SAMPLES = 100  # test points whose failed dimensions are counted in each iteration
POINTS = 200  # of a curve in the file, at most
FURTHER = 10  # times the Lasso's iterations, to see what they left undone


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the paper leaves open, and why the defaults are what they are.

  Attributes:
    beta: Penalty of each layer, > 0. Definition 1 counts by that of the first: at 0.5 a dimension fails
      where it is missed by more than the noise in it, 2 beta = 1. A tenth of it in the second layer,
      whose signals are codes: in the forward pass their spread is about a tenth of that of X.
    iterations: Of the training, minibatches of 128: 200 are 2.6 epochs.
    learning_rate: Of SGD with momentum 0.9; 0.05 is the paper's for MSD-CSC.
    width: Atoms of each layer (beside the identity's); 200 are twice X's dimension, so that ML-CSC's
      can span X and fail for the penalty alone.
    unfolding: Iterations of the forward pass in each layer after the first one; 0 is MSDNet's.
    lasso_iterations: Of FISTA in each layer for the Lasso; the results tell what more of them change.
    nonnegative: Whether the Lasso's codes are >= 0 too; the forward pass's are.
    seeds: Of data, parameters and order.
    beta_factors: Of the penalties, to repeat the first seed with.

  Raises:
    ValueError: Where a value is out of range; the message names the field.
  """

  beta: tuple[float, ...] = (0.5, 0.05)
  iterations: int = 200
  learning_rate: float = 0.05
  width: int = 200
  unfolding: int = 0
  lasso_iterations: int = 30
  nonnegative: bool = False
  seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
  beta_factors: tuple[float, ...] = (0.5, 2.0)

  def __post_init__(self):
    if len(self.beta) != simulation.LAYERS:
      checks.fail("beta", self.beta, f"one for each of {simulation.LAYERS} layers")
    for name in ("beta", "beta_factors"):
      for value in getattr(self, name):
        checks.in_range(name, value, 1e-10, 1e10)
    for name, high in {"iterations": 10**6, "width": 2**14, "lasso_iterations": 10**6}.items():
      checks.int_between(name, getattr(self, name), 1, high)
    checks.int_between("unfolding", self.unfolding, 0, 1000)
    checks.in_range("learning_rate", self.learning_rate, 1e-30, 1e30)
    for seed in self.seeds:
      checks.int_between("seeds", seed, 0, 2**32 - 1)
    if not self.seeds or len(set(self.seeds)) < len(self.seeds):
      checks.fail("seeds", self.seeds, "different ones, one at least")

  def pursuit(self, name: str) -> Pursuit:
    """The one of `PURSUITS`."""
    if name == "forward":
      return Pursuit(1 + self.unfolding, nonnegative=True)
    return Pursuit(self.lasso_iterations, self.nonnegative, differentiate="implicit")


def run(settings: Settings, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
  """All runs: what figure3.json holds but for where and when they were made.

  Args:
    settings: Of all of them.
    say: Takes a line about each run that has ended.

  Returns:
    settings; iteration [points], of the curves; runs, one for each model and pursuit: the numbers of
    each seed (see `_numbers`), their mean and standard deviation over seeds, and of each reconstruction
    the curve's; sensitivity, the numbers of the first seed at other penalties; outcome and verdict.
  """
  iteration = thinned(settings.iterations)
  runs, sensitivity = [], []
  for pursuit in PURSUITS:
    for model in MODELS:
      numbers, curves = [], []
      for seed in settings.seeds:
        found, curve = _one(settings, model, pursuit, seed, settings.beta)
        numbers.append({"seed": seed, **found})
        curves.append(curve[iteration])
        say(f"{NAMES[model]}, {pursuit}, seed {seed}: {_brief(found)}")
      mean, std = _statistics(np.stack(curves))
      runs.append(
        {
          "model": model,
          "pursuit": pursuit,
          **_over_seeds(numbers),
          "curves": {
            name: {"mean": _short(mean[:, i]), "std": _short(std[:, i])}
            for i, name in enumerate(RECONSTRUCTIONS)
          },
          "seeds": numbers,
        }
      )
      for factor in settings.beta_factors:
        beta = tuple(factor * b for b in settings.beta)
        found, _ = _one(settings, model, pursuit, settings.seeds[0], beta)
        sensitivity.append({"model": model, "pursuit": pursuit, "beta": beta, **found})
        say(f"{NAMES[model]}, {pursuit}, beta {beta[0]:g}: {_brief(found)}")
  results = {
    "settings": dataclasses.asdict(settings),
    "iteration": iteration.tolist(),
    "runs": runs,
    "sensitivity": sensitivity,
  }
  return {**results, "outcome": outcome(results), "verdict": verdict(results)}


def thinned(iterations: int) -> np.ndarray:
  """The iterations of a curve that are kept: the first, the last, and at most `POINTS` in all."""
  return np.unique(np.linspace(0, iterations, POINTS).round().astype(int))


def _one(settings, model, pursuit_name, seed, beta):
  """Trains and evaluates one network: its numbers, and its curves [iterations + 1, 2]."""
  dataset, pursuit = gaussian_centers(seed=seed), settings.pursuit(pursuit_name)
  x, labels = simulation.signals(dataset, "train")
  test, test_labels = simulation.signals(dataset, "test")
  sample, sample_labels = test[:SAMPLES], test_labels[:SAMPLES]
  order = simulation.minibatches(len(labels), settings.iterations, seed)
  params = simulation.initial(model, jax.random.key(seed, impl=KEYS), width=settings.width)
  kind = {"model": model, "pursuit": pursuit}
  rate = settings.learning_rate
  history = simulation.train(params, x, labels, order, sample, beta, rate, **kind)
  end = simulation.evaluate(history.params, test, test_labels, beta, **kind)
  solved = pursuit._replace(iterations=FURTHER * settings.lasso_iterations)
  further = simulation.evaluate(history.params, sample, sample_labels, beta, model=model, pursuit=solved)
  curve = np.asarray(history.failed, np.float64)
  return _numbers(curve, np.asarray(history.loss), end, np.asarray(further.failed)), curve


def _numbers(curve, loss, end, further):
  """Failed dimensions of 100, by D_1 code_1 where nothing else is said.

  start, minimum, end: mean over the samples, before the first iteration, the least, after the last; the
  same for both layers' reconstruction. end_if_solved: the end where the pursuit is given ten times the
  Lasso's iterations. test_failed, test_without_failure: mean over all test points, and the share of them
  with none. final_loss: mean over the last tenth of the minibatches; null where it is not finite.
  """
  final_loss = float(np.mean(loss[-math.ceil(len(loss) / 10) :]))
  values: dict[str, Any] = {}
  for i, prefix in enumerate(("", "both_layers_")):
    column = curve[:, i]
    values |= {
      f"{prefix}start": column[0],
      f"{prefix}minimum": column.min(),
      f"{prefix}end": column[-1],
    }
  failed = np.asarray(end.failed)[:, 0]
  values |= {
    "end_if_solved": np.mean(further[:, 0]),
    "test_failed": np.mean(failed),
    "test_without_failure": np.mean(failed == 0),
    "test_accuracy": float(end.accuracy),
  }
  rounded = {name: round(float(value), 4) for name, value in values.items()}
  return {**rounded, "final_loss": round(final_loss, 4) if math.isfinite(final_loss) else None}


def _over_seeds(numbers):
  names = [name for name in numbers[0] if name not in ("seed", "final_loss")]
  mean, std = _statistics(np.array([[row[name] for name in names] for row in numbers]))
  return {
    "mean": dict(zip(names, _short(mean), strict=True)),
    "std": dict(zip(names, _short(std), strict=True)),
  }


def _statistics(values):
  """Mean and standard deviation (of a sample; 0 for one run) over the first axis."""
  return values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else 0 * values[0]


def _short(values):
  return [round(float(v), 4) for v in values]


def _brief(found):
  return (
    f"failed {found['start']:.2f} -> {found['end']:.2f},"
    f" both layers {found['both_layers_start']:.2f} -> {found['both_layers_end']:.2f},"
    f" test accuracy {found['test_accuracy']:.3f}"
  )


def claims(results: dict[str, Any], pursuit: str) -> dict[str, bool]:
  """The paper's claims, each true where it holds for every seed."""
  runs = [_find(results, model, pursuit) for model in MODELS]
  trained = all(map(is_trained, runs))  # a code that is not finite fails everywhere
  ml, msd = (run["seeds"] for run in runs)
  return {
    "MSD-CSC ends at zero": trained and all(row["end"] == 0 for row in msd),
    "ML-CSC does not": trained and all(row["end"] > 0 for row in ml),
    "both fall to their end": all(row["end"] < row["start"] for row in (*ml, *msd)),
  }


def outcome(results: dict[str, Any]) -> dict[str, str]:
  """For each pursuit, and under "all" for both together, what became of the paper's claims.

  "reproduced": they hold; "partly reproduced": all but the last; else "not reproduced". Together: what
  the pursuits have in common, or else "partly reproduced".
  """
  found = {}
  for pursuit in PURSUITS:
    *ends, falls = claims(results, pursuit).values()
    whole = "reproduced" if falls else "partly reproduced"
    found[pursuit] = whole if all(ends) else "not reproduced"
  common = set(found.values())
  return {**found, "all": common.pop() if len(common) == 1 else "partly reproduced"}


def verdict(results: dict[str, Any], *, details: bool = True) -> str:
  """Whether the paper's claims were found, in plain words with the numbers.

  Args:
    results: What figure3.json holds.
    details: Whether to tell what lies beside Definition 1 in layer 1: both layers together, the same
      problem solved further, test accuracy.
  """
  settings, found = results["settings"], outcome(results)
  seeds = len(settings["seeds"])
  lines = [
    f"Figure 3: {found['all']}. Failed dimensions of X, of 100, by Definition 1 with 2 beta ="
    f" {2 * settings['beta'][0]:g}, mean ± standard deviation over {seeds} seed{'s' * (seeds > 1)},"
    f" {settings['iterations']} training iterations."
  ]
  for pursuit in PURSUITS:
    ml, msd = (_find(results, model, pursuit) for model in MODELS)

    def ends(name, ml=ml, msd=msd):
      return f"MSD-CSC {_pair(msd, name)}, ML-CSC {_pair(ml, name)}"

    held = [f"{claim}: {'yes' if yes else 'no'}" for claim, yes in claims(results, pursuit).items()]
    lines.append(
      f"{describe(pursuit, settings)}: {found[pursuit]} ({', '.join(held)}). MSD-CSC starts"
      f" at {_pair(msd, 'start')} and ends at {_pair(msd, 'end')}, ML-CSC starts at {_pair(ml, 'start')}"
      f" and ends at {_pair(ml, 'end')}."
    )
    if details:
      lines.append(
        f"At the end through both layers: {ends('both_layers_end')};"
        f" of the same problem solved in {FURTHER * settings['lasso_iterations']} iterations:"
        f" {ends('end_if_solved')}; test accuracy: {ends('test_accuracy')}."
      )
    lines += [
      f"{NAMES[run['model']]} could not be trained there: its accuracy is near chance."
      for run in (msd, ml)
      if not is_trained(run)
    ]
  return " ".join(lines)


def is_trained(run: dict[str, Any]) -> bool:
  """Whether the loss stayed finite and the test accuracy is above five times chance, 1 %."""
  finite = all(row["final_loss"] is not None for row in run["seeds"])
  return finite and run["mean"]["test_accuracy"] > 0.05


def describe(pursuit: str, settings: dict[str, Any]) -> str:
  """A pursuit in words, from the settings of the results."""
  if pursuit == "forward":
    count, sign = 1 + settings["unfolding"], "codes ≥ 0"
    return f"Forward pass ({count} iteration{'s' * (count > 1)}, {sign})"
  sign = "codes ≥ 0" if settings["nonnegative"] else "signed codes"
  return f"Lasso ({settings['lasso_iterations']} FISTA iterations, {sign})"


def figure(results: dict[str, Any]) -> "Figure":
  """Failed dimensions against the training iteration, a panel for each pursuit."""
  panels = {}
  for pursuit in PURSUITS:
    curves = panels[describe(pursuit, results["settings"])] = {}
    for name, label in RECONSTRUCTIONS.items():
      for model in MODELS:
        curve = _find(results, model, pursuit)["curves"][name]
        curves[f"{NAMES[model]}: {label}"] = curve["mean"], curve["std"]
  return plots.bands(
    results["iteration"],
    panels,
    xlabel="training iteration",
    ylabel="failed dimensions of X (of 100)",
    title="Dimensions of X that are not reconstructed (Definition 1)",
  )


def _find(results, model, pursuit):
  return next(r for r in results["runs"] if (r["model"], r["pursuit"]) == (model, pursuit))


def _pair(run: dict[str, Any], name: str) -> str:
  return f"{run['mean'][name]:.2f} ± {run['std'][name]:.2f}"
