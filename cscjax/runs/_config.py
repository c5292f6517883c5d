"""The configuration of a run: the single place of its defaults, ranges and help texts."""

import dataclasses
import inspect
import os
import re
from typing import Any

from cscjax import checks
from cscjax.data import DATASETS, check_name, dataset_shape
from cscjax.models import MODELS, PURSUITS, REMAT, SOLVERS, STEPS
from cscjax.runs._fields import LARGE, attributes, checked, flag, integer, real
from cscjax.training import MODES

PRECISIONS = ("float32", "bfloat16")
DEFAULT = "default"
AUTO = "auto"
AUGMENTATIONS = {"none": (0, False), "standard": (4, True)}
"""The largest shift in pixels and whether images are flipped at random, for each augmentation."""
KEYS = "threefry2x32"
"""Implementation of the random keys of a run, which JAX_DEFAULT_PRNG_IMPL does not change."""


class RunError(ValueError):
  """A run cannot be made as configured, or its files cannot be used.

  `RunError(problem, argument)` has the message "argument: problem", and without an argument "problem".

  Attributes:
    argument: The field of `Config`, or the argument of a function, that causes the error. None if no
      single argument does.
  """

  argument: str | None

  def __init__(self, problem: str, argument: str | None = None):
    super().__init__(problem if argument is None else f"{argument}: {problem}")
    self.argument = argument

  @classmethod
  def from_check(cls, error: ValueError) -> "RunError":
    """Converts the error of an argument check.

    Args:
      error: An error whose message has the form "argument: problem", as those of `cscjax.checks` have.

    Returns:
      A `RunError` with the same message and argument.
    """
    argument, _, problem = str(error).partition(": ")
    return cls(problem, argument)


