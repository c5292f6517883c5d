"""Training: state, compiled steps, devices, checkpoints, the loop."""

from cscjax.training._augment import augment, normalize
from cscjax.training._checkpoint_format import CheckpointError
from cscjax.training._checkpoints import Checkpoints
from cscjax.training._checksums import seal, unseal
from cscjax.training._files import read_file
from cscjax.training._loop import Outcome, Plan, Programs, Progress, fit
from cscjax.training._metrics_log import MetricsLog, read_metrics
from cscjax.training._optim import DECAYED, sgd, step_schedule
from cscjax.training._parallel import (
  AXIS,
  MODES,
  compile_for,
  compiler_options,
  create_mesh,
  replicate,
)
from cscjax.training._processes import is_first, largest
from cscjax.training._state import EpochMetrics, TrainState, create_train_state, parameter_count
from cscjax.training._steps import DeviceData, Recipe, evaluate_batches, train_steps

__all__ = [
  "AXIS",
  "DECAYED",
  "MODES",
  "CheckpointError",
  "Checkpoints",
  "DeviceData",
  "EpochMetrics",
  "MetricsLog",
  "Outcome",
  "Plan",
  "Programs",
  "Progress",
  "Recipe",
  "TrainState",
  "augment",
  "compile_for",
  "compiler_options",
  "create_mesh",
  "create_train_state",
  "evaluate_batches",
  "fit",
  "is_first",
  "largest",
  "normalize",
  "parameter_count",
  "read_file",
  "read_metrics",
  "replicate",
  "seal",
  "sgd",
  "step_schedule",
  "train_steps",
  "unseal",
]
