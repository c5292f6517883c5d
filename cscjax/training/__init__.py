"""Training of classifiers: `fit` trains a Flax module on a data set in one call.

Its parts can be used alone: `Trainer` compiles training steps and evaluations, `Plan` says how long to
train, and `MetricsLog` and `Checkpoints` write files from which training resumes.
"""

from cscjax.training._augment import augment, normalize
from cscjax.training._checkpoint_format import CheckpointError
from cscjax.training._checkpoints import Checkpoints
from cscjax.training._devices import compiler_options, create_mesh, is_first, process_max
from cscjax.training._files import read_file, seal, unseal
from cscjax.training._fit import fit
from cscjax.training._loop import Outcome, Plan, Progress
from cscjax.training._metrics_log import MetricsLog, read_metrics
from cscjax.training._optim import DECAYED, sgd, step_schedule
from cscjax.training._progress import Lines, create_progress
from cscjax.training._state import EpochMetrics, TrainState, parameter_count
from cscjax.training._trainer import MODES, Examples, Trainer

__all__ = [
  "DECAYED",
  "MODES",
  "CheckpointError",
  "Checkpoints",
  "EpochMetrics",
  "Examples",
  "Lines",
  "MetricsLog",
  "Outcome",
  "Plan",
  "Progress",
  "TrainState",
  "Trainer",
  "augment",
  "compiler_options",
  "create_mesh",
  "create_progress",
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
