"""The suite `loop` with a fake trainer and a fake clock, so that the result is known."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

import cscjax.training._loop
from cscjax import training
from cscjax.runs import Config, make_plan
from experiments.benchmarks import loop

TRAINING, EVALUATION, CHECKPOINT = 0.6, 0.1, 0.35  # seconds per epoch, per epoch and per checkpoint


def test_time_outside_of_device_calls_counts_for_the_host(monkeypatch):
  now = 0.0

  def spend(seconds):
    nonlocal now
    now += seconds

  def train(state, data, key, count):
    spend(TRAINING / 4 * count)
    return state.replace(step=jnp.int32(state.step + count))

  def evaluate(state, data, sums, first, count):
    spend(EVALUATION * count)
    return sums

  def create_state(shape, key):
    zero = jnp.zeros((), jnp.int32)
    return training.TrainState(zero, {}, {}, {}, training.EpochMetrics.zero(), zero - 1)

  def build(config, model, dataset):
    trainer = types.SimpleNamespace(
      batch_size=config.batch_size,
      schedule=lambda step: np.float32(0.1),
      create_state=create_state,
      put=lambda tree: tree,
      train=train,
      evaluate=evaluate,
    )
    return trainer, make_plan(config, dataset)

  clock = types.SimpleNamespace(perf_counter=lambda: now)
  for module in (loop, cscjax.training._loop):
    monkeypatch.setattr(module, "time", clock)
  monkeypatch.setattr(loop, "build", build)
  monkeypatch.setattr(training.Checkpoints, "save", lambda *_, **__: spend(CHECKPOINT))
  config = Config(model="msdnet", dataset="cifar10", batch_size=8, epochs=61)
  row = loop.measure(config, loop.random_images(32))
  assert (row["epochs"], row["checkpoints"]) == (60, 3)  # after the first epoch, then every 17.5 s
  seconds = 60 * (TRAINING + EVALUATION) + 3 * CHECKPOINT
  assert row["epoch_seconds"] == pytest.approx(seconds / 60)
  assert row["host_fraction"] == pytest.approx(3 * CHECKPOINT / seconds)
