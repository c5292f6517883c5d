"""Fake records of runs."""

import dataclasses

from cscjax.runs import Config
from experiments.reproduction.paper import ROWS
from experiments.reproduction.records import Record
from experiments.reproduction.studies import Job, Study


def record(
  row,
  accuracy,
  *,
  dataset="cifar10",
  protocol="paper",
  augmentation="auto",
  precision="float32",
  seed=0,
  status="ok",
  epochs=None,
  **changes,
):
  """Returns a record whose curve rises to `accuracy` (percent); the epoch before is one point higher."""
  job = Job(ROWS[row], Study(dataset, protocol, augmentation, precision), seed)
  config = job.config()
  flags = {f.name: getattr(config, f.name) for f in dataclasses.fields(Config)}
  flags = {name: list(v) if isinstance(v, tuple) else v for name, v in flags.items()}
  epochs = epochs or config.epochs
  curve = [[e, accuracy / 100 * (e / epochs)] for e in range(1, epochs + 1)]
  curve[-2][1] = accuracy / 100 + 0.01
  fields = {
    "row": row,
    "dataset": dataset,
    "protocol": protocol,
    "seed": seed,
    "status": status,
    "test_accuracy": accuracy / 100,
    "best_test_accuracy": accuracy / 100 + 0.01,
    "curve": curve,
    "epochs": float(epochs),
    "parameters": 143_424,
    "seconds": 60.0,
    "images_per_second": 500.0,
    "command": job.command,
    "flags": flags,
    "versions": {"jax": "0.10.2"},
    "git_revision": "0" * 40,
    "device": {"platform": "cpu", "kind": "cpu", "count": 1},
    "date": "2026-01-02 03:04",
    "architecture": job.row.architecture,
  }
  return Record(**(fields | changes))
