"""Trains a Flax classifier on a data set in one call."""

import contextlib
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cscjax import checks
from cscjax.data import Dataset
from cscjax.training._checkpoints import Checkpoints
from cscjax.training._devices import create_mesh, process_max
from cscjax.training._loop import Outcome, Plan, Progress, run_loop
from cscjax.training._metrics_log import MetricsLog
from cscjax.training._progress import create_progress
from cscjax.training._state import TrainState
from cscjax.training._trainer import Examples, Trainer

LEARNING_RATE, BATCH_SIZE = 1e-3, 128
"""The defaults of `fit`."""


def fit(
  model: nn.Module | Trainer,
  data: Dataset,
  *,
  epochs: int | Plan,
  optimizer: optax.GradientTransformation | None = None,
  batch_size: int | None = None,
  key: jax.Array | None = None,
  state: TrainState | None = None,
  log: MetricsLog | None = None,
  checkpoints: Checkpoints | None = None,
  progress: Progress | bool = False,
  stopped: Callable[[], bool] | None = None,
  seconds: float = 0.0,
) -> Outcome:
  """Trains a classifier on a data set with the cross-entropy loss, and evaluates it after each epoch.

  The steps of an epoch run in a few compiled calls, in which all devices share each batch. The images
  are normalized by `data.mean` and `data.std` there, so the trained model takes normalized images, see
  `normalize`. If the data set has validation examples, these are evaluated after each epoch and the test
  examples only after the last one; else the test examples are evaluated each time.

  Checkpoints are written after the first evaluation and after the last one, and after others as long as
  these checkpoints take at most 2 % of the time. In addition, a checkpoint is written when
  `checkpoint_seconds` of the plan have passed since the last one, and when the training is interrupted.
  If `keep_best` of the plan is set, one is also written after each evaluation with the highest accuracy
  so far, and kept until there is a higher one. A state that is not finite is not saved.

  The clock decides when checkpoints are written, but has no effect on the results: training that was
  killed resumes from its last checkpoint, drops the rows of later steps from the log, and computes the
  same rows and states again.

  Args:
    model: Flax module of the classifier, called as model(x, train=...), which returns logits [N,
      classes]. It has parameters and may have running statistics, but uses no random numbers. Or a
      `Trainer` with such a module, which also sets the augmentation, the devices and the precision.
    data: The data set, such as one of `cscjax.data.make_dataset` or `load_dataset`. Its splits must fit
      in the memory of the device.
    epochs: Number of epochs, >= 1, or a `Plan`, which also says how often to evaluate and to write
      checkpoints. The examples are shuffled before each epoch.
    optimizer: Optimizer of the parameters, which must be elementwise, as those of optax usually are. The
      default is `optax.adam(1e-3)`. Must be None if `model` is a `Trainer`.
    batch_size: Number of examples of a step, >= 1, a multiple of the number of devices. The default is
      128. Must be None if `model` is a `Trainer`.
    key: Random key of the initial parameters, the order of the examples and their augmentation. The
      default is `jax.random.key(0)`.
    state: The state to start from, at any step, whose arrays are donated and cannot be used afterwards.
      By default training starts from the last checkpoint if there is one, else from new parameters. No
      checkpoint may be of a later step, because it would stay the last one.
    log: Where the metrics of each evaluation are appended. They are on disk before a checkpoint is
      written. By default they are only returned.
    checkpoints: Where checkpoints are written and restored from. By default there are none.
    progress: Whether to show the progress on stderr, as a bar if this is a terminal and tqdm is
      installed (extra `progress`), else as lines. Or an object that receives the progress after every
      compiled call.
    stopped: Called before every compiled call, and must return the same value in all processes. When it
      returns True, a checkpoint is written and training ends.
    seconds: Wall time that training up to `state` has taken, in seconds.

  Returns:
    An `Outcome`: the status, the last state, the wall time and the metrics. `outcome.variables` are the
    trained variables. The status is "diverged" if a loss or a parameter was not finite.

  Raises:
    ValueError: If an argument is out of range or of a wrong type, if `state` is older than the last
      checkpoint, if the module does not return one logit per class, if `batch_size` is larger than the
      training split, or if the plan has another number of steps per epoch than the training split.
    CheckpointError: If the last checkpoint does not fit the model.
    OSError: If a checkpoint or the metrics cannot be read or written.

  Example:
    >>> import numpy as np
    >>> from cscjax import data, models, training
    >>> labels = np.arange(50) % 2
    >>> images = np.repeat(np.uint8(255 * labels), 16).reshape(-1, 4, 4)  # black (0) or white (1)
    >>> dataset = data.make_dataset(images, labels)
    >>> model = models.MSDCSC(num_classes=2, depth=1, width=2)
    >>> outcome = training.fit(model, dataset, epochs=40, batch_size=20)
    >>> outcome.status, outcome.rows[-1]["split"], outcome.rows[-1]["accuracy"]
    ('ok', 'test', 1.0)
    >>> x = training.normalize(dataset.test.images[:4], dataset.mean, dataset.std)
    >>> bool((model.apply(outcome.variables, x).argmax(axis=1) == dataset.test.labels[:4]).all())
    True
  """
  if not isinstance(data, Dataset):
    checks.fail("data", type(data).__name__, "a data set, such as one of cscjax.data.make_dataset")
  trainer = _trainer(model, optimizer, batch_size)
  plan = _plan(epochs, data, trainer.batch_size)
  key = jax.random.key(0) if key is None else key
  checks.prng_key("key", key)
  parameter_key, training_key = jax.random.split(key)
  if state is None:
    state = trainer.create_state(data.example_shape, parameter_key)
    if checkpoints is not None and (restored := checkpoints.restore(state)):
      state, seconds = restored
  elif checkpoints is not None:
    last = process_max(max(checkpoints.steps(), default=-1))
    if last > int(state.step):
      expected = f"one of step {last}, the last checkpoint, or later; use another directory"
      checks.fail("state", f"a state of step {int(state.step)}", expected)
  if isinstance(model, nn.Module):
    _check_logits(model, state, data)
  log = MetricsLog(None) if log is None else log
  log.drop_after(int(state.step))
  with contextlib.ExitStack() as held:
    if isinstance(progress, bool):
      display = create_progress(int(state.step), plan.total_steps, shown=progress)
      progress = held.enter_context(contextlib.closing(display))
    return run_loop(
      trainer,
      plan,
      state,
      {split: Examples.of(data, split) for split in ("train", plan.split, "test")},
      training_key,
      log=log,
      checkpoints=checkpoints,
      progress=progress,
      stopped=stopped or (lambda: False),
      seconds=seconds,
    )


