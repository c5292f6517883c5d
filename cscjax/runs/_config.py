"""The configuration of a run: the single place of its defaults, ranges and help texts."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

from cscjax import checks
from cscjax.data import DATASETS, dataset_shape
from cscjax.models import MODELS, PURSUITS, REMAT, SOLVERS, STEPS
from cscjax.training import MODES

PRECISIONS = ("float32", "bfloat16")
DEFAULT = "default"
AUTO = "auto"
AUGMENTATIONS = {"none": (0, False), "standard": (4, True)}
"""Largest shift in pixels and whether to flip at random, by the name of the augmentation."""
KEYS = "threefry2x32"
"""Implementation of a run's random keys, whatever JAX_DEFAULT_PRNG_IMPL says."""
INT32 = 2**31 - 1
"""The largest step: steps are counted in int32 on the device."""

Check = Callable[[str, Any], Any]


class RunError(ValueError):
  """A run cannot be made as it was asked for, or its files cannot be used.

  Attributes:
    argument: The field of `Config`, or the argument, that is to blame; the message begins with it. None
      if there is none.
  """

  def __init__(self, problem: str, argument: str | None = None):
    super().__init__(problem if argument is None else f"{argument}: {problem}")
    self.argument = argument

  @classmethod
  def from_check(cls, error: ValueError) -> "RunError":
    """Returns the error of a check (see `cscjax.checks`), whose message begins with the argument."""
    argument, _, problem = str(error).partition(": ")
    return cls(problem, argument)


def _flag(default: Any, help_text: str, valid: tuple | Check | None = None) -> Any:
  """A field: its default, its help, and its choices or the check of each of its values."""
  choices = valid if isinstance(valid, tuple) else None
  check = None if isinstance(valid, tuple) else valid
  return dataclasses.field(
    default=default, metadata={"help": help_text, "choices": choices, "check": check}
  )


def _whole(low: int, high: int = INT32) -> Check:
  return functools.partial(checks.int_between, low=low, high=high)


def _real(low: float, high: float = 1e30) -> Check:
  """By default what fits in a float32 with room to compute."""
  return functools.partial(checks.in_range, low=low, high=high)


