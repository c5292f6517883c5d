"""The configuration of a run: the single place of its defaults, ranges and help texts."""

import dataclasses
from typing import Any

from cscjax import checks
from cscjax.data import DATASETS
from cscjax.models import MODELS
from cscjax.models.layers import PURSUITS, SOLVERS
from cscjax.models.remat import REMAT
from cscjax.models.spectral import STEPS
from cscjax.training import MODES

PRECISIONS = ("float32", "bfloat16")
STATISTICS = ("global", "device")
AUTO = "auto"


def _flag(default: Any, help_text: str, choices: Any = None) -> Any:
  return dataclasses.field(default=default, metadata={"help": help_text, "choices": choices})


@dataclasses.dataclass(frozen=True)
class Config:
  """All settings of a run; each field is a flag of the same name.

  Raises:
    ValueError: Where a value is out of range; the message names the field.
  """

  model: str = _flag("msd_csc", "Network to train.", tuple(MODELS))
  # The network's own fields. None is its default; one that it does not take is an error.
  depth: int | None = _flag(None, "Layers d; 6 n + 2 for the Res-CSC family.")
  width: int | None = _flag(None, "Channels: new ones of a layer, or those of the first layer or stage.")
  dilations: tuple[int, ...] | None = _flag(None, "Dilations s, taken in turn by the layers of MSD-CSC.")
  solver: str | None = _flag(None, "Iteration that the pursuit unfolds.", SOLVERS)
  unfolding: int | None = _flag(None, "Iterations of the pursuit after the first one.")
  pursuit: str | None = _flag(
    None, "Layer by layer, over several layers, or ML-LISTA.", (*PURSUITS, "lista")
  )
  step: str | None = _flag(
    None, "Step of the unfoldings: a trained multiple of 1/L, or a free scalar.", STEPS
  )
  c: float | None = _flag(None, "Constant c of Res-CSC (eq. 5) in place of the trained one.")
  norm: bool | None = _flag(None, "Batch norm; else a bias alone.")
  remat: str | None = _flag(
    None, "What the backward pass computes again: nothing, cheap operations, or all of a block.", REMAT
  )

  dataset: str = _flag("cifar10", "Data set.", DATASETS)
  data_dir: str | None = _flag(None, "Directory of TFDS's data and of the cache of decoded images.")
  download: bool = _flag(True, "Whether a data set that is not there may be downloaded.")
  validation_fraction: float = _flag(
    0.0, "Share of the training set to evaluate on; the test set is then used once, at the end."
  )
  train_examples: int | None = _flag(
    None, "Train on a fixed random part of the training set with so many examples; on all if none."
  )

  epochs: int = _flag(150, "Passes over the training set.")
  max_steps: int | None = _flag(None, "Stop after so many steps, if the epochs are not over before.")
  batch_size: int = _flag(128, "Examples a step, over all devices.")
  learning_rate: float = _flag(0.05, "Rate of SGD before the first decay.")
  decay_epochs: tuple[int, ...] = _flag((75, 115), "Epochs after which the rate is multiplied.")
  decay_factor: float = _flag(0.1, "By what.")
  warmup_epochs: float = _flag(0.0, "Epochs over which the rate rises linearly at first.")
  momentum: float = _flag(0.9, "Of SGD.")
  nesterov: bool = _flag(False, "Nesterov's momentum.")
  weight_decay: float = _flag(1e-4, "L2 penalty of filters and kernels.")
  shift: int = _flag(0, "Augmentation: random shift by up to so many pixels.")
  flip: bool = _flag(False, "Augmentation: random mirroring left and right.")
  seed: int = _flag(0, "Of parameters, order and augmentation.")

  precision: str = _flag("float32", "Type of the convolutions; parameters stay float32.", PRECISIONS)
  parallel: str = _flag("auto", "One device (jit), or all of them (pmap).", MODES)
  statistics: str = _flag(
    "global", "Batch norm over the whole batch, or over each device's part.", STATISTICS
  )
  coordinator: str | None = _flag(
    None, "For several processes: host:port of the first, or 'auto': what SLURM or Kubernetes tells."
  )
  num_processes: int | None = _flag(None, "How many processes, with the same flags but for the next.")
  process_id: int | None = _flag(None, "Which one this is, from 0. The first prints and writes.")
  peer_timeout: int = _flag(100, "Seconds after which a process that does not answer counts as lost.")

  compilation_cache: str | None = _flag(
    None, "Directory of compiled programs, beside the cache of decoded images if none; 'off': keep none."
  )
  workdir: str | None = _flag(None, "Where the run is kept and resumed; a new one under runs/ if none.")
  evaluate_epochs: int = _flag(1, "Epochs between evaluations.")
  checkpoint_seconds: float = _flag(300.0, "Seconds between checkpoints within an epoch.")
  dispatch_seconds: float = _flag(
    1.0, "Seconds of work given to the device at once: between looks at progress, signals and the clock."
  )

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.metadata["choices"] and not (value is None and field.default is None):
        checks.one_of(field.name, value, field.metadata["choices"])
    for name in ("epochs", "batch_size", "evaluate_epochs", "peer_timeout"):
      checks.positive_int(name, getattr(self, name))
    for name in ("max_steps", "train_examples"):
      if getattr(self, name) is not None:
        checks.positive_int(name, getattr(self, name))
    for name in ("shift", "seed"):
      checks.int_at_least(name, getattr(self, name), 0)
    for name in ("weight_decay", "warmup_epochs", "checkpoint_seconds", "dispatch_seconds"):
      checks.in_range(name, getattr(self, name), 0)
    for name in ("momentum", "validation_fraction"):
      checks.in_range(name, getattr(self, name), 0, 1)
    checks.in_range("learning_rate", self.learning_rate, 0, low_open=True)
    checks.in_range("decay_factor", self.decay_factor, 0, 1, low_open=True)
    for value in self.decay_epochs:
      checks.positive_int("decay_epochs", value)
    if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
      checks.fail("decay_epochs", self.decay_epochs, "rising epochs")
    self._check_processes()

  def _check_processes(self):
    if self.coordinator in (None, AUTO):
      for name in ("num_processes", "process_id"):
        if getattr(self, name) is not None:
          beside = "without --coordinator" if self.coordinator is None else "with --coordinator=auto"
          checks.fail(name, getattr(self, name), f"none {beside}")
      return
    host, _, port = self.coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
      checks.fail("coordinator", self.coordinator, "host:port or 'auto'")
    processes = checks.positive_int("num_processes", self.num_processes)
    if self.process_id not in range(processes):
      checks.fail("process_id", self.process_id, f"one of 0..{processes - 1}")


MODEL_FIELDS = (
  "depth",
  "width",
  "dilations",
  "solver",
  "unfolding",
  "pursuit",
  "step",
  "c",
  "norm",
  "remat",
)
"""Fields that go to the network."""

RESUMABLE = frozenset(
  {
    "data_dir",
    "download",
    "epochs",
    "max_steps",
    "parallel",
    "coordinator",
    "num_processes",
    "process_id",
    "peer_timeout",
    "workdir",
    "checkpoint_seconds",
    "compilation_cache",
    "dispatch_seconds",
  }
)
"""Fields that may differ when a run is resumed; any other difference would make it another run."""

OF_A_CALL = frozenset({"workdir", "coordinator", "num_processes", "process_id"})
"""Fields that a run which is repeated does not take over."""

OWN = frozenset({"process_id", "workdir", "data_dir", "download", "compilation_cache"})
"""Fields that may differ between the processes of a run."""