def _trainer(
  model: nn.Module | Trainer,
  optimizer: optax.GradientTransformation | None,
  batch_size: int | None,
) -> Trainer:
  """Returns the trainer of a module, or `model` itself if it is one."""
  if isinstance(model, nn.Module):
    optimizer = optax.adam(LEARNING_RATE) if optimizer is None else optimizer
    if not isinstance(optimizer, optax.GradientTransformation):
      checks.fail("optimizer", optimizer, "an Optax optimizer")
    batch_size = checks.positive_int("batch_size", BATCH_SIZE if batch_size is None else batch_size)
    return Trainer(model, optimizer, None, batch_size, mesh=create_mesh())
  if not hasattr(model, "create_state"):  # an object that wraps a Trainer will do
    checks.fail("model", type(model).__name__, "a Flax module (linen) or a Trainer")
  for name, value in (("optimizer", optimizer), ("batch_size", batch_size)):
    if value is not None:
      checks.fail(name, value, "None with a Trainer, which has its own")
  return model


def _plan(epochs: int | Plan, data: Dataset, batch_size: int) -> Plan:
  """Returns the plan of a number of epochs, or a given one after checking that it fits the data."""
  steps = len(data.train) // batch_size
  if steps == 0:
    checks.fail("batch_size", batch_size, f"at most {len(data.train)}, the training examples")
  if isinstance(epochs, Plan):
    if epochs.steps_per_epoch != steps:  # else the order of the examples would depend on the clock
      expected = f"a plan with steps_per_epoch={steps}, for {len(data.train)} training examples"
      checks.fail("epochs", epochs, expected)
    return epochs
  total = checks.positive_int("epochs", epochs) * steps
  return Plan(total, steps, "test" if data.validation is None else "validation")


def _check_logits(model: nn.Module, state: TrainState, data: Dataset) -> None:
  """Checks that a model returns one logit per class; a missing one would make the loss NaN."""
  variables = {"params": state.params, **state.variables}
  x = jax.ShapeDtypeStruct((1, *data.example_shape), jnp.float32)
  logits = jax.eval_shape(functools.partial(model.apply, train=False), variables, x)
  if getattr(logits, "shape", None) != (1, data.num_classes):
    expected = f"logits [N, {data.num_classes}] for images {[1, *data.example_shape]}"
    checks.fail("model", jax.tree.map(lambda leaf: leaf.shape, logits), expected)