@dataclasses.dataclass(frozen=True)
class Config:
  """All settings of a training run.

  The constructor resolves automatic values: afterwards `shift` and `flip` hold the augmentation that the
  run uses, `augmentation` is its name ("auto" if that combination has no name), and a `parallel` of
  "auto" has become "jit".

  The fields from `depth` to `channel_multiple` belong to the network. None (and "auto" for `remat`)
  stands for the default of the network, or for the value that suits the device. `make_model` raises an
  error if the network does not have a field that is set.

  Attributes:
    ...

  Raises:
    ValueError: If a value is out of range, or some values contradict each other. The message begins with
      the name of the field.

  Example:
    >>> from cscjax.runs import Config
    >>> config = Config(model="msd_csc", dataset="cifar10", depth=6, unfolding=1)
    >>> config.epochs, config.batch_size, config.augmentation
    (150, 128, 'standard')
  """

  # `attributes` makes the entries of "Attributes" from the help texts and choices below.
  model: str = flag("msd_csc", "Network to train.", tuple(MODELS))
  depth: int | None = flag(
    None,
    "Number of layers d. For res_csc, res_csc_simplified, resnet and plain it must be 6 n + 2.",
    integer(1, 2000),
  )
  width: int | None = flag(
    None,
    "Number of channels: the new channels of each layer for msd_csc and msdnet, those of the first layer"
    " or stage for the other networks.",
    integer(1, 2**14),
  )
  dilations: tuple[int, ...] | None = flag(
    None, "Dilations s of msd_csc and msdnet, which the layers use in turn.", integer(1)
  )
  solver: str | None = flag(None, "Solver whose iterations are unfolded into the layers.", SOLVERS)
  unfolding: int | None = flag(
    None, "Number of iterations of the solver after the first one.", integer(0, 1000)
  )
  pursuit: str | None = flag(
    None,
    "How the layers are coded. layer: each one on its own; multilayer: several layers together; lista:"
    " ML-LISTA, for ml_csc.",
    (*PURSUITS, "lista"),
  )
  step: str | None = flag(
    None,
    "Step size of the unfolded iterations. bounded: a trained multiple of 1/L, below 2/L; free: a"
    " trained scalar without a bound.",
    STEPS,
  )
  c: float | None = flag(
    None,
    "Constant c of res_csc and res_csc_simplified (eq. 5); it is trained if not given.",
    real(-LARGE),
  )
  norm: bool | None = flag(None, "Whether layers use batch normalization; otherwise they have a bias.")
  remat: str = flag(
    AUTO,
    "What the backward pass recomputes instead of storing it. none: nothing; elementwise: cheap"
    " operations; all: everything inside a block; auto: chosen for the device.",
    (AUTO, *REMAT),
  )
  unroll: int | None = flag(
    None,
    "Residual blocks in each iteration of the loop over a stage of res_csc, res_csc_simplified, resnet"
    " and plain. It is chosen for the device if not given, and does not change the network.",
    integer(1),
  )
  channel_multiple: int | None = flag(
    None,
    "The images of msd_csc and msdnet are padded with zero channels to a multiple of this number. It is"
    " chosen for the device if not given, and does not change the network.",
    integer(1, 2**14),
  )

  dataset: str = flag(
    "cifar10",
    f"Data set to train on. One of {', '.join(DATASETS)}; or data of your own: npz:FILE, a file with the"
    " arrays train_images and train_labels, or folder:DIR, a folder of images for each class, see"
    " cscjax.data.load_dataset.",
    check_name,
  )
  data_dir: str | None = flag(
    None,
    "Data directory of TensorFlow Datasets, which is only read. If it is not given, it is $TFDS_DATA_DIR"
    " or ~/tensorflow_datasets.",
  )
  cache_dir: str | None = flag(
    None,
    "Directory of the caches of decoded images and compiled programs. If it is not given, it is the"
    " folder cscjax in the cache folder of the user: $XDG_CACHE_HOME or ~/.cache on Linux,"
    " ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows.",
  )
  download: bool = flag(True, "Whether to download a missing data set.")
  validation_fraction: float = flag(
    0.0,
    "Fraction of the training set that is held out and evaluated instead of the test set, which is then"
    " evaluated only once, at the end.",
    real(0, 1),
  )
  train_examples: int | None = flag(
    None,
    "Number of examples to train on, a fixed random subset of the training set. All examples are used if"
    " it is not given.",
    integer(1),
  )

  epochs: int = flag(150, "Number of passes over the training set.", integer(1))
  max_steps: int | None = flag(
    None, "The run stops after this number of training steps, even if epochs remain.", integer(1)
  )
  batch_size: int = flag(128, "Examples per training step, over all devices.", integer(1))
  learning_rate: float = flag(0.05, "Learning rate of SGD before the first decay.", real(1e-30))
  decay_epochs: tuple[int, ...] = flag(
    (75, 115),
    "Epochs after which the learning rate is multiplied by decay_factor, in increasing order.",
    integer(1),
  )
  decay_factor: float = flag(
    0.1, "Factor by which the learning rate is multiplied at each of decay_epochs.", real(1e-30, 1)
  )
  warmup_epochs: float = flag(
    0.0, "Number of epochs over which the learning rate rises linearly from 0 at the start.", real(0)
  )
  momentum: float = flag(0.9, "Momentum of SGD.", real(0, 1))
  nesterov: bool = flag(False, "Whether to use Nesterov momentum.")
  weight_decay: float = flag(
    1e-4, "Factor of the L2 penalty on filters and kernels; other parameters have none.", real(0)
  )
  augmentation: str = flag(
    AUTO,
    "Augmentation of the training images. standard: a random shift by up to 4 pixels and a random"
    " horizontal flip; auto: standard for CIFAR-10 and CIFAR-100, none for the other data sets.",
    (AUTO, *AUGMENTATIONS),
  )
  # The default None is replaced by the value that `augmentation` stands for.
  shift: int = flag(
    None, "Largest random shift in pixels. It is deprecated; use augmentation instead.", integer(0)
  )
  flip: bool = flag(
    None, "Whether to flip images at random. It is deprecated; use augmentation instead."
  )
  seed: int = flag(
    0,
    "Random seed of the initial parameters, the order of the examples and the augmentation.",
    integer(0, 2**32 - 1),
  )
  init_from: str | None = flag(
    None,
    "Directory of a run, or file of its weights, with the trained network from which this run starts. It"
    " must be the same network, for images with as many channels; their size may differ. The classifier"
    " starts anew if the number of classes differs.",
  )

  precision: str = flag(
    "float32", "Data type of the convolutions; the parameters are always float32.", PRECISIONS
  )
  matmul_precision: str = flag(
    DEFAULT,
    "Precision of matrix products and convolutions in float32. default: the setting of JAX, which is"
    " TF32 on recent GPUs; highest: full float32.",
    (DEFAULT, "highest"),
  )
  parallel: str = flag(
    AUTO,
    "How several devices share a batch. jit (or auto): batch norm and gradients are computed over the"
    " whole batch, as on one device; pmap: batch norm uses the statistics of each device's part, and"
    " gradients are averaged.",
    MODES,
  )
  coordinator: str | None = flag(
    None,
    "For a run on several processes: the address host:port of process 0, or 'auto' to get it from SLURM"
    " or Kubernetes.",
  )
  num_processes: int | None = flag(
    None,
    "Number of processes of the run. All of them need the same settings, except for process_id, workdir,"
    " data_dir, cache_dir, download and compilation_cache.",
    integer(1, 2**16),
  )
  process_id: int | None = flag(
    None, "Index of this process, from 0. Only process 0 logs and writes files.", integer(0)
  )
  peer_timeout: int = flag(
    100, "Seconds after which a process that does not answer counts as lost.", integer(1, 10**6)
  )

  compilation_cache: str | None = flag(
    None,
    "Directory of the cache of compiled programs, or 'off' for no cache. If it is not given, it is"
    " $JAX_COMPILATION_CACHE_DIR, or else the folder compiled in cache_dir.",
  )
  workdir: str | None = flag(
    None,
    "Directory where the run is stored, and resumed if it exists. If it is not given, a new one is made"
    " under runs/.",
  )
  tensorboard: bool = flag(
    False,
    "Whether to write the rows of metrics.jsonl to event files for TensorBoard, too, in the folder"
    " tensorboard of the workdir. Needs the package tensorboardX.",
  )
  evaluate_epochs: int = flag(1, "Number of epochs between evaluations.", integer(1))
  checkpoint_seconds: float = flag(
    300.0,
    "Seconds after which a new checkpoint is written, also within an epoch. After an evaluation it is"
    " written earlier if checkpoints then take at most 2 % of the time.",
    real(0, 1e9),
  )
  keep_best: bool = flag(
    False,
    "Whether to keep the checkpoint with the highest validation accuracy, too. Requires a validation"
    " split (validation_fraction), because the test set must not choose the network.",
  )
  dispatch_seconds: float = flag(
    1.0,
    "Intended duration of each compiled call, in seconds. Progress, signals and the clock are checked"
    " between calls.",
    real(0, 1e9),
  )

  @property
  def dataset_name(self) -> str:
    """The name of the data set; for "npz:FILE" and "folder:DIR", that of the file or folder."""
    if self.dataset in DATASETS:
      return self.dataset
    return os.path.basename(os.path.abspath(self.dataset.partition(":")[2]))

  @property
  def title(self) -> str:
    """The title of plots: data set, network, and its depth, solver and unfolding where they are set."""
    given = [f"{name} {getattr(self, name)}" for name in ("depth", "solver", "unfolding")]
    return ", ".join([self.dataset_name, self.model, *(g for g in given if not g.endswith(" None"))])

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value is not None or field.default is not None:
        object.__setattr__(self, field.name, checked(field, value))
    if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
      checks.fail("decay_epochs", self.decay_epochs, "epochs in increasing order")
    if self.dataset in DATASETS:
      check_sizes(self, dataset_shape(self.dataset)[0])
    self._check_processes()
    self._resolve_augmentation()
    if self.parallel == AUTO:
      object.__setattr__(self, "parallel", "jit")

  def _resolve_augmentation(self) -> None:
    is_auto = self.augmentation == AUTO
    shift, flip = AUGMENTATIONS[own_augmentation(self.dataset) if is_auto else self.augmentation]
    shift = shift if self.shift is None else self.shift
    flip = flip if self.flip is None else self.flip
    known = augmentation_name(shift, flip)
    if not is_auto and known not in (AUTO, self.augmentation):  # as after `dataclasses.replace`
      expected = f"{known!r}, or None for shift and flip, which are {shift} and {flip}"
      checks.fail("augmentation", self.augmentation, expected)
    values = {"augmentation": known, "shift": shift, "flip": flip}
    for name, value in values.items():
      object.__setattr__(self, name, value)

  def _check_processes(self) -> None:
    if self.coordinator in (None, AUTO):
      for name in ("num_processes", "process_id"):
        if getattr(self, name) is not None:
          case = "without a coordinator" if self.coordinator is None else "with coordinator 'auto'"
          checks.fail(name, getattr(self, name), f"no value {case}")
      return
    host, _, port = self.coordinator.rpartition(":")
    if not (re.fullmatch(r"\S+", host) and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16):
      checks.fail("coordinator", self.coordinator, "host:port or 'auto'")
    if self.num_processes is None:
      checks.fail("num_processes", None, f"the number of processes that connect to {self.coordinator}")
    if self.process_id not in range(self.num_processes):
      checks.fail("process_id", self.process_id, f"an integer in 0..{self.num_processes - 1}")


