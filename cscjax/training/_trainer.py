"""Compiled training steps and evaluation, many steps per call."""

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
from cscjax.data import Dataset
from cscjax.training._augment import augment, normalize
from cscjax.training._devices import AXIS, compiler_options, over_mesh
from cscjax.training._packing import Packing
from cscjax.training._state import EpochMetrics, TrainState

MODES = ("auto", "jit", "pmap")
"""How several devices share a batch, see the field `parallel` of `Trainer`."""


class Examples(NamedTuple):
  """A labelled split of a data set with the constants that normalize it, in host or device memory.

  Attributes:
    images: Images [N, H, W, C], uint8, or signals [N, L, C], float32, before normalization.
    labels: Class indices [N], int32.
    mean: Mean of each channel [C], float32; of uint8 images on the scale 0 to 1.
    std: Standard deviation of each channel [C], float32, on the same scale.
  """

  images: jax.Array | np.ndarray
  labels: jax.Array | np.ndarray
  mean: jax.Array | np.ndarray
  std: jax.Array | np.ndarray

  @classmethod
  def of(cls, dataset: Dataset, split: str) -> "Examples":
    """Returns a split of a data set with the constants of the data set.

    Args:
      dataset: The data set.
      split: "train", "validation" or "test".

    Returns:
      The examples. The arrays are not copied.

    Raises:
      ValueError: If the data set does not have the split.
    """
    examples = getattr(dataset, checks.one_of("split", split, ("train", "validation", "test")))
    if examples is None:
      checks.fail("split", split, "a split of the data set, which has no validation examples")
    return cls(examples.images, examples.labels, dataset.mean, dataset.std)


