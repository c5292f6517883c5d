"""Builds the parts of a run (network, optimizer, plan, initial state) from its configuration."""

import dataclasses
import math
import os
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cscjax import training
from cscjax.data import Dataset
from cscjax.models import create_model, model_fields
from cscjax.runs._config import DEFAULT, KEYS, Config, RunError, network_fields
from cscjax.runs._fields import INT32

UNROLLED = 9
"""Largest number of blocks in a stage that a GPU runs without a loop over them (56 layers)."""
BLOCKS_PER_ITERATION = 3
"""Blocks per iteration of the loop over more blocks: 218 layers then compile in less than twice the time
of 20."""


def build(
  config: Config, model: nn.Module, dataset: Dataset, mesh: jax.sharding.Mesh | None = None
) -> tuple[training.Trainer, training.Plan]:
  """Builds the trainer and the plan of a run, without any computation.

  Args:
    config: The configuration of the run.
    model: Its network, from `make_model`.
    dataset: Its data set, from `cscjax.data.load_dataset`.
    mesh: The devices that share each batch, from `training.create_mesh`. None for a single device.

  Returns:
    The trainer, which defines a training step, and the plan, which says when the run evaluates and ends.

  Raises:
    RunError: If the batch is larger than the training set or cannot be split equally among the devices,
      or if one of the configured epochs lies beyond step 2^31 - 1.

  Example:
    >>> from cscjax import data, runs
    >>> config = runs.Config(model="msdnet", dataset="digits", batch_size=64, epochs=2)
    >>> dataset = data.load_dataset("digits")
    >>> trainer, plan = runs.build(config, runs.make_model(config, dataset.num_classes), dataset)
    >>> trainer.batch_size, plan.steps_per_epoch, plan.total_steps
    (64, 22, 44)
  """
  plan = make_plan(config, dataset)
  schedule, optimizer = make_optimizer(config, plan.steps_per_epoch)
  try:
    trainer = training.Trainer(
      model=model,
      optimizer=optimizer,
      schedule=schedule,
      batch_size=config.batch_size,
      shift=config.shift,
      flip=config.flip,
      mesh=mesh,
      parallel=config.parallel,
      matmul_precision=None if config.matmul_precision == DEFAULT else config.matmul_precision,
    )
  except ValueError as error:
    raise RunError.from_check(error) from error
  return trainer, plan


def start(
  config: Config, dataset: Dataset, trainer: training.Trainer
) -> tuple[training.TrainState, jax.Array]:
  """Returns the state and the random key with which `training.fit` starts a new run.

  Both follow from `config.seed`. The parameters are random, also with `config.init_from`; `execute`
  replaces them.

  Args:
    config: The configuration of the run.
    dataset: Its data set.
    trainer: Its trainer, from `build`.

  Returns:
    The state at step 0, on one device, and the random key of the run.

  Example:
    >>> from cscjax import data, runs
    >>> config = runs.Config(model="msdnet", dataset="digits", depth=1, width=4)
    >>> dataset = data.load_dataset("digits")
    >>> trainer, plan = runs.build(config, runs.make_model(config, dataset.num_classes), dataset)
    >>> state, key = runs.start(config, dataset, trainer)
    >>> int(state.step), sorted(state.params)
    (0, ['classifier', 'layer_0'])
  """
  key = jax.random.key(config.seed, impl=KEYS)
  return trainer.create_state(dataset.example_shape, jax.random.split(key)[0]), key  # as in `fit`