@dataclasses.dataclass(frozen=True)
class Config:
  """All settings of a run.

  The constructor resolves the augmentation: afterwards `shift` and `flip` are what the run does, and
  `augmentation` is the name of the two, or "auto" if they have none. A `parallel` of "auto"
  becomes "jit".

  Raises:
    ValueError: Where a value is out of range; the message names the field.
  """

  model: str = _flag("msd_csc", "Network to train.", tuple(MODELS))
  # The network's own fields. None and "auto" are its default, or what suits the device; one that it does
  # not take is an error.
  depth: int | None = _flag(None, "Layers d; 6 n + 2 for the Res-CSC family.", _whole(1, 2000))
  width: int | None = _flag(
    None, "Channels: new ones of a layer, or those of the first layer or stage.", _whole(1, 2**14)
  )
  dilations: tuple[int, ...] | None = _flag(
    None, "Dilations s, taken in turn by the layers of MSD-CSC.", _whole(1)
  )
  solver: str | None = _flag(None, "Iteration that the pursuit unfolds.", SOLVERS)
  unfolding: int | None = _flag(None, "Iterations of the pursuit after the first one.", _whole(0, 1000))
  pursuit: str | None = _flag(
    None, "Layer by layer, over several layers, or ML-LISTA.", (*PURSUITS, "lista")
  )
  step: str | None = _flag(
    None, "Step of the unfoldings: a trained multiple of 1/L, or a free scalar.", STEPS
  )
  c: float | None = _flag(
    None, "Constant c of Res-CSC (eq. 5) in place of the trained one.", _real(-1e30)
  )
  norm: bool | None = _flag(None, "Batch norm; else a bias alone.")
  remat: str = _flag(
    AUTO,
    "What the backward pass computes again: nothing, cheap operations, or all of a block; auto: what"
    " suits the device.",
    (AUTO, *REMAT),
  )
  unroll: int | None = _flag(
    None,
    "Blocks of Res-CSC in a turn of the loop over those of a stage; what suits the device if none.",
    _whole(1),
  )
  channel_multiple: int | None = _flag(
    None,
    "Pad the images of MSD-CSC with zero channels to a multiple of this; what suits the device if none.",
    _whole(1, 2**14),
  )

  dataset: str = _flag("cifar10", "Data set.", DATASETS)
  data_dir: str | None = _flag(None, "Directory of TFDS's data and of the cache of decoded images.")
  download: bool = _flag(True, "Whether a data set that is not there may be downloaded.")
  validation_fraction: float = _flag(
    0.0,
    "Share of the training set to evaluate on; the test set is then used once, at the end.",
    _real(0, 1),
  )
  train_examples: int | None = _flag(
    None,
    "Train on a fixed random part of the training set with so many examples; on all if none.",
    _whole(1),
  )

  epochs: int = _flag(150, "Passes over the training set.", _whole(1))
  max_steps: int | None = _flag(
    None, "Stop after so many steps, if the epochs are not over before.", _whole(1)
  )
  batch_size: int = _flag(128, "Examples a step, over all devices.", _whole(1))
  learning_rate: float = _flag(0.05, "Rate of SGD before the first decay.", _real(1e-30))
  decay_epochs: tuple[int, ...] = _flag(
    (75, 115), "Epochs after which the rate is multiplied.", _whole(1)
  )
  decay_factor: float = _flag(0.1, "By what.", _real(1e-30, 1))
  warmup_epochs: float = _flag(0.0, "Epochs over which the rate rises linearly at first.", _real(0))
  momentum: float = _flag(0.9, "Of SGD.", _real(0, 1))
  nesterov: bool = _flag(False, "Nesterov's momentum.")
  weight_decay: float = _flag(1e-4, "L2 penalty of filters and kernels.", _real(0))
  augmentation: str = _flag(
    AUTO,
    "Augmentation of the training images. standard: a random shift by up to 4 pixels and a random"
    " horizontal flip; auto: standard for CIFAR-10 and CIFAR-100, none for the other data sets.",
    (AUTO, *AUGMENTATIONS),
  )
  # None, before the augmentation is resolved, is what `augmentation` says.
  shift: int = _flag(None, "Deprecated, use augmentation. Largest random shift in pixels.", _whole(0))
  flip: bool = _flag(None, "Deprecated, use augmentation. Whether to flip at random.")
  seed: int = _flag(0, "Of parameters, order and augmentation; at most 2^32 - 1.", _whole(0, 2**32 - 1))

  precision: str = _flag("float32", "Type of the convolutions; parameters stay float32.", PRECISIONS)
  matmul_precision: str = _flag(
    DEFAULT,
    "Precision of products and convolutions in float32. default: that of JAX, which is TF32 on recent"
    " GPUs; highest: all of float32.",
    (DEFAULT, "highest"),
  )
  parallel: str = _flag(
    AUTO,
    "How several devices share a batch. jit (or auto): as if they were one device; pmap: batch norm uses"
    " each device's own statistics, and gradients are averaged.",
    MODES,
  )
  coordinator: str | None = _flag(
    None, "For several processes: host:port of the first, or 'auto': what SLURM or Kubernetes tells."
  )
  num_processes: int | None = _flag(
    None, "How many processes, with the same flags but for the next.", _whole(1, 2**16)
  )
  process_id: int | None = _flag(
    None, "Which one this is, from 0. The first prints and writes.", _whole(0)
  )
  peer_timeout: int = _flag(
    100, "Seconds after which a process that does not answer counts as lost.", _whole(1, 10**6)
  )

  compilation_cache: str | None = _flag(
    None,
    "Directory of compiled programs, beside the cache of decoded images if none; 'off': keep none.",
  )
  workdir: str | None = _flag(None, "Where the run is kept and resumed; a new one under runs/ if none.")
  evaluate_epochs: int = _flag(1, "Epochs between evaluations.", _whole(1))
  checkpoint_seconds: float = _flag(
    300.0,
    "Seconds after which a checkpoint is written, also within an epoch. After an evaluation one is"
    " written sooner if checkpoints then take at most 2 % of the time.",
    _real(0, 1e9),
  )
  dispatch_seconds: float = _flag(
    1.0,
    "Seconds of work given to the device at once: between looks at progress, signals and the clock.",
    _real(0, 1e9),
  )

  @property
  def title(self) -> str:
    """The data set, the network, and what was given of its depth, solver and unfolding, for plots."""
    given = [f"{name} {getattr(self, name)}" for name in ("depth", "solver", "unfolding")]
    return ", ".join([self.dataset, self.model, *(g for g in given if not g.endswith(" None"))])

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value, check = getattr(self, field.name), field.metadata["check"]
      if value is None and field.default is None:
        continue
      if field.metadata["choices"]:
        checks.one_of(field.name, value, field.metadata["choices"])
      if check:
        for item in value if isinstance(value, tuple) else (value,):
          check(field.name, item)
    if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
      checks.fail("decay_epochs", self.decay_epochs, "rising epochs")
    self._check_shape()
    self._check_processes()
    self._resolve_augmentation()
    if self.parallel == AUTO:
      object.__setattr__(self, "parallel", "jit")

  def _resolve_augmentation(self):
    is_auto = self.augmentation == AUTO
    shift, flip = AUGMENTATIONS[own_augmentation(self.dataset) if is_auto else self.augmentation]
    shift = shift if self.shift is None else self.shift
    flip = flip if self.flip is None else self.flip
    values = {"augmentation": augmentation_name(shift, flip), "shift": shift, "flip": flip}
    for name, value in values.items():
      object.__setattr__(self, name, value)

  def _check_shape(self):
    sides = dataset_shape(self.dataset)[0][:-1]
    if self.shift is not None and self.shift >= min(sides):
      checks.fail("shift", self.shift, f"less than the {min(sides)} pixels of {self.dataset}'s examples")
    for dilation in self.dilations or ():
      if dilation >= max(sides):
        expected = f"dilations less than the {max(sides)} pixels of {self.dataset}'s examples"
        checks.fail("dilations", dilation, expected)

  def _check_processes(self):
    if self.coordinator in (None, AUTO):
      for name in ("num_processes", "process_id"):
        if getattr(self, name) is not None:
          beside = "without a coordinator" if self.coordinator is None else "with coordinator 'auto'"
          checks.fail(name, getattr(self, name), f"none {beside}")
      return
    host, _, port = self.coordinator.rpartition(":")
    if not (re.fullmatch(r"\S+", host) and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16):
      checks.fail("coordinator", self.coordinator, "host:port or 'auto'")
    if self.num_processes is None:
      checks.fail("num_processes", None, f"how many processes meet at {self.coordinator}")
    if self.process_id not in range(self.num_processes):
      checks.fail("process_id", self.process_id, f"one of 0..{self.num_processes - 1}")


