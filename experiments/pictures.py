"""Dictionaries and codes of a trained run: python -m experiments.pictures --workdir=DIR.

Reads the last checkpoint of the run in --workdir, codes an example of its test set, and writes there
atoms.png, the filters of the first layer; layers.png, atoms, code and reconstruction of several layers;
and layers.json, of each layer the share of coefficients that are not 0 and the error of the
reconstruction. The last line on stdout is that object. The run may be going on.
"""

import contextlib
import functools
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
from cscjax.data import Dataset, dataset_shape, load_dataset
from cscjax.dictionaries import (
  IdentityAugmented,
  Layer,
  layer_reconstructions,
  new_code,
  nonzero_share,
  scaled_fit,
)
from cscjax.models import ARCHITECTURES
from cscjax.plots import atoms, layers
from experiments import cli, flags
from experiments.build import build, make_model
from experiments.cli import UsageError
from experiments.config import Config
from experiments.workdir import read_config, replaced, write_json

EXAMPLES = 64  # over which the shares are taken
DPI = 100


def define_flags() -> None:
  """Defines this command's flags; not at import, where they would clash with other commands'."""
  cli.define_path("workdir", None, "Directory of the run.")
  cli.define_path("data_dir", None, "Directory of its data; the run's own if none.")
  absl_flags.DEFINE_integer("example", 0, "Which example of the test set is drawn, from 0.")


def main() -> None:
  """Draws what the flags ask for."""
  args = absl_flags.FLAGS
  if args.workdir is None:
    raise UsageError("--workdir: expected the directory of a run, got none")
  print(json.dumps(draw(args.workdir, args.data_dir, args.example), allow_nan=False))


def draw(
  workdir: str | os.PathLike[str], data_dir: str | None = None, example: int = 0
) -> dict[str, Any]:
  """Writes the pictures of a run and layers.json into its directory; returns what the latter holds.

  Args:
    workdir: Of the run.
    data_dir: Of its data; None: where the run had them.
    example: Of the test set, from 0.

  Raises:
    UsageError: If there is no run or no whole checkpoint, its examples are no images, there is no such
      example, or nothing can be written.
    DataError: If the data cannot be had.
  """
  workdir = pathlib.Path(workdir)
  config = _read_config(workdir)
  shape, num_classes = dataset_shape(config.dataset)
  if len(shape) != 3:
    raise UsageError(f"--workdir: the examples of {config.dataset} are no images")
  make_model(config, num_classes)  # refused before any data is read
  dataset = load_dataset(
    config.dataset,
    data_dir=config.data_dir if data_dir is None else data_dir,
    validation_fraction=config.validation_fraction,
    train_examples=config.train_examples,  # which the normalisation depends on
    download=config.download,
  )
  if not 0 <= example < len(dataset.test):
    raise UsageError(f"--example: expected one of 0..{len(dataset.test) - 1}, got {example}")
  trainer, _ = build(config, dataset)
  state = _restore(workdir, config, trainer, dataset)

  others = [i for i in range(min(EXAMPLES, len(dataset.test))) if i != example]
  images = dataset.test.images[[example, *others[: EXAMPLES - 1]]]
  images = training.normalize(*map(jnp.asarray, (images, dataset.mean, dataset.std)))
  coded, shares = _code(trainer.model, {"params": state.params, **state.variables}, images)
  rebuilt = layer_reconstructions(coded)
  result = {
    "step": int(state.step),
    "example": example,
    "label": int(dataset.test.labels[example]),
    "examples": len(images),
    "layers": _table(coded, shares, scaled_fit(coded[0][1], rebuilt).error[:, 0]),
  }
  title = f"{_title(config)}: test example {example}"
  overview = layers(
    coded, mean=dataset.mean, std=dataset.std, rebuilt=rebuilt, shares=shares, title=title
  )
  try:
    _save(atoms(_first_filters(coded), columns=8, title="filters of layer 1"), workdir, "atoms")
    _save(overview, workdir, "layers")
    write_json(workdir / "layers.json", result)
  except OSError as error:
    raise UsageError(f"--workdir: cannot write to {workdir}: {error.strerror}") from error
  return result


def _read_config(workdir: pathlib.Path) -> Config:
  path = workdir / "config.json"
  if not path.is_file():
    raise UsageError(f"--workdir: no run in {workdir}, which has no config.json")
  try:
    return flags.parse([f"--from_config={path}"])
  except UsageError as error:
    raise UsageError(f"--workdir: {path}: {str(error).removeprefix('--from_config: ')}") from error


def _restore(
  workdir: pathlib.Path, config: Config, trainer: training.Trainer, dataset: Dataset
) -> training.TrainState:
  """The last state that was saved, in host memory."""
  create = functools.partial(trainer.create_state, dataset.example_shape)
  like = jax.eval_shape(create, jax.random.key(0))
  like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
  folder, restored = workdir / "checkpoints", None
  if folder.is_dir():
    checkpoints = training.Checkpoints(
      folder,
      read_only=True,
      run=read_config(workdir / "config.json").get("run"),
      architecture=ARCHITECTURES[config.model],
    )
    try:
      with contextlib.closing(checkpoints):
        restored = checkpoints.restore(like)
    except (training.CheckpointError, OSError) as error:
      raise UsageError(f"--workdir: {workdir}: {error}") from error
  if restored is None:
    raise UsageError(f"--workdir: no whole checkpoint in {workdir}")
  return restored.state


def _code(model: Any, variables: Any, images: jax.Array) -> tuple[list[Layer], np.ndarray]:
  """The layers with signal and code of the first image, and the shares of non-zeros over all."""

  @jax.jit
  def code(variables, images):
    found = model.bind(variables).pursuit_layers(images)
    dictionaries, signals, codes = zip(*found, strict=True)
    first = jax.tree.map(lambda array: array[:1], (signals, codes))
    return list(zip(dictionaries, *first, strict=True)), nonzero_share(found)

  coded, shares = code(variables, images)
  return coded, np.asarray(shares)


def _table(coded, shares, errors) -> list[dict[str, Any]]:
  """A row for each layer; null for what is not finite."""
  return [
    {
      "layer": i + 1,
      "atoms": new_code(code).shape[-1],
      "signal": list(signal.shape[1:]),
      "code": list(new_code(code).shape[1:]),
      "nonzero_share": _rounded(shares[i]),
      "reconstruction_error": _rounded(errors[i]),
    }
    for i, (_, signal, code) in enumerate(coded)
  ]


def _rounded(value):
  return round(float(value), 6) if math.isfinite(value) else None


def _first_filters(coded):
  dictionary = coded[0][0]
  return (dictionary.conv if isinstance(dictionary, IdentityAugmented) else dictionary).filters


def _title(config):
  given = [f"{name} {getattr(config, name)}" for name in ("depth", "solver", "unfolding")]
  return ", ".join([config.dataset, config.model, *(g for g in given if not g.endswith(" None"))])


def _save(figure, workdir, name):
  with replaced(workdir / f"{name}.png") as scratch:
    figure.savefig(scratch, format="png", dpi=DPI)


if __name__ == "__main__":
  define_flags()
  cli.run(main)
