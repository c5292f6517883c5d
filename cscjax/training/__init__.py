"""Training of classifiers: compiled steps, the training loop, metrics and checkpoints."""

from cscjax.training._augment import augment, normalize
from cscjax.training._checkpoint_format import CheckpointError
from cscjax.training._checkpoints import Checkpoints
from cscjax.training._devices import compiler_options, create_mesh, is_first, process_max
from cscjax.training._files import read_file, seal, unseal
from cscjax.training._loop import Outcome, Plan, Progress, fit
from cscjax.training._metrics_log import MetricsLog, best_step, read_metrics
from cscjax.training._optim import DECAYED, sgd, step_schedule
from cscjax.training._state import EpochMetrics, TrainState, parameter_count
from cscjax.training._trainer import MODES, Examples, Trainer

__all__ = [
  "DECAYED",
  "MODES",
  "CheckpointError",
  "Checkpoints",
  "EpochMetrics",
  "Examples",
  "MetricsLog",
  "Outcome",
  "Plan",
  "Progress",
  "TrainState",
  "Trainer",
  "augment",
  "best_step",
  "compiler_options",
  "create_mesh",
  "fit",
  "is_first",
  "normalize",
  "parameter_count",
  "process_max",
  "read_file",
  "read_metrics",
  "seal",
  "sgd",
  "step_schedule",
  "unseal",
]
