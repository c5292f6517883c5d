"""Training steps and evaluation, many steps in one call of the device."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from cscjax import checks
from cscjax.training._augment import augment, normalize
from cscjax.training._devices import AXIS, compiler_options, over_mesh
from cscjax.training._packing import Packing
from cscjax.training._state import EpochMetrics, TrainState

MODES = ("auto", "jit", "pmap")


class Examples(NamedTuple):
  """A labelled split of a data set, in host memory or on the devices, and what normalizes it.

  Attributes:
    images: uint8 [N, H, W, C], or float32 [N, L, C].
    labels: int32 [N].
    mean: float32 [C].
    std: float32 [C].
  """

  images: jax.Array | np.ndarray
  labels: jax.Array | np.ndarray
  mean: jax.Array | np.ndarray
  std: jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Trainer:
  """What a training step is. Its programs, `train` and `evaluate`, are compiled when first called.

  Attributes:
    model: Called as model(x, train=...).
    optimizer: Optimizer of the parameters. It must be elementwise, because it receives them packed into
      a few vectors (see `Packing`).
    schedule: Learning rate of each step, as the metrics report it.
    batch_size: Examples in a step, over all devices.
    shift: See `augment`.
    flip: See `augment`.
    mesh: The devices that share each batch, from `create_mesh`; None for one device.
    parallel: How the devices of the mesh share a batch. "jit" (or "auto") compiles one program for all
      of them, so that the statistics of batch norm and the gradients are those of the whole batch.
      "pmap" runs the step on each device with its part of the batch: batch norm uses the statistics of
      this part, and the gradients and the running statistics are averaged over the devices.
    matmul_precision: Precision of float32 products and convolutions, as for
      `jax.default_matmul_precision`; None for the setting of JAX.

  Raises:
    ValueError: If the mode is unknown, or the devices cannot share the batch equally.
  """

  model: nn.Module
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  batch_size: int
  shift: int = 0
  flip: bool = False
  mesh: Mesh | None = None
  parallel: str = "jit"
  matmul_precision: str | None = None

  def __post_init__(self):
    checks.one_of("parallel", self.parallel, MODES)
    if self.mesh is not None and self.batch_size % self.mesh.size:
      checks.fail("batch_size", self.batch_size, f"a multiple of {self.mesh.size} devices")

  def create_state(self, example_shape: tuple[int, ...], key: jax.Array) -> TrainState:
    """Returns the state at step 0, on one device.

    Args:
      example_shape: Shape of one example, [H, W, C] or [L, C].
      key: Random key of the parameters.
    """
    variables = jax.jit(self.model.init)(key, jnp.zeros((1, *example_shape), jnp.float32))
    params = variables.pop("params")
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      variables=variables,
      opt_state=jax.jit(self.optimizer.init)(params),
      metrics=EpochMetrics.zero(),
      bad_step=jnp.full((), -1, jnp.int32),
    )

  def put(self, tree: Any) -> Any:
    """Returns the tree with every array on each device, as `train` and `evaluate` take them."""
    return jax.device_put(tree, over_mesh(self.mesh))

  @functools.cached_property
  def train(self) -> Callable[..., TrainState]:
    """`train_steps`, compiled; it takes over the memory of the state."""
    return self._compiled(self.train_steps, donate=0)

  @functools.cached_property
  def evaluate(self) -> Callable[..., EpochMetrics]:
    """`evaluate_batches`, compiled; it takes over the memory of the sums."""
    return self._compiled(self.evaluate_batches, donate=2)

  def train_steps(
    self, state: TrainState, data: Examples, key: jax.Array, count: jax.Array
  ) -> TrainState:
    """`count` steps of one epoch.

    The epoch's order is a permutation drawn from (key, epoch), each step's augmentation from (key,
    step), so that a run depends neither on how its steps are grouped into calls nor on the number of
    devices. An epoch has N // batch_size steps; the examples left over differ from epoch to epoch.

    Args:
      state: At any step; the steps asked for must not cross the end of its epoch.
      data: All of the training split.
      key: Of the run.
      count: int32, a traced value, so that one program serves every count.

    Returns:
      The state `count` steps later. Metrics restart with the first step of an epoch.
    """
    chex.assert_equal_shape_prefix((data.images, data.labels), 1)
    steps_per_epoch = data.labels.shape[0] // self.batch_size
    shuffle_key, augment_key = jax.random.split(key)
    epoch_key = jax.random.fold_in(shuffle_key, state.step // steps_per_epoch)
    order = jax.random.permutation(epoch_key, data.labels.shape[0])

    packings = Packing(state.params), Packing(state.variables)
    for packing in packings:
      state = packing.pack(state)
    step = self._on_parts(functools.partial(self._step, *packings))

    def body(_, state):
      position = state.step % steps_per_epoch
      batch = lax.dynamic_slice_in_dim(order, position * self.batch_size, self.batch_size)
      fresh = jax.tree.map(lambda m: jnp.where(position == 0, 0, m), state.metrics)
      keys = jax.random.split(jax.random.fold_in(augment_key, state.step), self.batch_size)
      return step(state.replace(metrics=fresh), data, (batch, keys))

    state = lax.fori_loop(0, count, body, state)
    for packing in packings:
      state = packing.unpack(state)
    return state

  def evaluate_batches(
    self,
    state: TrainState,
    data: Examples,
    sums: EpochMetrics,
    first: jax.Array,
    count: jax.Array,
  ) -> EpochMetrics:
    """Adds batches first ... first + count - 1 of a split, in its order and without augmentation.

    The last, partial batch counts each of its examples once.

    Args:
      state: Whose parameters and running statistics are used.
      data: All of the split.
      sums: Over the batches before, so that the result does not depend on how they are grouped.
      first: int32, traced.
      count: int32, traced.
    """
    chex.assert_equal_shape_prefix((data.images, data.labels), 1)
    total = data.labels.shape[0]

    def batch_sums(state, data, indices):
      images, labels = data.images[indices % total], data.labels[indices % total]
      variables = {"params": state.params, **state.variables}
      logits = self.model.apply(variables, normalize(images, data.mean, data.std), train=False)
      return self._reduced(lax.psum, _sums(logits, labels, indices < total))

    on_parts = self._on_parts(batch_sums)

    def body(i, metrics):
      indices = (first + i) * self.batch_size + jnp.arange(self.batch_size)
      return _add(metrics, on_parts(state, data, indices))

    return lax.fori_loop(0, count, body, sums)

  def _step(self, of_params, of_variables, state, data, batch):
    """One step of a packed state on a batch: its positions in the data, and a key for each example."""
    indices, keys = batch
    labels = data.labels[indices]
    images = augment(data.images[indices], keys, shift=self.shift, flip=self.flip)
    images = normalize(images, data.mean, data.std)

    def loss_fn(params):
      variables = of_variables.unpack(state.variables)
      logits, updates = self.model.apply(
        {"params": of_params.unpack(params), **variables}, images, train=True, mutable=list(variables)
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return jnp.mean(losses), (logits, of_variables.pack(updates))

    (loss, (logits, variables)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    metrics = self._reduced(lax.psum, _sums(logits, labels, jnp.ones(labels.shape, bool)))
    loss, grads, variables = self._reduced(lax.pmean, (loss, grads, variables))
    updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
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

  @property
  def _is_mapped(self):
    """Whether each device runs the step on its own."""
    return self.mesh is not None and self.parallel == "pmap"

  def _on_parts(self, function):
    """(state, data, batch) -> result, with the batch split over the devices."""
    if self._is_mapped:
      # `jax.pmap` is in maintenance mode, and has itself become jit + shard_map.
      whole, split = PartitionSpec(), PartitionSpec(AXIS)
      return jax.shard_map(
        function, mesh=self.mesh, in_specs=(whole, whole, split), out_specs=whole, check_vma=False
      )
    sharding = over_mesh(self.mesh, AXIS)
    if sharding is None:
      return function
    return lambda state, data, batch: function(
      state, data, lax.with_sharding_constraint(batch, sharding)
    )

  def _reduced(self, reduce, tree):
    """The tree, by `lax.psum` or `lax.pmean` over devices that each have their own."""
    return reduce(tree, AXIS) if self._is_mapped else tree

  def _compiled(self, function, donate):
    if self.matmul_precision is not None:
      function = jax.default_matmul_precision(self.matmul_precision)(function)
    return jax.jit(
      function,
      donate_argnums=donate,
      out_shardings=over_mesh(self.mesh),
      compiler_options=compiler_options(),
    )


def _sums(logits, labels, counted) -> EpochMetrics:
  """Sums over a batch."""
  chex.assert_shape((labels, counted), logits.shape[:1])
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  answered = ~jnp.any(jnp.isnan(logits), axis=-1)  # argmax takes a NaN for the largest
  correct = counted & answered & (jnp.argmax(logits, axis=-1) == labels)
  return EpochMetrics(
    *(jnp.sum(v, dtype=jnp.float32) for v in (jnp.where(counted, losses, 0), correct, counted))
  )


def _add(left, right):
  return jax.tree.map(jnp.add, left, right)
