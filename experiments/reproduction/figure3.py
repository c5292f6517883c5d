"""Figure 3: runs of both models with both pursuits, their statistics, the verdict and the plot.

`verdict`, `markdown` and `figure` only need the contents of figure3.json.
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
from experiments import text_tables
from experiments.reproduction import simulation
from experiments.reproduction.simulation import MODELS, Pursuit

if TYPE_CHECKING:
  from matplotlib.figure import Figure

NAMES = {"ml_csc": "ML-CSC", "msd_csc": "MSD-CSC"}
PURSUITS = ("lasso", "forward")
RECONSTRUCTIONS = {"layer_1": r"$D_1\gamma_1$", "both_layers": r"$D_1 D_2\gamma_2$"}
SAMPLES = 100  # test points whose failed dimensions are counted in each iteration
POINTS = 200  # largest number of points of a curve in the file
FURTHER = 10  # times the Lasso's iterations, to see how far the pursuit was from convergence
TITLE = "MSD-CSC reconstructs all dimensions of a signal, ML-CSC does not"
STATEMENT = (
  "During training, the number of dimensions of X that are not reconstructed decreases with both models."
  " It ends at zero with MSD-CSC and above zero with ML-CSC."
)
CAPTION = (
  "Failed dimensions of X during training: mean over the seeds, and a band of one standard deviation."
  f" {RECONSTRUCTIONS['layer_1']} is the reconstruction of X from the code of the first layer, which the"
  f" verdict is about; {RECONSTRUCTIONS['both_layers']} is that from the code of the second layer. The"
  " panels have different scales."
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings that the paper does not state, with the reasons for the defaults.

  Attributes:
    beta: Penalty of each layer, positive. Definition 1 uses the penalty of the first layer: at 0.5 a
      dimension fails if its error exceeds 2 beta = 1, the size of the noise. The second layer codes the
      codes of the first one, whose spread in the forward pass is about a tenth of that of X; hence a
      tenth of the penalty.
    iterations: Number of training iterations with minibatches of 128; 200 are 2.6 epochs.
    learning_rate: Learning rate of SGD with momentum 0.9; the paper uses 0.05 for MSD-CSC.
    width: Number of atoms of each layer, without those of the identity. With 200, twice the dimension of
      X, the atoms of ML-CSC can span X, so that its failures come from the penalty alone.
    unfolding: Number of iterations of the forward pass in each layer after the first one; 0 is MSDNet.
    lasso_iterations: Number of FISTA iterations for the Lasso in each layer. The results show how much
      more iterations would change.
    nonnegative: Whether the codes of the Lasso are nonnegative. Those of the forward pass always are.
    seeds: Seeds of data, parameters and order of the examples.
    beta_factors: Factors of the penalties with which the first seed is repeated.

  Raises:
    ValueError: If a value is out of range; the message names the field.
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
      checks.fail("beta", self.beta, f"one value for each of {simulation.LAYERS} layers")
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
      checks.fail("seeds", self.seeds, "at least one seed and no duplicates")

  def pursuit(self, name: str) -> Pursuit:
    """Returns the pursuit with this name, one of `PURSUITS`."""
    if name == "forward":
      return Pursuit(1 + self.unfolding, nonnegative=True)
    return Pursuit(self.lasso_iterations, self.nonnegative, differentiate="implicit")


def run(settings: Settings, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
  """Executes all runs and returns the contents of figure3.json, without device, versions and date.

  Args:
    settings: Settings of all runs.
    say: Called with one line of text after each run.

  Returns:
    A dictionary with the keys
    - settings: The settings.
    - iteration: The iterations of the points of the curves.
    - runs: One entry for each model and pursuit, with the statistics of each seed (see `_numbers`),
      their mean and standard deviation over the seeds, and the curves of both reconstructions.
    - sensitivity: The statistics of the first seed at other penalties.
    - outcome and verdict: The results of the functions with these names.
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
            name: {"mean": _rounded(mean[:, i]), "std": _rounded(std[:, i])}
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
  """Returns the iterations of a curve that are stored: at most `POINTS`, with the first and the last."""
  return np.unique(np.linspace(0, iterations, POINTS).round().astype(int))


def _one(
  settings: Settings, model: str, pursuit_name: str, seed: int, beta: tuple[float, ...]
) -> tuple[dict[str, float | None], np.ndarray]:
  """Trains and evaluates one network; returns its statistics and its curves [iterations + 1, 2]."""
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


def _numbers(
  curve: np.ndarray, loss: np.ndarray, end: simulation.Evaluation, further: np.ndarray
) -> dict[str, float | None]:
  """Returns the statistics of a run; most are numbers of failed dimensions (of 100) of D_1 code_1.

  - start, minimum, end: Mean over the samples before the first iteration, its smallest value, and the
    mean after the last iteration; with the prefix `both_layers_` of D_1 D_2 code_2.
  - end_if_solved: The end if the pursuit has ten times the Lasso's iterations.
  - test_failed, test_without_failure: Mean over all test points, and fraction of them without failures.
  - test_accuracy: Accuracy on all test points, in 0..1.
  - final_loss: Mean over the last tenth of the minibatches; None if it is not finite.
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


def _over_seeds(numbers: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
  """Returns the mean and standard deviation of each statistic over the seeds."""
  names = [name for name in numbers[0] if name not in ("seed", "final_loss")]
  mean, std = _statistics(np.array([[row[name] for name in names] for row in numbers]))
  return {
    "mean": dict(zip(names, _rounded(mean), strict=True)),
    "std": dict(zip(names, _rounded(std), strict=True)),
  }


def _statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean and sample standard deviation (0 for one run) over the first axis."""
  return values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else 0 * values[0]