def automatic_fields(model: str, depth: int | None, platform: str) -> dict[str, Any]:
  """Returns the fields of a network whose best values on a device differ from the network's defaults.

  The defaults suit a CPU, where unrolled blocks are not faster than a loop and take more memory, and
  zero channels cost time. On a GPU, each iteration of a loop launches kernels that only move data and
  interrupts CUDA graphs; there is enough memory to store what the gradient needs; and cuDNN pads the
  channels of each convolution anew unless their number is a multiple of 8.

  Args:
    model: Name of the network, a key of `cscjax.models.MODELS`.
    depth: Depth of the network; None for its default.
    platform: Platform of the device, as `jax.default_backend()` returns it.

  Returns:
    Some of "remat", "unroll" and "channel_multiple" with their values; empty unless the platform is
    "gpu".

  Raises:
    ValueError: If `model` is unknown.

  Example:
    >>> from cscjax import runs
    >>> runs.automatic_fields("res_csc", 20, "gpu")
    {'remat': 'none', 'unroll': 3}
    >>> runs.automatic_fields("res_csc", 20, "cpu")
    {}
  """
  known = model_fields(model)
  if platform != "gpu":
    return {}
  blocks = max(1, ((depth or known.get("depth", 0)) - 2) // 6)
  unroll = blocks if blocks <= UNROLLED else BLOCKS_PER_ITERATION
  chosen = {"remat": "none", "unroll": unroll, "channel_multiple": 8}
  return {name: value for name, value in chosen.items() if name in known}


def for_device(config: Config, platform: str) -> Config:
  """Returns a configuration in which the fields left to the device are set.

  A field that `config` sets stays as it is.

  Args:
    config: The configuration.
    platform: Platform of the device, as `jax.default_backend()` returns it.

  Returns:
    A copy of `config` with the values of `automatic_fields`.

  Example:
    >>> from cscjax import runs
    >>> config = runs.Config(model="msd_csc", channel_multiple=4)
    >>> chosen = runs.for_device(config, "gpu")
    >>> chosen.remat, chosen.channel_multiple
    ('none', 4)
  """
  given = network_fields(config)
  chosen = automatic_fields(config.model, config.depth, platform)
  return dataclasses.replace(config, **{k: v for k, v in chosen.items() if k not in given})


def make_model(config: Config, num_classes: int) -> nn.Module:
  """Creates the network of a configuration.

  Args:
    config: The configuration. Fields of the network that are None, or "auto" for `remat`, take the
      defaults of the network; see `for_device` for values that suit a GPU.
    num_classes: Number of classes of the data set, >= 1.

  Returns:
    The Flax module, without parameters.

  Raises:
    RunError: If the network does not have a field that is set, or a value does not fit it.

  Example:
    >>> from cscjax import runs
    >>> model = runs.make_model(runs.Config(model="res_csc", depth=56), num_classes=10)
    >>> type(model).__name__, model.depth, model.width
    ('ResCSC', 56, 16)
  """
  try:
    return create_model(
      config.model,
      num_classes=num_classes,
      dtype=jnp.dtype(config.precision),
      **network_fields(config),
    )
  except ValueError as error:
    raise RunError.from_check(error) from error


def make_optimizer(
  config: Config, steps_per_epoch: int
) -> tuple[optax.Schedule, optax.GradientTransformation]:
  """Returns the learning rate schedule of a run, and SGD with this schedule."""
  schedule = training.step_schedule(
    config.learning_rate,
    [epoch * steps_per_epoch for epoch in config.decay_epochs],
    factor=config.decay_factor,
    warmup_steps=round(config.warmup_epochs * steps_per_epoch),
  )
  optimizer = training.sgd(
    schedule,
    momentum=config.momentum,
    nesterov=config.nesterov,
    weight_decay=config.weight_decay,
  )
  return schedule, optimizer


def make_plan(config: Config, dataset: Dataset) -> training.Plan:
  """Returns the plan of a run: when it evaluates, saves checkpoints and ends.

  Args:
    config: The configuration of the run.
    dataset: Its data set.

  Returns:
    The plan, in steps. It evaluates on the validation split if the data set has one, and otherwise on
    the test split.

  Raises:
    RunError: If the batch is larger than the training set, one of the configured epochs lies beyond step
      2^31 - 1, or `config.keep_best` is set without a validation split.

  Example:
    >>> from cscjax import data, runs
    >>> config = runs.Config(dataset="digits", batch_size=64, epochs=3, max_steps=50)
    >>> plan = runs.make_plan(config, data.load_dataset("digits"))
    >>> plan.steps_per_epoch, plan.total_steps, plan.split
    (22, 50, 'test')
  """
  steps_per_epoch = len(dataset.train) // config.batch_size
  if steps_per_epoch == 0:
    expected = f"at most {len(dataset.train)}, the number of training examples"
    raise RunError(f"expected {expected}, got {config.batch_size}", "batch_size")
  steps = config.epochs * steps_per_epoch
  total_steps = steps if config.max_steps is None else min(steps, config.max_steps)
  ends = {"epochs": total_steps / steps_per_epoch, "warmup_epochs": config.warmup_epochs}
  for name, epochs in {**ends, "decay_epochs": max(config.decay_epochs, default=0)}.items():
    if epochs * steps_per_epoch > INT32:
      most = f"at most {INT32 // steps_per_epoch} epochs of {steps_per_epoch} steps"
      raise RunError(f"expected {most}, got {epochs:.10g}", name)
  try:
    return training.Plan(
      total_steps=total_steps,
      steps_per_epoch=steps_per_epoch,
      split="test" if dataset.validation is None else "validation",
      evaluate_epochs=config.evaluate_epochs,
      checkpoint_seconds=config.checkpoint_seconds,
      dispatch_seconds=config.dispatch_seconds,
      keep_best=config.keep_best,
    )
  except ValueError as error:
    raise RunError.from_check(error) from error


def check_network(config: Config, model: nn.Module, dataset: Dataset) -> None:
  """Traces the network on an example of the data set to find errors before any parameters are allocated.

  Raises:
    RunError: If the network does not accept such examples, or its parameters with their gradient and
      momentum do not fit in the memory of the device.
  """
  example = jax.ShapeDtypeStruct((1, *dataset.example_shape), jnp.float32)
  try:
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), example)["params"]
  except ValueError as error:
    raise RunError(f"{config.model} cannot be used with {config.dataset} ({error})", "model") from error
  needed, memory = 3 * 4 * training.parameter_count(params), device_memory()
  if needed > memory:
    raise RunError(
      "expected a width and depth whose parameters, gradient and momentum fit in the"
      f" {memory / 2**30:,.1f} GiB of device memory, got {needed / 2**30:,.1f} GiB",
      "width",
    )


def device_memory() -> int:
  """Returns the memory of the first device in bytes; for a CPU, that of the machine."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if limit := stats.get("bytes_limit"):
    return limit
  if not hasattr(os, "sysconf"):
    return sys.maxsize  # unknown, as on Windows
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def chance_accuracy(labels: np.ndarray) -> float:
  """Returns the accuracy below which a network has learned nothing.

  It is that of always predicting the most frequent class, plus three standard errors. For a small test
  set these can exceed 1, so the sum is at most halfway from that accuracy to 1.
  """
  fraction = float(np.max(np.bincount(labels)) / len(labels))
  return fraction + min(3 * math.sqrt(fraction * (1 - fraction) / len(labels)), (1 - fraction) / 2)
