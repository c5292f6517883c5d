"""Packing of the arrays of a state, and training steps on packed against unpacked arrays."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cscjax import training
from cscjax.models import create_model
from cscjax.training._packing import Packing

PARAMS = {
  "stage": {"filters_1": np.arange(12.0, dtype=np.float32).reshape(2, 3, 2), "bias": np.float32([1, 2])},
  "head": {"kernel": np.float32([[3, 4]]), "step": np.float32(5), "half": np.float16([6])},
}


def test_arrays_are_packed_by_type_and_decay():
  packed = Packing(PARAMS).pack(PARAMS)
  expected = {
    "kernel_float32": np.float32([3, 4, *range(12)]),
    "rest_float32": np.float32([5, 1, 2]),
    "rest_float16": np.float16([6]),
  }
  chex.assert_trees_all_equal(jax.device_get(packed), expected)


def test_subtrees_of_a_state_come_back():
  """The momentum in an optimizer's state is packed, and its step count is not."""
  packing = Packing(PARAMS)
  params = jax.tree.map(jnp.asarray, PARAMS)
  state = (params, optax.adam(0.1).init(params), {"other": jnp.arange(3)})
  packed = packing.pack(state)
  assert len(jax.tree.leaves(packed)) == 3 + (1 + 3 + 3) + 1
  chex.assert_trees_all_equal(packing.unpack(packed), state)
  chex.assert_trees_all_equal(Packing({}).unpack(Packing({}).pack({})), {})


def _reference_step(model, optimizer, state, images, labels):
  """Performs a step without packing."""

  def loss_fn(params):
    logits, updates = model.apply(
      {"params": params, **state.variables}, images, train=True, mutable=list(state.variables)
    )
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

  (loss, variables), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return state.replace(params=params, variables=variables, opt_state=opt_state), loss


class Averaged(nn.Module):
  """A model without weight decay that keeps a mean, and an average of its parameters beside them."""

  @nn.compact
  def __call__(self, x, *, train=False):
    """Returns the logits [N, 3]."""
    x = x.reshape(len(x), -1)
    mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[1:])
    weights = self.param("weights", nn.initializers.normal(), (x.shape[1], 3))
    average = self.variable("average", "weights", lambda: weights)
    if train and not self.is_initializing():
      mean.value = 0.9 * mean.value + 0.1 * x.mean(axis=0)
      average.value = 0.9 * average.value + 0.1 * weights
    return jnp.dot(x - jax.lax.stop_gradient(mean.value)[None], weights)


MODELS = {
  "with batch norm": lambda: create_model("msd_csc", num_classes=3, depth=2, width=2),
  "without": lambda: create_model("msd_csc", num_classes=3, depth=2, width=2, norm=False),
  "whose variables look like the parameters": Averaged,
}


@pytest.mark.parametrize(
  "model", [pytest.param(name, marks=[pytest.mark.slow] * (name == "without")) for name in MODELS]
)
def test_steps_are_those_on_the_arrays(model):
  """Uses weight decay, momentum and a falling learning rate."""
  model = MODELS[model]()
  schedule = training.step_schedule(0.05, [2])
  optimizer = training.sgd(schedule, momentum=0.9, nesterov=True, weight_decay=0.1)
  trainer = training.Trainer(model, optimizer, schedule, 6)
  start = trainer.create_state((4, 4, 1), jax.random.key(0))
  rng = np.random.default_rng(0)
  images, labels = rng.normal(size=(6, 4, 4, 1)).astype(np.float32), np.arange(6, dtype=np.int32) % 3
  data = training.Examples(images, labels, np.zeros(1, np.float32), np.ones(1, np.float32))
  train = jax.jit(trainer.train_steps)
  reference = jax.jit(partial(_reference_step, model, optimizer))
  state, expected = start, start
  for _ in range(4):  # an epoch of one batch each
    state = train(state, data, jax.random.key(1), np.int32(1))
    expected, loss = reference(expected, images, labels)
    np.testing.assert_allclose(state.metrics.means()["loss"], loss, rtol=1e-5)
  for name in ("params", "variables", "opt_state"):
    found = getattr(state, name)
    chex.assert_trees_all_close(found, getattr(expected, name), rtol=1e-4, atol=1e-6)
    assert jax.tree.structure(found) == jax.tree.structure(getattr(start, name))


def test_any_parameter_that_is_not_finite_is_found():
  """A single value of any array is found, even if the loss is finite."""
  model = create_model("msd_csc", num_classes=3, depth=1, width=2, unfolding=1)
  schedule = training.step_schedule(1e-3, [])
  trainer = training.Trainer(model, training.sgd(schedule, weight_decay=1e-4), schedule, 4)
  start = trainer.create_state((4, 4, 1), jax.random.key(0))
  images = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype(np.float32)
  data = training.Examples(
    images, np.int32([0, 1, 2, 0]), np.zeros(1, np.float32), np.ones(1, np.float32)
  )
  train = jax.jit(trainer.train_steps)
  assert int(train(start, data, jax.random.key(1), np.int32(2)).bad_step) == -1
  leaves, structure = jax.tree.flatten(start.opt_state)
  for index, leaf in enumerate(leaves):
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      momentum = jnp.ravel(leaf).at[-1].set(jnp.inf).reshape(leaf.shape)
      opt_state = structure.unflatten([*leaves[:index], momentum, *leaves[index + 1 :]])
      state = train(start.replace(opt_state=opt_state), data, jax.random.key(1), np.int32(1))
      assert np.isfinite(state.metrics.loss)
      assert int(state.bad_step) == 0, index
