"""The runs that the tables need, and the order in which they are made."""

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
_DEPTHS = (20, 56, 32, 44, 110, 218)  # of Table 2: the two that its main claim compares come first


class Study(NamedTuple):
  """A data set under a protocol; runs of different studies are never compared.

  Attributes:
    dataset: One of the paper's, or "digits".
    protocol: "paper", or "reduced": what two CPU cores can do. The digits, which the paper does not
      have, have a reduced one only.
    augmentation: "auto", the paper's: CIFAR is augmented, for both tables (`document.NOT_AUGMENTED` says
      why); or "none" or "standard" where that is another one, see `create_study`.
    precision: "float32" or "bfloat16".
  """

  dataset: str
  protocol: str
  augmentation: str = AUTO
  precision: str = "float32"

  @property
  def is_papers(self) -> bool:
    """Whether its runs are those of the paper, in whatever precision."""
    return (self.protocol, self.augmentation) == ("paper", AUTO)

  @property
  def changed_augmentation(self) -> str:
    """An augmentation that is not the paper's, in words."""
    return {"none": "no augmentation", "standard": "standard augmentation"}[self.augmentation]

  @property
  def name(self) -> str:
    """Name of its folder: the data set, and what differs from the paper's protocol in float32."""
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
  """Returns a study whose augmentation is "auto" if it is the one that the data set has in the paper."""
  is_own = augmentation == own_augmentation(dataset)
  return Study(dataset, protocol, AUTO if is_own else augmentation, precision)


class Job(NamedTuple):
  """One training run: a cell of a table with a seed.

  Attributes:
    row: The network.
    study: The data set and the protocol.
    seed: Of parameters, order and augmentation.
    architecture: Another version of its network than the present one, of which it was; else None.
  """

  row: Row
  study: Study
  seed: int
  architecture: int | None = None

  @property
  def name(self) -> str:
    """Study, row, version of the network if not the first, and seed: a path without ending."""
    version = self.architecture or self.row.architecture
    row = self.row.name if version == 1 else f"{self.row.name}-v{version}"
    return f"{self.study.name}/{row}-seed{self.seed}"

  @property
  def command(self) -> str:
    """What makes the run alone."""
    flags = (
      f"--{k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in self._given.items()
    )
    return " ".join([f"python -m experiments.run --flagfile=experiments/{self.row.flagfile}", *flags])

  def config(self, **changes: Any) -> Config:
    """Its configuration, with fields that do not change its result, such as the workdir, replaced."""
    return Config(**(read_flagfile(_FLAGFILES / self.row.flagfile) | self._given | changes))

  def differences(self, recorded: dict[str, Any]) -> list[str]:
    """Fields that tell on the result and that a recorded run had otherwise than this one has now."""
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
    """The fields that replace those of the flagfile."""
    return self.row.fields | self.study.fields | {"seed": self.seed}


def queue(rows: Iterable[Row], studies: Sequence[Study], seeds: Sequence[int]) -> list[Job]:
  """The runs in the order in which they tell most.

  Data set by data set; all rows with the first seed before any with the second. Shallow networks come
  before deep ones, and those that a claim compares stand together: the unfoldings of MSD-CSC at one
  depth, the four rules of Table 2 at one depth. ML-CSC comes after MSD-CSC.
  """
  rows = sorted(rows, key=_priority)
  return [Job(row, study, seed) for study in studies for seed in seeds for row in rows]


def _priority(row):
  if row.table == 2:
    return (1, _DEPTHS.index(row.layers), list(ROWS).index(row.name))
  return (0, not row.name.startswith("msd"), row.layers, list(ROWS).index(row.name))
