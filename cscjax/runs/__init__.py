"""Training runs: makes, executes, resumes and loads a run as given by its configuration.

`make_run` turns a `Config` into a `Run`, and `execute` trains it or resumes it from its last checkpoint.
`load_run` loads a trained network from the directory of the run, to predict, encode, certify or export.
"""

from cscjax.runs._build import automatic_fields, build, for_device, make_model, make_plan, start
from cscjax.runs._config import (
  AUGMENTATIONS,
  AUTO,
  KEYS,
  PRECISIONS,
  RESUMABLE,
  Config,
  RunError,
  own_augmentation,
)
from cscjax.runs._execute import Run, execute, make_run
from cscjax.runs._load import load_run, load_weights
from cscjax.runs._loaded_run import LoadedRun, Prediction
from cscjax.runs._processes import connect
from cscjax.runs._recorded import current_fields, read_config, recorded_fields
from cscjax.runs._workdir import environment, open_lock, replaced, write_json

__all__ = [
  "AUGMENTATIONS",
  "AUTO",
  "KEYS",
  "PRECISIONS",
  "RESUMABLE",
  "Config",
  "LoadedRun",
  "Prediction",
  "Run",
  "RunError",
  "automatic_fields",
  "build",
  "connect",
  "current_fields",
  "environment",
  "execute",
  "for_device",
  "load_run",
  "load_weights",
  "make_model",
  "make_plan",
  "make_run",
  "open_lock",
  "own_augmentation",
  "read_config",
  "recorded_fields",
  "replaced",
  "start",
  "write_json",
]
