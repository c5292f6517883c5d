"""Training steps and evaluation as pure functions, many steps a call."""

from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from cscjax.training._augment import augment, normalize
from cscjax.training._packing import Packing
from cscjax.training._state import EpochMetrics, TrainState


class DeviceData(NamedTuple):
  """A labelled split on the device, with what normalises it.

  Attributes:
    images: uint8 [N, H, W, C], or float32 [N, L, C].
    labels: int32 [N].
    mean: float32 [C].
    std: float32 [C].
  """

  images: jax.Array
  labels: jax.Array
  mean: jax.Array
  std: jax.Array


class Recipe(struct.PyTreeNode):
  """What is fixed in a compiled training step.

  Attributes:
    model: Called as model(x, train=...).
    optimizer: Of the parameters, which it gets packed (see `Packing`): it has to be elementwise.
    batch_size: Examples a step, over all devices.
    shift: See `augment`.
    flip: See `augment`.
    axis_name: Mapped axis over whose devices a batch is split; None for one device.
  """

  model: nn.Module = struct.field(pytree_node=False)
  optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
  batch_size: int = struct.field(pytree_node=False)
  shift: int = struct.field(pytree_node=False, default=0)
  flip: bool = struct.field(pytree_node=False, default=False)
  axis_name: str | None = struct.field(pytree_node=False, default=None)


def train_steps(
  recipe: Recipe, state: TrainState, data: DeviceData, key: jax.Array, count: jax.Array
) -> TrainState:
  """`count` steps of one epoch.

  The epoch's order is a permutation drawn from (key, epoch), each step's augmentation from (key, step),
  so that a run depends neither on how its steps are grouped into calls nor on the number of devices.
  An epoch has N // batch_size steps; the examples left over differ from epoch to epoch.

  Args:
    recipe: What is fixed.
    state: At any step; the steps asked for must not cross the end of its epoch.
    data: All of the training split.
    key: Of the run.
    count: int32, a traced value, so that one program serves every count.

  Returns:
    The state `count` steps later. Metrics restart with the first step of an epoch.
  """
  chex.assert_equal_shape_prefix((data.images, data.labels), 1)
  steps_per_epoch = data.labels.shape[0] // recipe.batch_size
  shuffle_key, augment_key = jax.random.split(key)
  epoch_key = jax.random.fold_in(shuffle_key, state.step // steps_per_epoch)
  order = jax.random.permutation(epoch_key, data.labels.shape[0])

  packings = Packing(state.params), Packing(state.variables)
  for packing in packings:
    state = packing.pack(state)

  def body(_, state):
    position = state.step % steps_per_epoch
    batch = lax.dynamic_slice_in_dim(order, position * recipe.batch_size, recipe.batch_size)
    fresh = jax.tree.map(lambda m: jnp.where(position == 0, 0, m), state.metrics)
    step_key = jax.random.fold_in(augment_key, state.step)
    return _train_step(recipe, packings, state.replace(metrics=fresh), data, batch, step_key)

  state = lax.fori_loop(0, count, body, state)
  for packing in packings:
    state = packing.unpack(state)
  return state


def evaluate_batches(
  recipe: Recipe,
  state: TrainState,
  data: DeviceData,
  sums: EpochMetrics,
  first: jax.Array,
  count: jax.Array,
) -> EpochMetrics:
  """Adds batches first ... first + count - 1 of a split, in its order and without augmentation.

  The last, partial batch counts each of its examples once.

  Args:
    recipe: What is fixed.
    state: Whose parameters and running statistics are used.
    data: All of the split.
    sums: Over the batches before, so that the result does not depend on how they are grouped.
    first: int32, traced.
    count: int32, traced.
  """
  chex.assert_equal_shape_prefix((data.images, data.labels), 1)
  total = data.labels.shape[0]

  def body(i, metrics):
    indices = _local((first + i) * recipe.batch_size + jnp.arange(recipe.batch_size), recipe)
    images, labels = data.images[indices % total], data.labels[indices % total]
    variables = {"params": state.params, **state.variables}
    logits = recipe.model.apply(variables, normalize(images, data.mean, data.std), train=False)
    return _add(metrics, _sums(recipe, logits, labels, indices < total))

  return lax.fori_loop(0, count, body, sums)


def _train_step(recipe, packings, state, data, batch, key):
  """One step of a packed state."""
  of_params, of_variables = packings
  batch, keys = _local((batch, jax.random.split(key, recipe.batch_size)), recipe)
  labels = data.labels[batch]
  images = augment(data.images[batch], keys, shift=recipe.shift, flip=recipe.flip)
  images = normalize(images, data.mean, data.std)

  def loss_fn(params):
    variables = of_variables.unpack(state.variables)
    logits, updates = recipe.model.apply(
      {"params": of_params.unpack(params), **variables}, images, train=True, mutable=list(variables)
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses), (logits, of_variables.pack(updates))

  (loss, (logits, variables)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
  metrics = _sums(recipe, logits, labels, jnp.ones(labels.shape, bool))
  if recipe.axis_name:
    # The state is the same on every device: running statistics of their own are averaged too.
    loss, grads, variables = lax.pmean((loss, grads, variables), recipe.axis_name)
  updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  # A loss that is finite can have a gradient that is not.
  is_finite = jnp.isfinite(loss + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)))
  is_first_bad = (state.bad_step < 0) & ~is_finite
  return TrainState(
    step=state.step + 1,
    params=params,
    variables=variables,
    opt_state=opt_state,
    metrics=_add(state.metrics, metrics),
    bad_step=jnp.where(is_first_bad, state.step, state.bad_step),
  )


def _local(tree: Any, recipe: Recipe) -> Any:
  """This device's part of a batch."""
  if recipe.axis_name is None:
    return tree
  size = recipe.batch_size // lax.axis_size(recipe.axis_name)
  start = lax.axis_index(recipe.axis_name) * size
  return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), tree)


def _sums(recipe, logits, labels, counted) -> EpochMetrics:
  """Sums over a batch, over all devices."""
  chex.assert_shape((labels, counted), logits.shape[:1])
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  answered = ~jnp.any(jnp.isnan(logits), axis=-1)  # argmax takes a NaN for the largest
  correct = counted & answered & (jnp.argmax(logits, axis=-1) == labels)
  sums = EpochMetrics(
    *(jnp.sum(v, dtype=jnp.float32) for v in (jnp.where(counted, losses, 0), correct, counted))
  )
  return lax.psum(sums, recipe.axis_name) if recipe.axis_name else sums


def _add(left, right):
  return jax.tree.map(jnp.add, left, right)