def check_sizes(config: Config, example_shape: tuple[int, ...]) -> None:
  """Raises ValueError if a shift or a dilation is not smaller than the examples of the data set."""
  sides = example_shape[:-1]
  if config.shift is not None and config.shift >= min(sides):
    expected = f"a value below {min(sides)}, the size of the examples of {config.dataset}"
    checks.fail("shift", config.shift, expected)
  for dilation in config.dilations or ():
    if dilation >= max(sides):
      expected = f"values below {max(sides)}, the size of the examples of {config.dataset}"
      checks.fail("dilations", dilation, expected)


def own_augmentation(dataset: str) -> str:
  """Returns the augmentation that "auto" stands for.

  As in the paper, CIFAR-10 and CIFAR-100 are augmented, and SVHN is not.

  Args:
    dataset: Name of the data set, see `cscjax.data.load_dataset`.

  Returns:
    "standard" or "none", a key of `AUGMENTATIONS`.

  Example:
    >>> from cscjax import runs
    >>> runs.own_augmentation("cifar10"), runs.own_augmentation("svhn_cropped")
    ('standard', 'none')
  """
  return "standard" if dataset in ("cifar10", "cifar100") else "none"


def augmentation_name(shift: Any, flip: Any) -> str:
  """Returns the name of an augmentation in `AUGMENTATIONS`, or "auto" if it has no name."""
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
"""Fields that are passed to the network."""


def network_fields(config: Config) -> dict[str, Any]:
  """Returns the fields of the network that are set; for the others the network has its defaults."""
  given = {name: getattr(config, name) for name in MODEL_FIELDS}
  return {name: value for name, value in given.items() if value not in (None, AUTO)}


RESUMABLE = frozenset(
  {
    "data_dir",
    "cache_dir",
    "download",
    "epochs",
    "max_steps",
    "coordinator",
    "num_processes",
    "process_id",
    "peer_timeout",
    "workdir",
    "tensorboard",
    "checkpoint_seconds",
    "compilation_cache",
    "dispatch_seconds",
    "remat",
    "unroll",
    "channel_multiple",
  }
)
"""Fields that may change when a run is resumed; a change of another field is an error."""

OWN = frozenset({"process_id", "workdir", "data_dir", "cache_dir", "download", "compilation_cache"})
"""Fields that may differ between the processes of a run."""


Config.__doc__ = inspect.cleandoc(Config.__doc__ or "").replace(
  "  ...", attributes(Config)
)  # None under -OO
