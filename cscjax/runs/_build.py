"""From a configuration to what a run is made of: the one place where data meet models."""

import dataclasses
import math
import os
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cscjax import training
from cscjax.data import Dataset
from cscjax.models import create_model, model_fields
from cscjax.runs._config import DEFAULT, INT32, KEYS, Config, RunError, network_fields

UNROLLED = 9
"""Blocks of a stage up to which a GPU gets no loop over them: up to 56 layers."""
TURN = 3
"""Blocks in a turn of the loop over more: 218 layers compile in less than twice the time of 20."""


def build(
  config: Config, dataset: Dataset, mesh: jax.sharding.Mesh | None = None
) -> tuple[training.Trainer, training.Plan]:
  """Returns what a step of a run is, and when what happens in it. Computes nothing.

  Args:
    config: The configuration.
    dataset: Its data.
    mesh: The devices, from `training.create_mesh`; None for one device.

  Raises:
    RunError: If the batch does not fit the data set or the devices, or a field the model.
  """
  config = for_device(config, jax.default_backend())
  plan = make_plan(config, dataset)
  return make_trainer(config, dataset.num_classes, plan.steps_per_epoch, mesh), plan


def start(
  config: Config, dataset: Dataset, trainer: training.Trainer, plan: training.Plan
) -> tuple[training.TrainState, dict[str, training.Examples], jax.Array]:
  """Returns the state at step 0, the splits and the random key, with which `training.fit` begins."""
  parameter_key, training_key = jax.random.split(jax.random.key(config.seed, impl=KEYS))
  splits = {"train": dataset.train, plan.split: getattr(dataset, plan.split), "test": dataset.test}
  data = {
    name: training.Examples(split.images, split.labels, dataset.mean, dataset.std)
    for name, split in splits.items()
  }
  return trainer.create_state(dataset.example_shape, parameter_key), data, training_key


def automatic_fields(model: str, depth: int | None, platform: str) -> dict[str, Any]:
  """Returns the values of fields of a network for which its own defaults are not the best ones.

  The defaults suit a CPU: there, blocks that are written out take as long as a loop over them, and more
  memory; channels of zeros cost time. On a GPU a loop costs kernels that only move data, and each turn
  cuts its CUDA graphs; memory suffices to keep what the gradient needs; and cuDNN pads channels itself,
  for each convolution anew, if they are no multiple of 8.

  Args:
    model: A key of `MODELS`.
    depth: The network's; None stands for its default.
    platform: Of the device, as `jax.default_backend()` names it.
  """
  known = model_fields(model)
  if platform != "gpu":
    return {}
  blocks = max(1, ((depth or known.get("depth", 0)) - 2) // 6)
  unroll = blocks if blocks <= UNROLLED else TURN
  chosen = {"remat": "none", "unroll": unroll, "channel_multiple": 8}
  return {name: value for name, value in chosen.items() if name in known}


def for_device(config: Config, platform: str) -> Config:
  """The configuration with those fields of the network chosen that are left to the device."""
  given = network_fields(config)
  chosen = automatic_fields(config.model, config.depth, platform)
  return dataclasses.replace(config, **{k: v for k, v in chosen.items() if k not in given})


def make_model(config: Config, num_classes: int) -> nn.Module:
  """The configured network. RunError where a field does not fit it."""
  try:
    return create_model(
      config.model,
      num_classes=num_classes,
      dtype=jnp.dtype(config.precision),
      **network_fields(config),
    )
  except ValueError as error:
    raise RunError.from_check(error) from error


def make_trainer(
  config: Config, num_classes: int, steps_per_epoch: int, mesh: jax.sharding.Mesh | None = None
) -> training.Trainer:
  """The configured step, by SGD. RunError where the devices cannot share a batch, or as `make_model`."""
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
  model = make_model(config, num_classes)
  try:
    return training.Trainer(
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


def make_plan(config: Config, dataset: Dataset) -> training.Plan:
  """When the run evaluates and ends.

  Raises:
    RunError: If the batch does not fit the data set, or a step is above 2^31 - 1.
  """
  steps_per_epoch = len(dataset.train) // config.batch_size
  if steps_per_epoch == 0:
    examples = f"at most the {len(dataset.train)} training examples"
    raise RunError(f"expected {examples}, got {config.batch_size}", "batch_size")
  steps = config.epochs * steps_per_epoch
  total_steps = steps if config.max_steps is None else min(steps, config.max_steps)
  ends = {"epochs": total_steps / steps_per_epoch, "warmup_epochs": config.warmup_epochs}
  for name, epochs in {**ends, "decay_epochs": max(config.decay_epochs, default=0)}.items():
    if epochs * steps_per_epoch > INT32:
      most = f"at most {INT32 // steps_per_epoch} epochs of {steps_per_epoch} steps"
      raise RunError(f"expected {most}, got {epochs:.10g}", name)
  return training.Plan(
    total_steps=total_steps,
    steps_per_epoch=steps_per_epoch,
    split="test" if dataset.validation is None else "validation",
    evaluate_epochs=config.evaluate_epochs,
    checkpoint_seconds=config.checkpoint_seconds,
    dispatch_seconds=config.dispatch_seconds,
  )


def check_network(config: Config, dataset: Dataset, model: nn.Module) -> None:
  """Traces the network on an example of the data set, so that a bad one is refused before it is made.

  Raises:
    RunError: If it does not take such examples, or its parameters with their gradient and momentum do
      not fit in the memory of the device.
  """
  example = jax.ShapeDtypeStruct((1, *dataset.example_shape), jnp.float32)
  try:
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), example)["params"]
  except ValueError as error:
    raise RunError(f"{config.model} does not fit {config.dataset} ({error})", "model") from error
  needed, memory = 3 * 4 * training.parameter_count(params), device_memory()
  if needed > memory:
    raise RunError(
      "expected, with the depth, a network whose parameters, gradient and momentum fit in the"
      f" {memory / 2**30:,.1f} GiB of the device, got one of {needed / 2**30:,.1f} GiB",
      "width",
    )


def device_memory() -> int:
  """Bytes of the first device; those of the machine where the device is its CPU."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if limit := stats.get("bytes_limit"):
    return limit
  if not hasattr(os, "sysconf"):
    return sys.maxsize  # Windows does not tell
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def chance_accuracy(labels: np.ndarray) -> float:
  """What always answering the most frequent class gives, and three standard errors above it."""
  share = float(np.max(np.bincount(labels)) / len(labels))
  return share + 3 * math.sqrt(share * (1 - share) / len(labels))
