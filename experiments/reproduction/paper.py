"""Tables 2 and 3 of the paper: their rows, the printed numbers, and the flags that train each network.

This module is the only place that holds the paper's numbers; everything else reads them from here.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from cscjax.models import ARCHITECTURES

DATASETS = ("cifar10", "cifar100", "svhn_cropped")
TITLES = {
  "cifar10": "CIFAR10",
  "cifar100": "CIFAR100",
  "svhn_cropped": "SVHN",
  "digits": "scikit-learn's digits",
}
"""The name of each data set in the report; that of the paper, which has no digits."""


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """A network of the paper: a row of Table 3, or one of the four networks in a row of Table 2.

  Attributes:
    name: Name in `--rows`, in file names and in the cases of `experiments.benchmark`.
    network: Name in `--model`.
    table: Number of the table, 2 or 3.
    model: Name that the paper prints.
    layers: Number of layers that the paper prints.
    parameters: Number of parameters that the paper prints.
    unfolding: Unfolding that the paper prints; None in Table 2.
    flagfile: Name of the flagfile of `experiments.run` with the training protocol.
    fields: Fields of the run's configuration that replace those of the flagfile.
    accuracy: Test accuracy in percent on each of `DATASETS`; None where the paper prints × because the
      network could not be trained.
  """

  name: str
  network: str
  table: int
  model: str
  layers: int
  parameters: str
  unfolding: int | None
  flagfile: str
  fields: dict[str, Any]
  accuracy: dict[str, float | None]

  @property
  def architecture(self) -> int:
    """The current version of the network's computation."""
    return ARCHITECTURES[self.network]

  @property
  def title(self) -> str:
    """Name of the network in the claims and figures of the report."""
    if self.table == 2:
      return f"{self.model}, {self.layers} layers"
    depth = f", d = {self.layers}" if self.model.startswith("MSD") else ""
    unfolding = f", unfolding {self.unfolding}" if self.unfolding else ""
    return self.model + depth + unfolding


_RULES = {
  "plain": "Plain network",
  "res_csc_simplified": "Res-CSC-simplified",
  "resnet": "ResNet",
  "res_csc": "Res-CSC",
}
_PARAMETERS_2 = {20: "0.27M", 32: "0.46M", 44: "0.66M", 56: "0.85M", 110: "1.70M", 218: "3.40M"}
_TABLE_2 = {  # data set -> layers -> accuracies of the networks in the order of _RULES
  "cifar10": {
    20: (90.74, 91.86, 91.30, 91.82),
    32: (90.34, 90.95, 92.52, 93.31),
    44: (89.41, 90.19, 92.92, 92.89),
    56: (87.04, 88.75, 93.15, 93.55),
    110: (None, None, 93.41, 93.56),
    218: (None, None, 94.02, 94.28),
  },
  "cifar100": {
    20: (66.02, 66.33, 67.81, 68.55),
    32: (64.31, 65.35, 69.79, 69.35),
    44: (61.54, 63.24, 70.59, 70.68),
    56: (59.28, 60.58, 71.09, 71.40),
    110: (None, None, 72.47, 73.13),
    218: (None, None, 73.28, 73.50),
  },
  "svhn_cropped": {
    20: (96.67, 96.70, 96.57, 96.81),
    32: (96.55, 96.63, 96.63, 96.83),
    44: (96.36, 96.51, 96.74, 96.91),
    56: (96.09, 96.38, 96.88, 97.01),
    110: (None, None, 96.96, 97.11),
    218: (None, None, 97.05, 97.22),
  },
}
_TABLE_3 = (  # name, model, layers, parameters, unfolding, accuracies on DATASETS
  ("feed_forward", "Feed-Forward", 6, "4.0M", 0, (82.16, 43.93, 94.68)),
  ("ml_csc_u1", "ML-CSC-ISTA", 6, "4.0M", 1, (83.26, 50.23, 94.98)),
  ("ml_csc_u2", "ML-CSC-ISTA", 6, "4.0M", 2, (83.59, 50.61, 95.01)),
  ("ml_csc_u2_fista", "ML-CSC-FISTA", 6, "4.0M", 2, (84.06, 51.66, 95.29)),
  ("msdnet6", "MSDNet", 6, "0.1M", 0, (87.22, 60.23, 94.72)),
  ("msdnet9", "MSDNet", 9, "0.3M", 0, (89.42, 63.22, 95.42)),
  ("msdnet12", "MSDNet", 12, "0.6M", 0, (90.35, 66.18, 95.73)),
  ("msdcsc6_u1", "MSD-CSC-ISTA", 6, "0.1M", 1, (88.79, 62.08, 94.87)),
  ("msdcsc6_u2", "MSD-CSC-ISTA", 6, "0.1M", 2, (88.85, 62.24, 95.75)),
  ("msdcsc9_u1", "MSD-CSC-ISTA", 9, "0.3M", 1, (90.23, 64.15, 95.98)),
  ("msdcsc9_u2", "MSD-CSC-ISTA", 9, "0.3M", 2, (90.52, 65.21, 96.10)),
  ("msdcsc12_u1", "MSD-CSC-ISTA", 12, "0.6M", 1, (90.81, 67.31, 96.14)),
  ("msdcsc12_u2", "MSD-CSC-ISTA", 12, "0.6M", 2, (91.76, 68.14, 96.36)),
  ("msdcsc6_u2_fista", "MSD-CSC-FISTA", 6, "0.1M", 2, (89.21, 62.53, 95.50)),
  ("msdcsc9_u2_fista", "MSD-CSC-FISTA", 9, "0.3M", 2, (90.91, 65.22, 95.84)),
  ("msdcsc12_u2_fista", "MSD-CSC-FISTA", 12, "0.6M", 2, (91.63, 69.23, 96.35)),
)


def _rows_of_table_2() -> Iterator[Row]:
  for layers, parameters in _PARAMETERS_2.items():
    for i, (rule, model) in enumerate(_RULES.items()):
      yield Row(
        name=f"{rule}{layers}",
        network=rule,
        table=2,
        model=model,
        layers=layers,
        parameters=parameters,
        unfolding=None,
        flagfile="rescsc.flags",
        fields={"model": rule, "depth": layers},
        accuracy={dataset: table[layers][i] for dataset, table in _TABLE_2.items()},
      )


def _rows_of_table_3() -> Iterator[Row]:
  for name, model, layers, parameters, unfolding, accuracy in _TABLE_3:
    flagfile = name.partition("_u")[0] if name.startswith("msd") else "mlcsc"
    fields: dict[str, Any] = {}
    if name == "feed_forward":
      fields = {"model": "feed_forward", "unfolding": 0}
    elif unfolding:
      fields = {"solver": model.rpartition("-")[2].lower(), "unfolding": unfolding}
    family = name.partition("_u")[0].rstrip("0123456789")
    yield Row(
      name=name,
      network="msd_csc" if family == "msdcsc" else family,
      table=3,
      model=model,
      layers=layers,
      parameters=parameters,
      unfolding=unfolding,
      flagfile=f"{flagfile}.flags",
      fields=fields,
      accuracy=dict(zip(DATASETS, accuracy, strict=True)),
    )


ROWS = {row.name: row for row in (*_rows_of_table_2(), *_rows_of_table_3())}
"""The 24 networks of Table 2 and the 16 of Table 3 by name, in the order of the paper."""
