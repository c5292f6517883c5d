"""Publishes the trained network of a run for `cscjax.load_pretrained`.

    python -m experiments.publish --workdir=DIR --name=NAME --folder=DIR --licence=TEXT

Reads the last checkpoint of the run in --workdir and writes two files to --folder: NAME.safetensors with
the weights, and NAME.json with the checksum and the card, which states the data, the settings, the
accuracy, the device and the date of the run. The run must have ended with the status "ok".
"""

import datetime
import pathlib
from typing import Any

from absl import flags as absl_flags

from cscjax import runs
from cscjax.pretrained import save_pretrained
from experiments import cli
from experiments.cli import UsageError
from experiments.json_files import read_json
from experiments.reproduction.schema import anything, number, object_of, optional, text, whole

FLAGS = {
  "workdir": "Directory of the run.",
  "folder": "Directory to which the files are written.",
}
PROTOCOL = (
  *("model", "depth", "width", "dilations", "solver", "unfolding", "epochs", "batch_size"),
  *("learning_rate", "decay_epochs", "momentum", "weight_decay", "augmentation", "precision", "seed"),
)
"""The settings of a run that its card states."""
_SUMMARY = object_of(
  {
    **{"status": text, "steps": whole(0, 2**31 - 1), "parameters": whole(1, 2**53)},
    "test_accuracy": optional(number(0, 1)),
  },
  others=anything,
)
"""The check of the fields of summary.json that are used."""
TEXTS = {"name": "Name of the network.", "licence": "Licence of the data and of the weights."}


def define_flags() -> None:
  """Defines the flags of this command; not at import, where they would clash with other commands."""
  for name, help_text in FLAGS.items():
    cli.define_path(name, None, help_text)
  for name, help_text in TEXTS.items():
    absl_flags.DEFINE_string(name, None, help_text)


def main() -> None:
  """Publishes the run that the flags name."""
  values: dict[str, Any] = {name: absl_flags.FLAGS[name].value for name in (*FLAGS, *TEXTS)}
  for name, value in values.items():
    if not value:
      raise UsageError(f"--{name}: expected a value, got {value!r}")
  publish(**values)


def publish(workdir: str, name: str, folder: str, licence: str) -> None:
  """Writes the trained network of a run and its card to a folder.

  Raises:
    RunError: If there is no run or no complete checkpoint.
    UsageError: If the run has not ended, or has diverged.
    ValueError: If the name has other characters than those that `save_pretrained` allows.
  """
  trained, path = runs.load_run(workdir), pathlib.Path(workdir) / "summary.json"
  summary = _summary(path, trained.step)
  config, info = trained.config, trained.info
  settings = [(field, getattr(config, field)) for field in PROTOCOL]
  card = {
    "description": f"{type(trained.model).__name__} with {summary['parameters']:,} parameters, for"
    f" examples of shape {info.example_shape} and {info.num_classes} classes.",
    "data": f"The training images of the data set {config.dataset_name}.",
    "licence": licence,
    "protocol": ", ".join(f"{field} {value}" for field, value in settings if value is not None),
    "result": f"test accuracy {summary['test_accuracy']:.4f} after the last step",
  }
  recorded = runs.read_config(path.with_name("config.json"))
  ended = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
  try:
    save_pretrained(trained, name, folder, card | provenance(recorded, ended))
  except ValueError as error:
    raise UsageError(cli.in_flags(error)) from error


def _summary(path: pathlib.Path, step: int) -> dict[str, Any]:
  """Returns the summary of a run that ended well at its last checkpoint.

  A run that was resumed and then killed still has the summary of its former end.
  """
  summary: dict[str, Any] = {"status": "not complete", "steps": step}
  try:
    if path.is_file():
      summary = read_json(path)
      _SUMMARY("summary", summary)
  except ValueError as error:
    raise UsageError(f"--workdir: {path} cannot be used ({error})") from error
  status = summary["status"] if summary["steps"] == step else "not complete"
  if status != "ok":
    raise UsageError(f"--workdir: expected a run that ended well, got one that is {status}")
  return summary


def provenance(environment: dict[str, Any], date: datetime.datetime) -> dict[str, str]:
  """Returns the last two fields of a card: the device with the versions, and the date."""
  device, versions = environment["device"], environment["versions"]
  packages = ", ".join(f"{name} {versions[name]}" for name in ("cscjax", "jax"))
  return {"device": f"{device['count']} x {device['kind']}, {packages}", "date": f"{date:%Y-%m-%d}"}


if __name__ == "__main__":
  define_flags()
  cli.run(main)