def _rounded(values: np.ndarray) -> list[float]:
  return [round(float(v), 4) for v in values]


def _brief(found: dict[str, Any]) -> str:
  return (
    f"failed {found['start']:.2f} -> {found['end']:.2f},"
    f" both layers {found['both_layers_start']:.2f} -> {found['both_layers_end']:.2f},"
    f" test accuracy {found['test_accuracy']:.3f}"
  )


def claims(results: dict[str, Any], pursuit: str) -> dict[str, bool]:
  """Returns the paper's claims about Figure 3, each with whether it holds for every seed."""
  runs = [_find(results, model, pursuit) for model in MODELS]
  trained = all(map(is_trained, runs))  # a code that is not finite would fail in every dimension
  ml, msd = (run["seeds"] for run in runs)
  return {
    "MSD-CSC ends at zero": trained and all(row["end"] == 0 for row in msd),
    "ML-CSC ends above zero": trained and all(row["end"] > 0 for row in ml),
    "both decrease": all(row["end"] < row["start"] for row in (*ml, *msd)),
  }


def outcome(results: dict[str, Any]) -> dict[str, str]:
  """Returns the verdict on the paper's claims for each pursuit, and for both together under "all".

  The verdict on a pursuit is "reproduced" if all claims hold, "partly reproduced" if all but the last
  one hold, and otherwise "not reproduced". The verdict under "all" is that of the pursuits if they
  agree, and otherwise "partly reproduced".
  """
  found = {}
  for pursuit in PURSUITS:
    *ends, decrease = claims(results, pursuit).values()
    whole = "reproduced" if decrease else "partly reproduced"
    found[pursuit] = whole if all(ends) else "not reproduced"
  common = set(found.values())
  return {**found, "all": common.pop() if len(common) == 1 else "partly reproduced"}


def verdict(results: dict[str, Any]) -> str:
  """Returns the verdicts on the paper's claims for both pursuits together and for each, in one line."""
  found = outcome(results)
  return f"{found['all']} (Lasso: {found['lasso']}; forward pass: {found['forward']})"


def markdown(results: dict[str, Any]) -> str:
  """Returns Markdown with the verdict, a table of the claims and a table of the numbers behind them."""
  settings, found = results["settings"], outcome(results)
  seeds = len(settings["seeds"])
  named = {pursuit: describe(pursuit, settings) for pursuit in PURSUITS}
  judged, numbers, notes = [], [], []
  for pursuit, name in named.items():
    held = claims(results, pursuit).values()
    judged.append([name, *("yes" if holds else "no" for holds in held), found[pursuit]])
    for model in reversed(MODELS):
      run = _find(results, model, pursuit)
      numbers.append(
        [name, NAMES[model], *(_pair(run, column) for column in _columns(settings).values())]
      )
      if not is_trained(run):
        notes.append(f"{NAMES[model]} could not be trained ({name}): its accuracy is near chance.")
  if _find(results, "msd_csc", "lasso")["mean"]["start"] == 0:
    notes.append(
      "With the Lasso, MSD-CSC has no failed dimension before training either, as Theorem 1 states for"
      " any atoms. Their number therefore cannot decrease."
    )
  return "\n\n".join(
    [
      f"**Figure 3: {found['all']}.** The paper: {STATEMENT} Each must hold for every seed.",
      text_tables.markdown(["Pursuit", *claims(results, PURSUITS[0]), "Verdict"], judged),
      *notes,
      f"Failed dimensions of X (of 100) by Definition 1 with 2β = {2 * settings['beta'][0]:g}, before"
      f" and after {settings['iterations']} training iterations: mean ± standard deviation over"
      f" {seeds} seed{'s' * (seeds > 1)}.",
      text_tables.markdown(["Pursuit", "Network", *_columns(settings)], numbers),
    ]
  )


def is_trained(run: dict[str, Any]) -> bool:
  """Whether the loss stayed finite and the test accuracy exceeds five times chance, which is 1 %."""
  finite = all(row["final_loss"] is not None for row in run["seeds"])
  return finite and run["mean"]["test_accuracy"] > 0.05


def describe(pursuit: str, settings: dict[str, Any]) -> str:
  """Describes a pursuit in words, from the settings of the results."""
  if pursuit == "forward":
    count, sign = 1 + settings["unfolding"], "codes ≥ 0"
    return f"Forward pass ({count} iteration{'s' * (count > 1)}, {sign})"
  sign = "codes ≥ 0" if settings["nonnegative"] else "signed codes"
  return f"Lasso ({settings['lasso_iterations']} FISTA iterations, {sign})"


def figure(results: dict[str, Any]) -> "Figure":
  """Plots the failed dimensions against the training iteration, with a panel for each pursuit."""
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


def _find(results: dict[str, Any], model: str, pursuit: str) -> dict[str, Any]:
  return next(r for r in results["runs"] if (r["model"], r["pursuit"]) == (model, pursuit))


def _columns(settings: dict[str, Any]) -> dict[str, str]:
  """Returns the statistic in each column of the table of numbers, by the heading of the column."""
  return {
    "Start": "start",
    "End": "end",
    f"End, {FURTHER * settings['lasso_iterations']} iterations of the pursuit": "end_if_solved",
    "End, through both layers": "both_layers_end",
    "Test accuracy": "test_accuracy",
  }


def _pair(run: dict[str, Any], name: str) -> str:
  return f"{run['mean'][name]:.2f} ± {run['std'][name]:.2f}"
