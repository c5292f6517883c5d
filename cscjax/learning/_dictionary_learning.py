"""Convolutional dictionary learning: alternates between sparse coding and projected gradient steps."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import ConvDictionary
from cscjax.learning._kernels import Kernel, as_kernel, full_size, project, support_mask
from cscjax.learning._warnings import warn_about_images, warn_if_nothing_was_learned
from cscjax.ops import common_float, compact_repr, expand_rank, highest_precision, scaled, vary_alike
from cscjax.solvers import Callback, RelativePenalty, as_callbacks, beta_max, fista, report

DEFAULT_OPTIMIZER = optax.sgd(0.3, momentum=0.9)  # one object, so that calls share a compiled loop


class LearningState(NamedTuple):
  """The state of dictionary learning: a pytree of arrays that can be saved and passed to a later call.

  Attributes:
    filters: The filters, [kh, kw, C, m] or [k, C, m].
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
  optimizer: optax.GradientTransformation
  callbacks: tuple[Callback, ...]


@highest_precision
def learn_dictionary(
  images: ArrayLike,
  beta: ArrayLike | RelativePenalty,
  *,
  kernel: Sequence,
  steps: int = 200,
  batch_size: int | None = None,
  coding_iterations: int = 20,
  padding: Literal["CIRCULAR", "SAME"] = "CIRCULAR",
  nonnegative: bool = False,
  optimizer: optax.GradientTransformation = DEFAULT_OPTIMIZER,
  init: ArrayLike | None = None,
  key: jax.Array | None = None,
  state: LearningState | None = None,
  callback: Callback | None = None,
  progress: bool = False,
) -> LearningResult:
  """Learns the filters of a convolutional dictionary from images or one-dimensional signals.

      min over D and codes: mean over images of 1/2 ||x - D code||^2 + beta ||code||_1,   ||d_j|| = 1

  Each step encodes a minibatch with `fista` (from the zero code, with an adaptive step), takes one step
  of the optimizer along the gradient of the data term for these codes, and projects each atom onto its
  support and the unit sphere. The gradient is divided by the largest mean ||code_j||^2 of an atom, which
  is the curvature along an atom whose copies do not overlap. Hence learning rates do not depend on the
  scale of the images, and a plain gradient step with a rate above 1 overshoots.

  Subtract the low-pass component of the images first (`x - cscjax.tikhonov_lowpass(x, 5)`), because
  small atoms cannot represent it.

  To continue, pass `state=result.state` with the same images and arguments: on one device, the result is
  then equal, bit for bit, to that of a single call with all steps.

  Args:
    images: Images [N, H, W, C] or signals [N, L, C]; integers are converted to floating point.
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
    optimizer: An Optax optimizer; by default SGD with learning rate 0.3 and momentum 0.9. Adam moves
      each filter tap by about the same amount, which leaves noise in the atoms. Calls with the same
      optimizer object share their compilation.
    init: Initial filters, [kh, kw, C, m] or [k, C, m], which are projected first. Gaussian noise if
      None, and for each atom that is zero.
    key: Random key of the initial noise and the minibatches; `jax.random.key(0)` if None.
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
  given, images = images, _as_images(images)
  sizes, kernel = kernel, as_kernel(kernel, images.ndim - 2)
  mask = support_mask(kernel)
  checks.all_at_least("beta", beta, 0)
  warn_about_images(given, beta, has_axes=any(np.ndim(size) for size, _ in sizes))
  if any(k > n for k, n in zip(full_size(kernel), images.shape[1:-1], strict=True)):
    checks.fail("kernel", kernel, f"sizes of at most those of the images, {images.shape[1:-1]}")
  values = beta.fraction if isinstance(beta, RelativePenalty) else beta
  if jnp.shape(values) not in ((), mask.shape[-1:]):
    checks.fail("beta", jnp.shape(values), f"a scalar, or one value for each of {mask.shape[-1]} atoms")
  checks.positive_int("steps", steps)
  batch_size = len(images) if batch_size is None else checks.positive_int("batch_size", batch_size)
  if batch_size > len(images):
    checks.fail("batch_size", batch_size, f"at most the number of images, {len(images)}")
  checks.positive_int("coding_iterations", coding_iterations)
  checks.one_of("padding", padding, ("CIRCULAR", "SAME"))
  checks.boolean("nonnegative", nonnegative)
  if not isinstance(optimizer, optax.GradientTransformation):
    checks.fail("optimizer", optimizer, "an Optax optimizer")
  shape = jax.ShapeDtypeStruct((*mask.shape[:-2], images.shape[-1], mask.shape[-1]), images.dtype)
  if state is None:
    state = _start(shape, mask, optimizer, init, key)
  else:
    _check_state(state, shape, mask, optimizer, init, key)
  settings = _Settings(
    *(kernel, steps, batch_size, coding_iterations, padding, nonnegative, optimizer),
    as_callbacks(callback, progress, "learn_dictionary", steps, period=1),
  )
  values = jnp.asarray(values, images.dtype)
  beta = RelativePenalty(values) if isinstance(beta, RelativePenalty) else values
  result = _learn(images, beta, state, steps, settings)
  if settings.callbacks and not checks.is_traced(result):
    jax.effects_barrier()
  warn_if_nothing_was_learned(result.support_size, result.dictionary, images, beta, nonnegative)
  return result


@partial(jax.jit, static_argnames="settings")
def _learn(
  images: jax.Array,
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
  images, unit = scaled(images)
  absolute = None if isinstance(beta, RelativePenalty) else beta / unit

  def update(state: LearningState) -> tuple[LearningState, jax.Array, jax.Array]:
    batch = _minibatch(images, batch_size, state)
    dictionary = ConvDictionary(state.filters, padding=settings.padding)
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

    value, gradient = jax.value_and_grad(data_term)(state.filters)
    energy = jnp.max(jnp.sum(jnp.square(code), axis=tuple(range(code.ndim - 1)))) / batch_size
    # The momentum of the optimizer must not see the gradient outside the support either.
    gradient = jnp.where(mask & (energy > 0), gradient / jnp.where(energy > 0, energy, 1), 0)
    changes, optimizer_state = settings.optimizer.update(gradient, state.optimizer, state.filters)
    moved = jnp.asarray(optax.apply_updates(state.filters, changes))
    objective = value + jnp.sum(expand_rank(penalty, code.ndim) * jnp.abs(code)) / batch_size
    support = jnp.count_nonzero(code, axis=tuple(range(code.ndim - 1))) / batch_size
    state = LearningState(
      project(moved, mask, state.filters), optimizer_state, state.key, state.step + 1
    )
    return state, objective, support.astype(objective.dtype)

  def body(i: jax.Array, carry: Any) -> Any:
    state, objectives, supports = carry
    state, objective, support = update(state)
    if settings.callbacks:
      report(settings.callbacks, i + 1, objective * unit * unit, None, i + 1 == steps)
    return state, objectives.at[i].set(objective), supports.at[i].set(support)

  traces = (
    jnp.zeros_like(images, shape=settings.steps),
    jnp.zeros_like(images, shape=(settings.steps, mask.shape[-1])),
  )
  # `steps` is traced: with a static number, the compiler could round short loops differently.
  state, objectives, supports = lax.fori_loop(0, steps, body, (state, *traces))
  return LearningResult(
    ConvDictionary(state.filters, padding=settings.padding), objectives * unit * unit, supports, state
  )


def _minibatch(images: jax.Array, batch_size: int, state: LearningState) -> jax.Array:
  """Returns the images of this step: a part of the permutation of this epoch."""
  if batch_size == len(images):
    return images
  epoch, position = jnp.divmod(state.step, len(images) // batch_size)
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl="threefry2x32"), epoch)
  order = jax.random.permutation(key, len(images))
  return images[lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)]


def _as_images(images: ArrayLike) -> jax.Array:
  """Checks the images and converts them to floating point."""
  images = checks.real_array("images", images)
  if images.ndim not in (3, 4) or images.size == 0:
    checks.fail("images", images.shape, "[N, H, W, C] or [N, L, C] with no empty axis")
  images = images.astype(common_float(images))
  if not checks.is_traced(images) and not bool(jnp.all(jnp.isfinite(images))):
    checks.fail("images", "NaN or infinity", "finite values")
  return images


def _start(
  shape: jax.ShapeDtypeStruct,
  mask: np.ndarray,
  optimizer: optax.GradientTransformation,
  init: ArrayLike | None,
  key: jax.Array | None,
) -> LearningState:
  """Returns the initial state."""
  try:
    noise_key, batch_key = jax.random.split(
      jax.random.key(0, impl="threefry2x32") if key is None else key
    )
  except TypeError:
    checks.fail("key", key, "a key made by jax.random.key")
  noise = jax.random.normal(noise_key, shape.shape, shape.dtype)
  filters = project(noise, mask, noise)
  if init is not None:
    checks.all_at_least("init", init, -jnp.inf)
    if jnp.shape(init) != shape.shape:
      checks.fail("init", jnp.shape(init), f"filters of shape {shape.shape}")
    filters = project(jnp.asarray(init, shape.dtype), mask, filters)
  data = jax.random.bits(batch_key, (2,), jnp.uint32)
  return LearningState(filters, optimizer.init(filters), data, jnp.zeros((), jnp.int32))


def _check_state(
  state: LearningState,
  shape: jax.ShapeDtypeStruct,
  mask: np.ndarray,
  optimizer: optax.GradientTransformation,
  init: ArrayLike | None,
  key: jax.Array | None,
) -> None:
  """Raises ValueError if a state does not fit the other arguments."""
  if init is not None or key is not None:
    checks.fail("state", "init or key", "no init or key with it (it contains both)")
  expected = jax.eval_shape(lambda: _start(shape, mask, optimizer, None, None))
  if jax.tree.structure(state) != jax.tree.structure(expected):
    checks.fail("state", jax.tree.structure(state), "a LearningState with the state of this optimizer")
  for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
    if jnp.shape(got) != wanted.shape or jnp.result_type(got) != wanted.dtype:
      checks.fail(
        "state",
        (jnp.shape(got), jnp.result_type(got)),
        f"arrays that fit images and kernel, such as {wanted.shape} {wanted.dtype}",
      )