def own_augmentation(dataset: str) -> str:
  """What augmentation "auto" means for a data set: the paper augments CIFAR, and not SVHN."""
  return "standard" if dataset in ("cifar10", "cifar100") else "none"


def augmentation_name(shift: Any, flip: Any) -> str:
  """The name of an augmentation, see `AUGMENTATIONS`; "auto" if it has none."""
  return next((name for name, known in AUGMENTATIONS.items() if known == (shift, flip)), AUTO)


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
  "unroll",
  "channel_multiple",
)
"""Fields that go to the network."""


def network_fields(config: Config) -> dict[str, Any]:
  """The network's fields that the configuration gives; of the others the network has defaults."""
  given = {name: getattr(config, name) for name in MODEL_FIELDS}
  return {name: value for name, value in given.items() if value not in (None, AUTO)}


RESUMABLE = frozenset(
  {
    "data_dir",
    "download",
    "epochs",
    "max_steps",
    "coordinator",
    "num_processes",
    "process_id",
    "peer_timeout",
    "workdir",
    "checkpoint_seconds",
    "compilation_cache",
    "dispatch_seconds",
    "remat",
    "unroll",
    "channel_multiple",
  }
)
"""Fields that may differ when a run is resumed; any other difference would make it another run."""

OWN = frozenset({"process_id", "workdir", "data_dir", "download", "compilation_cache"})
"""Fields that may differ between the processes of a run."""