@dataclasses.dataclass(frozen=True)
class Trainer:
  """The training step and the evaluation of a classifier, compiled when they are first called.

  Attributes:
    model: Flax module of the classifier, called as model(x, train=...).
    optimizer: Optimizer of the parameters. It must be elementwise, because it receives the parameters
      packed into a few vectors.
    schedule: Learning rate of each step, which `fit` logs; None if it is unknown.
    batch_size: Number of examples of a step, over all devices.
    shift: Largest random shift of the training images along each axis in pixels, >= 0. The default is 0.
    flip: Whether to flip training images left to right with probability 1/2. The default is False.
    mesh: The devices that share each batch, from `create_mesh`; None (the default) for one device.
    parallel: How the devices of the mesh share a batch. "jit" (or "auto") compiles one program for all
      of them, so that the statistics of batch norm and the gradients are those of the whole batch.
      "pmap" runs the step on each device with its part of the batch: batch norm uses the statistics of
      this part, and the gradients and the running statistics are averaged over the devices. The default
      is "jit".
    matmul_precision: Precision of float32 matrix products and convolutions, as for
      `jax.default_matmul_precision`; None (the default) for JAX's current setting.

  Raises:
    ValueError: If `batch_size`, `shift` or `parallel` is out of range, `flip` is not a bool, or
      `batch_size` is not a multiple of the number of devices.

  Example:
    >>> import jax
    >>> import numpy as np
    >>> from cscjax import training
    >>> from cscjax.models import create_model
    >>> schedule = training.step_schedule(0.1, [])
    >>> model = create_model("msdnet", num_classes=2, depth=1, width=2)
    >>> trainer = training.Trainer(model, training.sgd(schedule), schedule, batch_size=4)
    >>> labels = np.arange(8, dtype=np.int32) % 2  # the images are black (0) or white (1)
    >>> images = np.repeat(np.uint8(255 * labels), 16).reshape(8, 4, 4, 1)
    >>> data = training.Examples(images, labels, mean=np.float32([0.5]), std=np.float32([0.5]))
    >>> key = jax.random.key(0)
    >>> state = trainer.create_state((4, 4, 1), key)
    >>> for epoch in range(5):
    ...   state = trainer.train(state, data, key, np.int32(2))  # the two steps of an epoch
    >>> zero = training.EpochMetrics.zero()
    >>> sums = trainer.evaluate(state, data, zero, np.int32(0), np.int32(2))  # both batches
    >>> sums.means()["accuracy"]
    1.0
  """

  model: nn.Module
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule | None
  batch_size: int
  shift: int = 0
  flip: bool = False
  mesh: Mesh | None = None
  parallel: str = "jit"
  matmul_precision: str | None = None

  def __post_init__(self) -> None:
    checks.positive_int("batch_size", self.batch_size)
    checks.int_at_least("shift", self.shift, 0)
    checks.boolean("flip", self.flip)
    checks.one_of("parallel", self.parallel, MODES)
    if self.mesh is not None and self.batch_size % self.mesh.size:
      checks.fail(
        "batch_size", self.batch_size, f"a multiple of {self.mesh.size}, the number of devices"
      )

  def create_state(self, example_shape: tuple[int, ...], key: jax.Array) -> TrainState:
    """Creates the state at step 0, on one device.

    Args:
      example_shape: Shape of one example, [H, W, C] or [L, C].
      key: Random key for the initialization of the parameters.

    Returns:
      The state.
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
    """Copies arrays to every device of the mesh, as `train` and `evaluate` take them.

    Args:
      tree: A tree of arrays.

    Returns:
      The tree with its arrays on the devices.
    """
    return jax.device_put(tree, over_mesh(self.mesh))

  @functools.cached_property
  def train(self) -> Callable[..., TrainState]:
    """The compiled `train_steps`. The arrays of the state are donated and cannot be used afterwards."""
    return self._compiled(self.train_steps, donate=0)

  @functools.cached_property
  def evaluate(self) -> Callable[..., EpochMetrics]:
    """The compiled `evaluate_batches`. The arrays of the sums are donated."""
    return self._compiled(self.evaluate_batches, donate=2)

  def train_steps(
    self, state: TrainState, data: Examples, key: jax.Array, count: jax.Array
  ) -> TrainState:
    """Performs `count` training steps of one epoch.

    The order of the examples is a permutation drawn from the key and the epoch, and the augmentation of
    a step is drawn from the key and the step, so that a run does not depend on the grouping of its steps
    into calls, or on the number of devices. An epoch has N // batch_size steps; the examples left over
    differ from epoch to epoch.

    Args:
      state: The state to start from, at any step. The steps must not go beyond the end of its epoch.
      data: The whole training split.
      key: Random key of the run.
      count: Number of steps, int32. It is traced, so that one compiled program serves every count.

    Returns:
      The state `count` steps later. The metrics are reset at the first step of an epoch.
    """
    chex.assert_equal_shape_prefix((data.images, data.labels), 1)
    steps_per_epoch = data.labels.shape[0] // self.batch_size
    shuffle_key, augment_key = jax.random.split(key)
    epoch_key = jax.random.fold_in(shuffle_key, state.step // steps_per_epoch)
    order = jax.random.permutation(epoch_key, data.labels.shape[0])

    of_params, of_variables = Packing(state.params), Packing(state.variables)
    state = state.replace(
      params=of_params.pack(state.params),
      variables=of_variables.pack(state.variables),
      opt_state=of_params.pack(state.opt_state),
    )
    step = self._on_parts(functools.partial(self._step, of_params, of_variables))

    def body(_: jax.Array, state: TrainState) -> TrainState:
      position = state.step % steps_per_epoch
      batch = lax.dynamic_slice_in_dim(order, position * self.batch_size, self.batch_size)
      fresh = jax.tree.map(lambda m: jnp.where(position == 0, 0, m), state.metrics)
      keys = jax.random.split(jax.random.fold_in(augment_key, state.step), self.batch_size)
      return step(state.replace(metrics=fresh), data, (batch, keys))

    state = lax.fori_loop(0, count, body, state)
    return state.replace(
      params=of_params.unpack(state.params),
      variables=of_variables.unpack(state.variables),
      opt_state=of_params.unpack(state.opt_state),
    )

  def evaluate_batches(
    self,
    state: TrainState,
    data: Examples,
    sums: EpochMetrics,
    first: jax.Array,
    count: jax.Array,
  ) -> EpochMetrics:
    """Adds the metrics of the batches first, ..., first + count - 1 of a split.

    The batches are in the order of the split, without augmentation. The last batch may be partial.

    Args:
      state: The state with the parameters and running statistics to evaluate.
      data: The whole split.
      sums: Sums over the batches before, so that the result does not depend on the grouping into calls.
      first: Index of the first batch, int32, traced.
      count: Number of batches, int32, traced.

    Returns:
      The sums with these batches added.
    """
    chex.assert_equal_shape_prefix((data.images, data.labels), 1)
    total = data.labels.shape[0]

    def batch_sums(state: TrainState, data: Examples, indices: jax.Array) -> EpochMetrics:
      images, labels = data.images[indices % total], data.labels[indices % total]
      variables = {"params": state.params, **state.variables}
      logits: Any = self.model.apply(variables, normalize(images, data.mean, data.std), train=False)
      return self._reduced(lax.psum, _sums(logits, labels, indices < total))

    on_parts = self._on_parts(batch_sums)

    def body(i: jax.Array, metrics: EpochMetrics) -> EpochMetrics:
      indices = (first + i) * self.batch_size + jnp.arange(self.batch_size)
      return _add(metrics, on_parts(state, data, indices))

    return lax.fori_loop(0, count, body, sums)

  def _step(
    self,
    of_params: Packing,
    of_variables: Packing,
    state: TrainState,
    data: Examples,
    batch: tuple[jax.Array, jax.Array],
  ) -> TrainState:
    """Performs one step of a packed state on a batch (indices into the data, keys of the examples)."""
    indices, keys = batch
    labels = data.labels[indices]
    images = augment(data.images[indices], keys, shift=self.shift, flip=self.flip)
    images = normalize(images, data.mean, data.std)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
      variables = of_variables.unpack(state.variables)
      logits, updates = self.model.apply(
        {"params": of_params.unpack(params), **variables}, images, train=True, mutable=list(variables)
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return jnp.mean(losses), (logits, of_variables.pack(updates))

    (loss, (logits, variables)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    metrics = self._reduced(lax.psum, _sums(logits, labels, jnp.ones(labels.shape, bool)))
    loss, grads, variables = self._reduced(lax.pmean, (loss, grads, variables))
    with jax.numpy_dtype_promotion("standard"):  # Optax promotes types
      updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # The parameters are checked too, because a finite loss can have a gradient that is not finite.
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
  def _is_mapped(self) -> bool:
    """Whether each device runs the step on its own part of the batch."""
    return self.mesh is not None and self.parallel == "pmap"

  def _on_parts(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function (state, data, batch) -> result with its batch split over the devices."""
    if self._is_mapped:
      # `jax.pmap` is in maintenance mode, and is itself implemented by `jit` and `shard_map`.
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

  def _reduced(self, reduce: Callable[..., Any], tree: Any) -> Any:
    """Returns the tree reduced over the devices by `lax.psum` or `lax.pmean`, if each has its own."""
    return reduce(tree, AXIS) if self._is_mapped else tree

  def _compiled(self, function: Callable[..., Any], donate: int) -> Callable[..., Any]:
    """Returns the compiled function, with the argument number `donate` donated."""
    if self.matmul_precision is not None:
      function = jax.default_matmul_precision(self.matmul_precision)(function)
    return jax.jit(
      function,
      donate_argnums=donate,
      out_shardings=over_mesh(self.mesh),
      compiler_options=compiler_options(),
    )


def _sums(logits: jax.Array, labels: jax.Array, counted: jax.Array) -> EpochMetrics:
  """Returns the sums over the examples of a batch that are counted."""
  chex.assert_shape((labels, counted), logits.shape[:1])
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  answered = ~jnp.any(jnp.isnan(logits), axis=-1)  # argmax treats NaN as the maximum
  correct = counted & answered & (jnp.argmax(logits, axis=-1) == labels)
  return EpochMetrics(
    *(jnp.sum(v, dtype=jnp.float32) for v in (jnp.where(counted, losses, 0), correct, counted))
  )


def _add(left: EpochMetrics, right: EpochMetrics) -> EpochMetrics:
  """Returns the sum of two metrics."""
  return jax.tree.map(jnp.add, left, right)
