"""Compiled training steps and evaluation of a linear classifier whose gradient is known."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax import training
from cscjax.models import create_model


class Linear(nn.Module):
  """A linear classifier of flattened images."""

  @nn.compact
  def __call__(self, x, *, train=False):
    return nn.Dense(3, kernel_init=nn.initializers.zeros, name="dense")(x.reshape(x.shape[0], -1))


def one_hot_data(count):
  """Returns images e_i, so that row i of the kernel has a gradient only if image i is used."""
  images = np.eye(count, dtype=np.float32).reshape(count, count, 1)
  labels = (np.arange(count) % 3).astype(np.int32)
  return training.Examples(images, labels, np.zeros(1, np.float32), np.ones(1, np.float32))


def make(count, batch_size, learning_rate=0.1, model=None):
  schedule = training.step_schedule(learning_rate, [])
  optimizer = training.sgd(schedule, momentum=0.0)
  trainer = training.Trainer(model or Linear(), optimizer, schedule, batch_size)
  return trainer, trainer.create_state((count, 1), jax.random.key(0)), jax.jit(trainer.train_steps)


@pytest.mark.parametrize(("count", "left_over"), [(12, 0), (14, 2)])
def test_an_epoch_uses_each_example_once(count, left_over):
  _, state, train = make(count, 4)
  data = one_hot_data(count)
  untouched = []
  for _ in range(3):
    before = state.params["dense"]["kernel"]
    state = train(state, data, jax.random.key(1), np.int32(3))
    changed = np.any(state.params["dense"]["kernel"] != before, axis=1)
    assert changed.sum() == count - left_over
    untouched.append(tuple(np.flatnonzero(~changed)))
    assert float(state.metrics.count) == 12
  if left_over:
    assert len(set(untouched)) > 1  # another permutation in each epoch


def test_a_step_is_the_gradient_of_the_mean_cross_entropy():
  _, state, train = make(8, 8, learning_rate=0.5)
  data = one_hot_data(8)
  state = train(state, data, jax.random.key(1), np.int32(1))
  # The logits are 0 and the probabilities 1/3, so the gradient of row i is (1/3 - one_hot(label)) / 8.
  expected = -0.5 * (1 / 3 - np.eye(3)[data.labels]) / 8
  np.testing.assert_allclose(state.params["dense"]["kernel"], expected, atol=1e-7)
  np.testing.assert_allclose(state.metrics.means()["loss"], np.log(3), rtol=1e-6)


@pytest.mark.slow
def test_grouping_of_steps_does_not_matter():
  model = create_model("msd_csc", num_classes=3, depth=2, width=3, unfolding=1)
  schedule = training.step_schedule(0.1, [])
  optimizer = training.sgd(schedule, momentum=0.9)
  trainer = training.Trainer(model, optimizer, schedule, 4, shift=1, flip=True)
  start = trainer.create_state((6, 6, 1), jax.random.key(0))
  rng = np.random.default_rng(0)
  data = training.Examples(
    rng.integers(0, 255, (26, 6, 6, 1), dtype=np.uint8),
    rng.integers(0, 3, 26).astype(np.int32),
    np.float32([0.5]),
    np.float32([0.3]),
  )
  train = jax.jit(trainer.train_steps)
  results = []
  for groups in ([6, 6], [1, 2, 3, 5, 1]):
    state = start
    for count in groups:
      state = train(state, data, jax.random.key(1), np.int32(count))
    results.append(state)
  chex.assert_trees_all_equal(*results)
  assert int(results[0].step) == 12
  assert not np.array_equal(results[0].params["layer_0"]["filters"], start.params["layer_0"]["filters"])


def test_evaluation_counts_the_last_partial_batch_once():
  trainer, state, _ = make(10, 4)
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(10, 3)).astype(np.float32)
  state = state.replace(params={"dense": {"kernel": kernel, "bias": np.zeros(3, np.float32)}})
  images = rng.normal(size=(11, 10, 1)).astype(np.float32)
  labels = rng.integers(0, 3, 11).astype(np.int32)
  data = training.Examples(images, labels, np.zeros(1, np.float32), np.ones(1, np.float32))
  evaluate = trainer.evaluate
  sums = evaluate(state, data, training.EpochMetrics.zero(), np.int32(0), np.int32(2))
  sums = evaluate(state, data, sums, np.int32(2), np.int32(1))
  logits = images[..., 0].astype(np.float64) @ kernel
  losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(11), labels]
  assert float(sums.count) == 11
  np.testing.assert_allclose(sums.means()["loss"], losses.mean(), rtol=1e-5)
  np.testing.assert_allclose(sums.means()["accuracy"], np.mean(logits.argmax(1) == labels), rtol=1e-6)


def test_the_first_loss_that_is_not_finite_is_named():
  _, state, train = make(12, 4, learning_rate=1e30)
  data = one_hot_data(12)
  images = data.images.copy()
  images[:] = 1e30
  state = train(state, data._replace(images=images), jax.random.key(1), np.int32(3))
  assert int(state.bad_step) == 0  # the loss is finite (log 3), but the new parameters are not


def test_metrics_restart_with_the_epoch():
  _, state, train = make(12, 4)
  data, key = one_hot_data(12), jax.random.key(1)
  state = train(state, data, key, np.int32(3))
  assert float(state.metrics.count) == 12
  state = train(state, data, key, np.int32(1))
  assert float(state.metrics.count) == 4
  assert jnp.isfinite(state.metrics.loss)
