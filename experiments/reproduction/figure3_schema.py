"""The format of figure3.json, checked before the report uses the file."""

import dataclasses
from typing import Any

from cscjax import checks
from experiments.reproduction.figure3 import PURSUITS, RECONSTRUCTIONS, Settings
from experiments.reproduction.schema import (
  anything,
  list_of,
  number,
  object_of,
  one_of,
  optional,
  whole,
)
from experiments.reproduction.simulation import MODELS

DIMENSIONS = 100
_FRACTIONS = ("test_without_failure", "test_accuracy")
_FAILED = (
  *(f"{prefix}{when}" for prefix in ("", "both_layers_") for when in ("start", "minimum", "end")),
  *("end_if_solved", "test_failed"),
)
_NUMBERS = {**dict.fromkeys(_FAILED, number(0, DIMENSIONS)), **dict.fromkeys(_FRACTIONS, number(0, 1))}


def checked(results: Any) -> dict[str, Any]:
  """Checks the contents of figure3.json and returns them.

  Raises:
    ValueError: If they do not have the form of what `figure3.run` returns.
  """
  object_of({"settings": object_of({}, others=anything)}, others=anything)("results", results)
  settings = _settings(results["settings"])
  object_of({"iteration": list_of(whole(0, settings.iterations))}, others=anything)("results", results)
  points = len(results["iteration"])
  if not points or sorted(set(results["iteration"])) != results["iteration"]:
    checks.fail("iteration", results["iteration"], "increasing iterations")
  curve = list_of(number(0, DIMENSIONS), points)
  of_seed = object_of({"seed": whole(0, 2**32 - 1), **_NUMBERS, "final_loss": optional(number(0, 1e30))})
  run = object_of(
    {
      "model": one_of(MODELS),
      "pursuit": one_of(PURSUITS),
      "mean": object_of(_NUMBERS),
      "std": object_of(_NUMBERS),
      "curves": object_of(dict.fromkeys(RECONSTRUCTIONS, object_of({"mean": curve, "std": curve}))),
      "seeds": list_of(of_seed, len(settings.seeds)),
    }
  )
  kinds = [(model, pursuit) for pursuit in PURSUITS for model in MODELS]
  list_of(run, len(kinds))("runs", results.get("runs"))
  if {(one["model"], one["pursuit"]) for one in results["runs"]} != set(kinds):
    raise ValueError("runs: expected one run of each model with each pursuit")
  for one in results["runs"]:
    if [row["seed"] for row in one["seeds"]] != list(settings.seeds):
      raise ValueError(f"runs: expected the seeds {settings.seeds} in each run")
  return results


def _settings(values: Any) -> Settings:
  """Returns the settings, whose constructor checks their ranges."""
  object_of(dict.fromkeys((f.name for f in dataclasses.fields(Settings)), anything))("settings", values)
  for name in ("beta", "seeds", "beta_factors"):
    list_of(anything)(f"settings.{name}", values[name])
  checks.boolean("settings.nonnegative", values["nonnegative"])
  given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
  return Settings(**given)
