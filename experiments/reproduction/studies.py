"""The runs that the tables need, and the order in which they are executed."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cscjax.runs import AUTO, RESUMABLE, Config, current_fields, own_augmentation
from experiments.flags import read_flagfile
from experiments.reproduction.paper import ROWS, Row

PROTOCOLS = ("paper", "reduced")
_FLAGFILES = pathlib.Path(__file__).parents[1]
_SMALLER = {"train_examples": 10_000, "epochs": 6, "decay_epochs": (3, 5), "evaluate_epochs": 2}
_DIGITS = {"epochs": 20, "batch_size": 64, "decay_epochs": (10, 15)}
_DEPTHS = (20, 56, 32, 44, 110, 218)  # Table 2's main claim compares the first two, so they run first


class Study(NamedTuple):
  """A data set and a training protocol. Runs of different studies are never compared.

  Attributes:
    dataset: Name of a data set of the paper, or "digits".
    protocol: "paper", or "reduced" for a protocol that two CPU cores can run. The digits, which the
      paper does not use, only have the reduced protocol.
    augmentation: "auto" for the paper's augmentation, which augments CIFAR for both tables
      (`document.NOT_AUGMENTED` explains why); otherwise "none" or "standard". `create_study` replaces
      either by "auto" if it is the paper's augmentation.
    precision: "float32" or "bfloat16".
  """

  dataset: str
  protocol: str
  augmentation: str = AUTO
  precision: str = "float32"

  @property
  def is_papers(self) -> bool:
    """Whether the runs follow the paper's protocol and augmentation, in any precision."""
    return (self.protocol, self.augmentation) == ("paper", AUTO)

  @property
  def changed_augmentation(self) -> str:
    """The augmentation in words, if it is not the paper's."""
    return {"none": "no augmentation", "standard": "standard augmentation"}[self.augmentation]

  @property
  def name(self) -> str:
    """Name of the folder: the data set, and any difference from the paper's protocol in float32."""
    parts = [self.dataset]
    if self.protocol != "paper":
      parts.append(self.protocol)
    if self.augmentation != AUTO:
      parts.append(self.changed_augmentation.replace(" ", "-"))
    if self.precision != "float32":
      parts.append(self.precision)
    return "-".join(parts)

  @property
  def fields(self) -> dict[str, Any]:
    """Fields of `Config` that replace those of a row."""
    changes: dict[str, Any] = {}
    if self.protocol == "reduced":
      changes |= _DIGITS if self.dataset == "digits" else _SMALLER
    if self.augmentation != AUTO:
      changes["augmentation"] = self.augmentation
    if self.precision != "float32":
      changes["precision"] = self.precision
    return {"dataset": self.dataset, **changes}


def create_study(dataset: str, protocol: str, augmentation: str, precision: str) -> Study:
  """Returns a study, in which the augmentation that the paper uses for the data set becomes "auto"."""
  is_own = augmentation == own_augmentation(dataset)
  return Study(dataset, protocol, AUTO if is_own else augmentation, precision)


class Job(NamedTuple):
  """One training run: a cell of a table, with a seed.

  Attributes:
    row: Network.
    study: Data set and protocol.
    seed: Seed of parameters, order of the data and augmentation.
    architecture: Version of the network's computation if it is not the current one; else None.
  """

  row: Row
  study: Study
  seed: int
  architecture: int | None = None

  @property
  def name(self) -> str:
    """Study, row, version of the network unless it is the first, and seed: a path without extension."""
    version = self.architecture or self.row.architecture
    row = self.row.name if version == 1 else f"{self.row.name}-v{version}"
    return f"{self.study.name}/{row}-seed{self.seed}"

  @property
  def command(self) -> str:
    """The command that makes this run alone."""
    flags = (
      f"--{k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in self._given.items()
    )
    return " ".join([f"python -m experiments.run --flagfile=experiments/{self.row.flagfile}", *flags])

  def config(self, **changes: Any) -> Config:
    """Returns the configuration of the run.

    Args:
      **changes: Fields that do not influence the result, such as `workdir`, with their values.
    """
    return Config(**(read_flagfile(_FLAGFILES / self.row.flagfile) | self._given | changes))

  def differences(self, recorded: dict[str, Any]) -> list[str]:
    """Returns the fields that influence the result and differ between a recorded run and this one.

    Args:
      recorded: Flags of the recorded run.
    """
    now = dataclasses.asdict(self.config())
    now = {name: list(v) if isinstance(v, tuple) else v for name, v in now.items()}
    recorded = current_fields(recorded)
    return [
      f"{name} {recorded.get(name)!r}, now {value!r}"
      for name, value in now.items()
      if name not in RESUMABLE - {"epochs", "max_steps"} and recorded.get(name) != value
    ]

  @property
  def _given(self) -> dict[str, Any]:
    """The fields of the configuration that replace those of the flagfile."""
    return self.row.fields | self.study.fields | {"seed": self.seed}


def queue(rows: Iterable[Row], studies: Sequence[Study], seeds: Sequence[int]) -> list[Job]:
  """Returns the runs in the order in which they should be executed, the most informative ones first.

  The order is by data set, then by seed, then by row. Shallow networks come before deep ones. Networks
  that a claim compares are next to each other: the unfoldings of MSD-CSC at one depth, and the four
  networks of Table 2 at one depth. ML-CSC comes after MSD-CSC.
  """
  rows = sorted(rows, key=_priority)
  return [Job(row, study, seed) for study in studies for seed in seeds for row in rows]


def _priority(row: Row) -> tuple:
  if row.table == 2:
    return (1, _DEPTHS.index(row.layers), list(ROWS).index(row.name))
  return (0, not row.name.startswith("msd"), row.layers, list(ROWS).index(row.name))
