"""Dictionary learning as a state machine: the settings, the initial state, one step, and whole runs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import ConvDictionary
from cscjax.learning._images import Images, as_images, random_patches
from cscjax.learning._kernels import as_kernel, full_size, project, support_mask, with_rank
from cscjax.learning._loop import LearningResult, cut_traces, run_steps
from cscjax.learning._steps import LearningState, one_step
from cscjax.learning._warnings import warn_about_images, warn_if_nothing_was_learned
from cscjax.ops import PyTree, highest_precision, shard_batch
from cscjax.solvers import Callback, RelativePenalty, as_callbacks, iteration_limit

DEFAULT_OPTIMIZER = optax.sgd(0.3, momentum=0.9)  # one object, so that calls share a compiled loop


class DictionaryLearner(PyTree, kw_only=True):
  """The settings of `learn_dictionary`, with its initial state, its step and its loop as methods.

  Use it to write a loop of your own, such as one over minibatches that are read from a disk: `step` is a
  pure function of a minibatch and a state, and works under `jax.jit`. If the minibatch is sharded over
  several devices or processes, each of them encodes its own part.

  A learner is a pytree whose only leaf is the penalty; the other settings are static. It is hashable if
  the penalty is a number.

  Attributes:
    kernel: Pairs (size, count) of atoms, such as ((8, 16), (12, 8)) for 16 atoms of 8x8 and 8 atoms of
      12x12. A size is one integer for all axes, or one per axis. Smaller atoms are centred in an array
      of the largest size and padded with zeros.
    beta: Penalty, nonnegative: a scalar, one value per atom [m], or `cscjax.relative(fraction)`.
    coding_iterations: Number of FISTA iterations in each step, positive; 20 by default.
    padding: `"CIRCULAR"` (images are periodic), the default, or `"SAME"` (zero beyond the border).
    nonnegative: Whether the codes are constrained to be nonnegative; False by default.
    rank1: Whether each atom is constrained to be one pattern over its taps times one weight per channel;
      False by default.
    replace_unused: Number of successive steps after which an unused atom is replaced by the patch of the
      minibatch with the largest squared error, at most one atom in each step; 10 by default. None keeps
      all atoms.
    optimizer: An Optax optimizer; by default SGD with learning rate 0.3 and momentum 0.9.

  Raises:
    ValueError: On construction, if a setting is out of range. On use, if a setting does not fit the
      images.

  Example:
    >>> import jax
    >>> import cscjax
    >>> learner = cscjax.learning.DictionaryLearner(kernel=[(5, 6)], beta=0.5)
    >>> batches = jax.random.normal(jax.random.key(0), (3, 4, 12, 12, 1))  # read one at a time
    >>> state = learner.init(batches[0])
    >>> for batch in batches:
    ...   state = learner.step(batch, state)
    >>> int(state.step), learner.dictionary(state).filters.shape
    (3, (5, 5, 1, 6))
  """

  kernel: Sequence = struct.field(pytree_node=False)
  beta: ArrayLike | RelativePenalty
  coding_iterations: int = struct.field(pytree_node=False, default=20)
  padding: Literal["CIRCULAR", "SAME"] = struct.field(pytree_node=False, default="CIRCULAR")
  nonnegative: bool = struct.field(pytree_node=False, default=False)
  rank1: bool = struct.field(pytree_node=False, default=False)
  replace_unused: int | None = struct.field(pytree_node=False, default=10)
  optimizer: optax.GradientTransformation = struct.field(pytree_node=False, default=DEFAULT_OPTIMIZER)

  def __post_init__(self) -> None:
    # Static fields are part of the cache key of `jax.jit`, so they must be hashable.
    object.__setattr__(self, "kernel", as_kernel(self.kernel))
    checks.positive_int("coding_iterations", self.coding_iterations)
    checks.one_of("padding", self.padding, ("CIRCULAR", "SAME"))
    checks.boolean("nonnegative", self.nonnegative)
    checks.boolean("rank1", self.rank1)
    if self.replace_unused is not None:
      checks.positive_int("replace_unused", self.replace_unused)
    if not isinstance(self.optimizer, optax.GradientTransformation):
      checks.fail("optimizer", self.optimizer, "an Optax optimizer")

  @highest_precision
  def init(
    self,
    images: ArrayLike | Sequence[ArrayLike],
    *,
    mask: Any = None,
    init: ArrayLike | Literal["patches"] | None = None,
    key: jax.Array | None = None,
  ) -> LearningState:
    """Returns the initial state.

    Args:
      images: Some of the images, as for `learn_dictionary`. They give the numbers of axes and channels
        and the floating-point type, and the patches for `init="patches"`.
      mask: Weights in 0..1 that broadcast against the images, zero for missing values (which may be
        NaN). For a list of images, a list of masks.
      init: Initial filters, of the shape of `state.filters`, which are projected first. `"patches"`
        takes patches at random positions of the images. Gaussian noise if None, and for each atom that
        is zero.
      key: Random key of the initial atoms and of the minibatches of `run`; `jax.random.key(0)` if None.

    Returns:
      The `LearningState` before the first step.

    Raises:
      ValueError: If images are empty or not finite, atoms are larger than images, or an argument does
        not fit.
    """
    return self._start(self._checked(images, mask), init, key)

  @highest_precision
  def step(
    self, images: ArrayLike | Sequence[ArrayLike], state: LearningState, *, mask: Any = None
  ) -> LearningState:
    """Does one step on a minibatch.

    Args:
      images: All images of the minibatch, as for `learn_dictionary`; their number may differ from that
        of other steps, for each of which the step is compiled.
      state: The state before the step.
      mask: Weights in 0..1 that broadcast against the images, zero for missing values (which may be
        NaN). For a list of images, a list of masks.

    Returns:
      The state after the step. Its `objective` and `support_size` describe the minibatch.

    Raises:
      ValueError: If images are empty or not finite, or if an argument does not fit.
    """
    stacked = self._checked(images, mask)
    self._check_state(state, stacked)
    return _replicated(one_step, stacked, self, state)

  @highest_precision
  def run(
    self,
    images: ArrayLike | Sequence[ArrayLike],
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    tolerance: ArrayLike | None = None,
    max_steps: int | None = None,
    mask: Any = None,
    init: ArrayLike | Literal["patches"] | None = None,
    key: jax.Array | None = None,
    state: LearningState | None = None,
    callback: Callback | None = None,
    progress: bool | str = False,
  ) -> LearningResult:
    """Runs steps on minibatches that are drawn from the images, in one compiled loop.

    Args:
      images: All images, as for `learn_dictionary`.
      steps: Number of steps, positive; 200 by default.
      batch_size: Number of images in the minibatch of a step, 1 to N; all images if None. Minibatches
        are drawn without replacement in each epoch.
      tolerance: If given, the run stops when the mean objective of the last epochs differs from that of
        the epochs before by at most this fraction; `learn_dictionary` describes it.
      max_steps: Largest number of steps with a tolerance; 1000 by default.
      mask: Weights in 0..1 that broadcast against the images, zero for missing values (which may be
        NaN). For a list of images, a list of masks.
      init: Initial filters, or `"patches"`, as for the method `init`.
      key: Random key of the initial atoms and the minibatches; `jax.random.key(0)` if None.
      state: The state of an earlier step or result from which to continue. It replaces `init` and `key`.
      callback: A function that is called with a `cscjax.IterationStats` after each step.
      progress: Whether to show a progress bar on stderr, which needs the extra `progress`. A string is
        its title, instead of the name of the class.

    Returns:
      A `LearningResult`.

    Raises:
      ValueError: If images are empty or not finite, or if an argument is out of range or does not fit.
      MissingExtraError: If `progress` is True and tqdm is not installed.
    """
    stacked = self._checked(images, mask)
    count = iteration_limit(steps, tolerance, max_steps, name="steps", default=200, smallest=1)
    batch_size = stacked.count if batch_size is None else checks.positive_int("batch_size", batch_size)
    if batch_size > stacked.count:
      checks.fail("batch_size", batch_size, f"at most the number of images, {stacked.count}")
    callbacks = as_callbacks(callback, progress, type(self).__name__, count, period=1)
    if state is None:
      state = self._start(stacked, init, key)
    elif init is not None or key is not None:
      checks.fail("state", "init or key", "no init or key with it (it contains both)")
    else:
      self._check_state(state, stacked)
    run = partial(run_steps, batch_size=batch_size, length=count, callbacks=callbacks)
    result = _replicated(run, stacked, self, state, count, tolerance)
    if callbacks and not checks.is_traced(result):
      jax.effects_barrier()
    result = result if tolerance is None else cut_traces(result)
    warn_if_nothing_was_learned(
      result.support_size, result.dictionary, stacked, self.beta, self.nonnegative
    )
    return result

  def dictionary(self, state: LearningState) -> ConvDictionary:
    """Returns the dictionary of a state.

    Args:
      state: The state.

    Returns:
      A `ConvDictionary` with the filters of the state and the padding of the learner.
    """
    return ConvDictionary(state.filters, padding=self.padding)

  def _checked(self, images: Any, mask: Any) -> Images:
    """Checks that images and settings fit, and stacks the images by shape."""
    stacked = as_images(images, mask)
    checks.all_at_least("beta", self.beta, 0)
    warn_about_images(images, self.beta, has_axes=any(np.ndim(size) for size, _ in self.kernel))
    kernel = with_rank(self.kernel, stacked.stacks[0].ndim - 2)
    smallest = tuple(stacked.sizes.min(axis=0).tolist())
    if any(k > n for k, n in zip(full_size(kernel), smallest, strict=True)):
      checks.fail("kernel", kernel, f"sizes of at most those of the images, {smallest}")
    values = self.beta.fraction if isinstance(self.beta, RelativePenalty) else self.beta
    atoms = sum(count for _, count in kernel)
    if np.shape(values) not in ((), (atoms,)):
      checks.fail("beta", np.shape(values), f"a scalar, or one value for each of {atoms} atoms")
    return stacked

  def _start(self, images: Images, init: ArrayLike | str | None, key: jax.Array | None) -> LearningState:
    """Returns the initial state."""
    stack = images.stacks[0]
    support = support_mask(with_rank(self.kernel, stack.ndim - 2))
    shape = (*support.shape[:-2], stack.shape[-1], support.shape[-1])
    start = partial(project, mask=support, rank1=self.rank1)
    key = jax.random.key(0, impl="threefry2x32") if key is None else key
    checks.prng_key("key", key)
    noise_key, batch_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, shape, stack.dtype)
    filters = start(noise, previous=noise)
    if isinstance(init, str):
      checks.one_of("init", init, ("patches",))
      patch_key = jax.random.fold_in(noise_key, 1)
      draw = partial(random_patches, size=shape[:-2], count=shape[-1], key=patch_key)
      filters = start(_replicated(draw, images), previous=filters)
    elif init is not None:
      checks.all_at_least("init", init, -jnp.inf)
      if np.shape(init) != shape:
        checks.fail("init", np.shape(init), f"filters of shape {shape}")
      filters = start(jnp.asarray(init, stack.dtype), previous=filters)
    return LearningState(
      filters=filters,
      optimizer=self.optimizer.init(filters),
      key=jax.random.bits(batch_key, (2,), jnp.uint32),
      step=jnp.zeros((), jnp.int32),
      objective=jnp.full((), jnp.inf, stack.dtype),
      support_size=jnp.zeros(shape[-1:], stack.dtype),
      unused=jnp.zeros(shape[-1:], jnp.int32),
    )

  def _check_state(self, state: LearningState, images: Images) -> None:
    """Raises ValueError if a state does not fit the images and the settings."""
    expected = jax.eval_shape(lambda: self._start(images, None, None))
    if jax.tree.structure(state) != jax.tree.structure(expected):
      checks.fail("state", jax.tree.structure(state), "a LearningState with the state of this optimizer")
    for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
      if jnp.shape(got) != wanted.shape or jnp.result_type(got) != wanted.dtype:
        checks.fail(
          "state",
          (jnp.shape(got), jnp.result_type(got)),
          f"arrays that fit images and kernel, such as {wanted.shape} {wanted.dtype}",
        )


def _replicated(function: Callable[..., Any], images: Images, *others: Any) -> Any:
  """Calls a function of images, whose result is the same on all devices of an explicit mesh."""
  return shard_batch(
    lambda _, *arguments: function(*arguments),
    *(images.stacks[0], images, *others),
    batch_ndim=1,
    layout=-1,
  )
