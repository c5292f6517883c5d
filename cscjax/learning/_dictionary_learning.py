"""Convolutional dictionary learning: alternates between sparse coding and projected gradient steps."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import ConvDictionary
from cscjax.learning._images import Images, as_images, minibatch, random_patches
from cscjax.learning._kernels import Kernel, as_kernel, full_size, project, support_mask
from cscjax.learning._warnings import warn_about_images, warn_if_nothing_was_learned
from cscjax.ops import compact_repr, expand_rank, highest_precision, power_of_two, vary_alike
from cscjax.solvers import Callback, RelativePenalty, as_callbacks, beta_max, fista, report

DEFAULT_OPTIMIZER = optax.sgd(0.3, momentum=0.9)  # one object, so that calls share a compiled loop


class LearningState(NamedTuple):
  """The state of dictionary learning: a pytree of arrays that can be saved and passed to a later call.

  Attributes:
    filters: The filters, [kh, kw, C, m], [k, C, m] or [kd, kh, kw, C, m].
    optimizer: State of the Optax optimizer.
    key: Key data of the random minibatches, uint32 [2].
    step: Number of steps done so far, an int32 scalar.
  """

  filters: jax.Array
  optimizer: Any
  key: jax.Array
  step: jax.Array

  def __repr__(self) -> str:
    return compact_repr(self)


class LearningResult(NamedTuple):
  """The result of `learn_dictionary`.

  Attributes:
    dictionary: The learned dictionary, whose atoms have norm 1.
    objective: Mean of 1/2 ||x - D code||^2 + beta ||code||_1 over the minibatch of each step, before the
      step changes the atoms: [steps].
    support_size: Number of nonzero coefficients of each atom, averaged over the minibatch of each step:
      [steps, m]. An atom that is never used keeps its initial value.
    state: The state after the last step, from which a later call can continue.
  """

  dictionary: ConvDictionary
  objective: jax.Array
  support_size: jax.Array
  state: LearningState

  def __repr__(self) -> str:
    return compact_repr(self, traces=("objective", "support_size"))


class _Settings(NamedTuple):
  """The static arguments of the compiled loop."""

  kernel: Kernel
  steps: int
  batch_size: int
  coding_iterations: int
  padding: Literal["CIRCULAR", "SAME"]
  nonnegative: bool
  rank1: bool
  optimizer: optax.GradientTransformation
  callbacks: tuple[Callback, ...]


class _Sums(NamedTuple):
  """Sums over the images of a minibatch, divided by their number.

  Attributes:
    data_term: 1/2 ||x - D code||^2.
    penalty: beta ||code||_1.
    gradient: The gradient of the data term with respect to the filters.
    energy: ||code_j||^2 of each atom, [m].
    support_size: Number of nonzero coefficients of each atom, [m].
  """

  data_term: jax.Array
  penalty: jax.Array
  gradient: jax.Array
  energy: jax.Array
  support_size: jax.Array


@highest_precision
def learn_dictionary(
  images: ArrayLike | Sequence[ArrayLike],
  beta: ArrayLike | RelativePenalty,
  *,
  kernel: Sequence,
  steps: int = 200,
  batch_size: int | None = None,
  coding_iterations: int = 20,
  padding: Literal["CIRCULAR", "SAME"] = "CIRCULAR",
  nonnegative: bool = False,
  rank1: bool = False,
  optimizer: optax.GradientTransformation = DEFAULT_OPTIMIZER,
  init: ArrayLike | Literal["patches"] | None = None,
  key: jax.Array | None = None,
  state: LearningState | None = None,
  callback: Callback | None = None,
  progress: bool = False,
) -> LearningResult:
  """Learns the filters of a convolutional dictionary from images or one-dimensional signals.

      min over D and codes: mean over images of 1/2 ||x - D code||^2 + beta ||code||_1,   ||d_j|| = 1

  Each step encodes a minibatch with `fista` (from the zero code, with an adaptive step), takes one step
  of the optimizer along the gradient of the data term for these codes, and projects each atom onto its
  support and the unit sphere (and onto rank 1 if `rank1` is True). The gradient is divided by the
  largest mean ||code_j||^2 of an atom, which is the curvature along an atom whose copies do not overlap.
  Hence learning rates do not depend on the scale of the images, and a plain gradient step with a rate
  above 1 overshoots.

  Subtract the low-pass component of the images first (`x - cscjax.tikhonov_lowpass(x, 5)`, with
  `spatial_axes=1` for signals), because small atoms cannot represent it.

  To continue, pass `state=result.state` with the same images and arguments: on one device, the result is
  then equal, bit for bit, to that of a single call with all steps.

  Args:
    images: Images [N, H, W, C], signals [N, L, C] or volumes [N, D, H, W, C]; integers are converted to
      floating point. Or a list of images [H, W, C], signals [L, C] or volumes, whose sizes may differ.
      They are not padded: each is encoded at its own size. Part of the program is compiled for each
      size, and minibatches of images of different sizes are encoded one image at a time, so that a few
      different sizes are faster than many.
    beta: Penalty, nonnegative: a scalar, or one value per atom [m]. A penalty as large as the standard
      deviation of the images leaves few nonzero coefficients; a smaller one gives better reconstructions
      and needs more `coding_iterations`. `cscjax.relative(0.1)` is a tenth of `beta_max` for each image
      and the atoms of each step.
    kernel: Pairs (size, count) of atoms, such as ((8, 16), (12, 8)) for 16 atoms of 8x8 and 8 atoms of
      12x12. A size is one integer for all axes, or one per axis. Smaller atoms are centred in an array
      of the largest size and padded with zeros.
    steps: Number of steps, positive.
    batch_size: Number of images in the minibatch of a step, 1 to N; all images if None. Minibatches are
      drawn without replacement in each epoch, and the last N mod `batch_size` images of an epoch are
      left out.
    coding_iterations: Number of FISTA iterations in each step, positive.
    padding: `"CIRCULAR"` (images are periodic) or `"SAME"` (zero beyond the border).
    nonnegative: Whether the codes are constrained to be nonnegative.
    rank1: Whether each atom is constrained to be one pattern over its taps times one weight per channel.
      A source that reaches all sensors at once, as in EEG, has such atoms: a waveform in time, and a
      spatial pattern. `cscjax.learning.rank1_factors` returns both.
    optimizer: An Optax optimizer; by default SGD with learning rate 0.3 and momentum 0.9. Adam moves
      each filter tap by about the same amount, which leaves noise in the atoms. Calls with the same
      optimizer object share their compilation.
    init: Initial filters, of the shape of the result, which are projected first. `"patches"` takes
      patches at random positions of the images. Gaussian noise if None, and for each atom that is zero.
    key: Random key of the initial atoms and the minibatches; `jax.random.key(0)` if None.
    state: The state of an earlier result from which to continue. It replaces `init` and `key`.
    callback: A function that is called with a `cscjax.IterationStats` after each step: the number of
      steps of this call and the objective of the step's minibatch (the residual is None). It is called
      by `jax.debug.callback`, also under `jax.jit`; `IterationStats` describes the other
      transformations. Calls with the same function object share their compilation. None costs nothing.
    progress: Whether to show a progress bar on stderr, with the objective. This needs tqdm, which the
      extra `progress` installs.

  Returns:
    A `LearningResult`: the dictionary, the objective and the support sizes of each step, and the state.

  Raises:
    ValueError: If images are empty or not finite, atoms are larger than images, shapes do not fit, or an
      argument is out of range or does not fit `state`.
    MissingExtraError: If `progress` is True and tqdm is not installed.

  Example:
    >>> import jax
    >>> import cscjax
    >>> images = jax.random.normal(jax.random.key(0), (4, 12, 12, 1))
    >>> arguments = {"kernel": [(5, 6), (3, 2)], "steps": 10}
    >>> history = []
    >>> result = cscjax.learn_dictionary(images, 0.5, callback=history.append, **arguments)
    >>> result.dictionary.filters.shape, result.objective.shape
    ((5, 5, 1, 8), (10,))
    >>> bool(history[-1].objective < history[0].objective), history[-1].iteration
    (True, 10)
    >>> more = cscjax.learn_dictionary(
    ...   images, 0.5, callback=history.append, state=result.state, **arguments
    ... )
    >>> int(more.state.step)
    20
  """
  stacked = as_images(images)
  stack = stacked.stacks[0]
  sizes, kernel = kernel, as_kernel(kernel, stack.ndim - 2)
  mask = support_mask(kernel)
  checks.all_at_least("beta", beta, 0)
  warn_about_images(images, beta, has_axes=any(np.ndim(size) for size, _ in sizes))
  smallest = tuple(stacked.sizes.min(axis=0).tolist())
  if any(k > n for k, n in zip(full_size(kernel), smallest, strict=True)):
    checks.fail("kernel", kernel, f"sizes of at most those of the images, {smallest}")
  values = beta.fraction if isinstance(beta, RelativePenalty) else beta
  if jnp.shape(values) not in ((), mask.shape[-1:]):
    checks.fail("beta", jnp.shape(values), f"a scalar, or one value for each of {mask.shape[-1]} atoms")
  checks.positive_int("steps", steps)
  batch_size = stacked.count if batch_size is None else checks.positive_int("batch_size", batch_size)
  if batch_size > stacked.count:
    checks.fail("batch_size", batch_size, f"at most the number of images, {stacked.count}")
  checks.positive_int("coding_iterations", coding_iterations)
  checks.one_of("padding", padding, ("CIRCULAR", "SAME"))
  checks.boolean("nonnegative", nonnegative)
  checks.boolean("rank1", rank1)
  if not isinstance(optimizer, optax.GradientTransformation):
    checks.fail("optimizer", optimizer, "an Optax optimizer")
  settings = _Settings(
    *(kernel, steps, batch_size, coding_iterations, padding, nonnegative, rank1, optimizer),
    as_callbacks(callback, progress, "learn_dictionary", steps, period=1),
  )
  if state is None:
    state = _start(stacked, settings, init, key)
  else:
    _check_state(state, stacked, settings, init, key)
  values = jnp.asarray(values, stack.dtype)
  beta = RelativePenalty(values) if isinstance(beta, RelativePenalty) else values
  result = _learn(stacked, beta, state, steps, settings)
  if settings.callbacks and not checks.is_traced(result):
    jax.effects_barrier()
  warn_if_nothing_was_learned(result.support_size, result.dictionary, stacked, beta, nonnegative)
  return result


@partial(jax.jit, static_argnames="settings")
def _learn(
  images: Images,
  beta: jax.Array | RelativePenalty,
  state: LearningState,
  steps: int,
  settings: _Settings,
) -> LearningResult:
  """Runs the loop over all steps."""
  images, beta, state = vary_alike((images, beta, state))
  batch_size = settings.batch_size
  mask = support_mask(settings.kernel)
  # In this unit, squares stay in the range of float32; the atoms do not depend on it.
  unit = power_of_two(images.stacks)
  stacks = tuple(stack / unit for stack in images.stacks)
  absolute = None if isinstance(beta, RelativePenalty) else beta / unit

  def encode(filters: jax.Array, batch: jax.Array) -> _Sums:
    dictionary = ConvDictionary(filters, padding=settings.padding)
    penalty = absolute
    if isinstance(beta, RelativePenalty):
      largest = beta_max(dictionary, batch, nonnegative=settings.nonnegative)
      penalty = expand_rank(beta.fraction, batch.ndim) * largest
    code = fista(
      dictionary,
      batch,
      penalty,
      iterations=settings.coding_iterations,
      step="adaptive",
      nonnegative=settings.nonnegative,
      record=(),
    ).code

    def data_term(filters: jax.Array) -> jax.Array:
      residual = dictionary.replace(filters=filters).residual(code, batch)
      return 0.5 * jnp.sum(jnp.square(residual)) / batch_size

    value, gradient = jax.value_and_grad(data_term)(filters)
    axes = tuple(range(code.ndim - 1))
    support = jnp.count_nonzero(code, axis=axes) / batch_size
    return _Sums(
      data_term=value,
      penalty=jnp.sum(expand_rank(penalty, code.ndim) * jnp.abs(code)) / batch_size,
      gradient=gradient,
      energy=jnp.sum(jnp.square(code), axis=axes) / batch_size,
      support_size=support.astype(value.dtype),
    )

  def encode_minibatch(state: LearningState) -> _Sums:
    if batch_size == images.count:
      parts = [encode(state.filters, stack) for stack in stacks]
      return jax.tree.map(lambda *values: reduce(jnp.add, values), *parts)
    drawn = minibatch(images.count, batch_size, state.key, state.step)
    if len(stacks) == 1:
      return encode(state.filters, stacks[0][drawn])

    def encode_one(place: jax.Array) -> _Sums:
      rows = [partial(lax.dynamic_index_in_dim, stack, place[1]) for stack in stacks]
      return lax.switch(place[0], [lambda row=row: encode(state.filters, row()) for row in rows])

    parts = lax.map(encode_one, images.places[drawn])
    return jax.tree.map(lambda values: jnp.sum(values, axis=0), parts)

  def update(state: LearningState) -> tuple[LearningState, jax.Array, jax.Array]:
    sums = encode_minibatch(state)
    energy = jnp.max(sums.energy)
    # The momentum of the optimizer must not see the gradient outside the support either.
    gradient = jnp.where(mask & (energy > 0), sums.gradient / jnp.where(energy > 0, energy, 1), 0)
    changes, optimizer_state = settings.optimizer.update(gradient, state.optimizer, state.filters)
    moved = jnp.asarray(optax.apply_updates(state.filters, changes))
    filters = project(moved, mask, state.filters, rank1=settings.rank1)
    state = LearningState(filters, optimizer_state, state.key, state.step + 1)
    return state, sums.data_term + sums.penalty, sums.support_size

  def body(i: jax.Array, carry: Any) -> Any:
    state, objectives, supports = carry
    state, objective, support = update(state)
    if settings.callbacks:
      report(settings.callbacks, i + 1, objective * unit * unit, None, i + 1 == steps)
    return state, objectives.at[i].set(objective), supports.at[i].set(support)

  traces = (
    jnp.zeros_like(stacks[0], shape=settings.steps),
    jnp.zeros_like(stacks[0], shape=(settings.steps, mask.shape[-1])),
  )
  # `steps` is traced: with a static number, the compiler could round short loops differently.
  state, objectives, supports = lax.fori_loop(0, steps, body, (state, *traces))
  return LearningResult(
    ConvDictionary(state.filters, padding=settings.padding), objectives * unit * unit, supports, state
  )


def _start(
  images: Images, settings: _Settings, init: ArrayLike | str | None, key: jax.Array | None
) -> LearningState:
  """Returns the initial state."""
  mask, stack = support_mask(settings.kernel), images.stacks[0]
  shape = (*mask.shape[:-2], stack.shape[-1], mask.shape[-1])
  start = partial(project, mask=mask, rank1=settings.rank1)
  try:
    noise_key, batch_key = jax.random.split(
      jax.random.key(0, impl="threefry2x32") if key is None else key
    )
  except TypeError:
    checks.fail("key", key, "a key made by jax.random.key")
  noise = jax.random.normal(noise_key, shape, stack.dtype)
  filters = start(noise, previous=noise)
  if isinstance(init, str):
    checks.one_of("init", init, ("patches",))
    patch_key = jax.random.fold_in(noise_key, 1)
    filters = start(random_patches(images, shape[:-2], shape[-1], patch_key), previous=filters)
  elif init is not None:
    checks.all_at_least("init", init, -jnp.inf)
    if jnp.shape(init) != shape:
      checks.fail("init", jnp.shape(init), f"filters of shape {shape}")
    filters = start(jnp.asarray(init, stack.dtype), previous=filters)
  data = jax.random.bits(batch_key, (2,), jnp.uint32)
  return LearningState(filters, settings.optimizer.init(filters), data, jnp.zeros((), jnp.int32))


def _check_state(
  state: LearningState,
  images: Images,
  settings: _Settings,
  init: ArrayLike | str | None,
  key: jax.Array | None,
) -> None:
  """Raises ValueError if a state does not fit the other arguments."""
  if init is not None or key is not None:
    checks.fail("state", "init or key", "no init or key with it (it contains both)")
  expected = jax.eval_shape(lambda: _start(images, settings, None, None))
  if jax.tree.structure(state) != jax.tree.structure(expected):
    checks.fail("state", jax.tree.structure(state), "a LearningState with the state of this optimizer")
  for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
    if jnp.shape(got) != wanted.shape or jnp.result_type(got) != wanted.dtype:
      checks.fail(
        "state",
        (jnp.shape(got), jnp.result_type(got)),
        f"arrays that fit images and kernel, such as {wanted.shape} {wanted.dtype}",
      )
