"""Plots the dictionaries and the codes of a trained run.

    python -m experiments.pictures --workdir=DIR

Reads the last checkpoint of the run in --workdir, encodes an example of its test set, and writes three
files to --workdir: atoms.png with the filters of the first layer; layers.png with atoms, code and
reconstruction of several layers; and layers.json with the fraction of nonzero coefficients and the
reconstruction error of each layer. The last line on stdout is the object in layers.json. The run may
still be training.
"""

import json
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags as absl_flags

from cscjax import training
from cscjax.dictionaries import (
  CodedLayer,
  IdentityAugmented,
  layer_reconstructions,
  nonzero_fraction,
  scaled_fit,
)
from cscjax.plots import atoms, layers
from cscjax.runs import RunError, load_run, replaced, write_json
from experiments import cli
from experiments.cli import UsageError

EXAMPLES = 64  # examples from which the fractions of nonzero coefficients are computed
DPI = 100


def define_flags() -> None:
  """Defines the flags of this command; not at import, where they would clash with other commands."""
  cli.define_path("workdir", None, "Directory of the run.")
  cli.define_path("data_dir", None, "Data directory of the run, if it has moved.")
  absl_flags.DEFINE_integer("example", 0, "Index of the plotted example in the test set, from 0.")


def main() -> None:
  """Draws the plots for the run that the flags name."""
  args = absl_flags.FLAGS
  if args.workdir is None:
    raise UsageError("--workdir: expected the directory of a run, got None")
  print(json.dumps(draw(args.workdir, args.data_dir, args.example), allow_nan=False))


def draw(
  workdir: str | os.PathLike[str], data_dir: str | None = None, example: int = 0
) -> dict[str, Any]:
  """Writes the plots of a run and layers.json to its directory.

  Args:
    workdir: Directory of the run.
    data_dir: Data directory; None for that of the run.
    example: Index of the plotted example in the test set, from 0.

  Returns:
    The contents of layers.json.

  Raises:
    RunError: If there is no run or no complete checkpoint, the data set does not consist of images, the
      index is out of range, or the files cannot be written.
    DataError: If the data are missing or damaged.
  """
  workdir = pathlib.Path(workdir)
  run = load_run(workdir)
  dataset = run.load_dataset(data_dir)
  if len(dataset.example_shape) != 3:
    raise RunError(f"the examples of {run.config.dataset} are not images", "workdir")
  if not 0 <= example < len(dataset.test):
    raise RunError(f"expected an integer in 0..{len(dataset.test) - 1}, got {example}", "example")

  others = [i for i in range(min(EXAMPLES, len(dataset.test))) if i != example]
  images = dataset.test.images[[example, *others[: EXAMPLES - 1]]]
  images = training.normalize(*map(jnp.asarray, (images, dataset.mean, dataset.std)))
  coded, fractions = _code(run.model, run.variables, images)
  reconstructions = layer_reconstructions(coded)
  result = {
    "step": run.step,
    "example": example,
    "label": int(dataset.test.labels[example]),
    "examples": len(images),
    "layers": _table(coded, fractions, scaled_fit(coded[0].signal, reconstructions).error[:, 0]),
  }
  title = f"{run.config.title}: test example {example}"
  overview = layers(
    coded,
    mean=dataset.mean,
    std=dataset.std,
    reconstructions=reconstructions,
    nonzero_fractions=fractions,
    title=title,
  )
  try:
    _save(atoms(_first_filters(coded), columns=8, title="filters of layer 1"), workdir, "atoms")
    _save(overview, workdir, "layers")
    write_json(workdir / "layers.json", result)
  except OSError as error:
    raise RunError(f"cannot write to {workdir}: {error.strerror}", "workdir") from error
  return result


def _code(model: Any, variables: Any, images: jax.Array) -> tuple[list[CodedLayer], np.ndarray]:
  """Returns the layers with the code of the first image, and the nonzero fractions over all images."""

  @jax.jit
  def code(variables: Any, images: jax.Array) -> tuple[list[CodedLayer], jax.Array]:
    found = model.bind(variables).pursuit_layers(images)
    dictionaries, signals, codes = zip(*found, strict=True)
    first = jax.tree.map(lambda array: array[:1], (signals, codes))
    return list(map(CodedLayer, dictionaries, *first)), nonzero_fraction(found)

  coded, fractions = code(variables, images)
  return coded, np.asarray(fractions)


def _table(
  coded: list[CodedLayer], fractions: np.ndarray, errors: np.ndarray | jax.Array
) -> list[dict[str, Any]]:
  """Returns a row for each layer; a value that is not finite is None."""
  return [
    {
      "layer": i + 1,
      "atoms": layer.new_code.shape[-1],
      "signal": list(layer.signal.shape[1:]),
      "code": list(layer.new_code.shape[1:]),
      "nonzero_share": _rounded(fractions[i]),
      "reconstruction_error": _rounded(errors[i]),
    }
    for i, layer in enumerate(coded)
  ]


def _rounded(value: Any) -> float | None:
  return round(float(value), 6) if math.isfinite(value) else None


def _first_filters(coded: list[CodedLayer]) -> jax.Array:
  dictionary: Any = coded[0].dictionary
  return (dictionary.conv if isinstance(dictionary, IdentityAugmented) else dictionary).filters


def _save(figure: Any, workdir: pathlib.Path, name: str) -> None:
  with replaced(workdir / f"{name}.png") as scratch:
    figure.savefig(scratch, format="png", dpi=DPI)


if __name__ == "__main__":
  define_flags()
  cli.run(main)
