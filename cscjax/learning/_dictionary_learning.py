"""Convolutional dictionary learning: coding and projected gradient steps in turn."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import ConvDictionary
from cscjax.learning._kernels import Kernel, as_kernel, full_size, project, support_mask
from cscjax.ops import common_float, expand_rank, highest_precision, scaled, vary_alike
from cscjax.solvers import fista

DEFAULT_OPTIMIZER = optax.sgd(0.3, momentum=0.9)  # one object: calls share their compiled loop


class LearningState(NamedTuple):
  """All that the next step needs: a pytree of arrays, which can be saved and passed back.

  Attributes:
    filters: [kh, kw, C, m], or [k, C, m].
    optimizer: The Optax optimizer's own state.
    key: uint32 [2], the randomness of the minibatches.
    step: int32 scalar, steps done.
  """

  filters: jax.Array
  optimizer: Any
  key: jax.Array
  step: jax.Array


class LearningResult(NamedTuple):
  """A learned dictionary.

  Attributes:
    dictionary: Its atoms have norm 1.
    objective: [steps], mean over the minibatch of 1/2 ||x - D code||^2 + beta ||code||_1, before the
      step changed the atoms.
    support_size: [steps, m], how many coefficients of each atom were not 0, mean over the minibatch. An
      atom that was never used kept its value.
    state: To go on from.
  """

  dictionary: ConvDictionary
  objective: jax.Array
  support_size: jax.Array
  state: LearningState


class _Settings(NamedTuple):
  """What the compiled loop depends on."""

  kernel: Kernel
  steps: int
  batch_size: int
  coding_iterations: int
  padding: str
  nonnegative: bool
  optimizer: optax.GradientTransformation


@highest_precision
def learn_dictionary(
  images: ArrayLike,
  beta: ArrayLike,
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
) -> LearningResult:
  """Learns the filters of a convolutional dictionary from images, or one-dimensional signals.

      min over D, codes of mean over images of 1/2 ||x - D code||^2 + beta ||code||_1,  ||d_j|| = 1

  Each step codes a minibatch by `fista` from 0 (step "adaptive"), takes one step of the optimizer along
  the gradient of the data term at these codes, and projects each atom onto its support and the unit
  sphere. The gradient is divided by the largest mean ||code_j||^2 of an atom, the curvature along an
  atom whose copies do not overlap: rates have no unit, and beyond 1 a plain step overshoots. Images
  should come without their low-pass part (`x - tikhonov_lowpass(x, 5)`): small atoms cannot express it.

      r = learn_dictionary(images, 0.05, kernel=((8, 16), (12, 8)))             # 16 atoms 8x8, 8 12x12
      r = learn_dictionary(images, 0.05, kernel=((8, 16), (12, 8)), state=r.state)         # goes on

  The second call, with the same images and arguments, ends with the same bits on one device as a
  single call of all steps.

  Args:
    images: [N, H, W, C], or signals [N, L, C]; integers are converted.
    beta: Penalty >= 0, a scalar or one an atom [m]. As large as the standard deviation of the images
      leaves few non-zeros; smaller ones rebuild more and take more `coding_iterations`.
    kernel: Pairs (size, count) of atoms, a size one integer for all axes or one an axis. Smaller atoms
      stand in the middle of an array of the largest size, zeros around them.
    steps: How many, >= 1.
    batch_size: Images in a step, 1 to N, drawn without replacement until all have had their turn (but
      for a rest below `batch_size`); all of them if None.
    coding_iterations: Of FISTA in each step, >= 1.
    padding: "CIRCULAR" (images wrap around) or "SAME" (zeros beyond the border).
    nonnegative: Whether the codes are constrained to be >= 0.
    optimizer: Of Optax; SGD with rate 0.3 and momentum 0.9 by default (Adam, which moves each tap
      equally far, leaves noise in the atoms). One object for several calls spares compiling again.
    init: Filters to start from, [kh, kw, C, m] as the result's; Gaussian noise if None, or where an
      atom is 0. They are projected first.
    key: Of the noise and the minibatches; jax.random.key(0) if None.
    state: A result's, to go on from, in place of `init` and `key`.

  Returns:
    The dictionary, its traces and the state.

  Raises:
    ValueError: If images are empty or not finite, atoms are larger than images, shapes do not fit, or
      an argument is out of range or contradicts `state`.
  """
  images = _as_images(images)
  kernel = as_kernel(kernel, images.ndim - 2)
  mask = support_mask(kernel)
  if any(k > n for k, n in zip(full_size(kernel), images.shape[1:-1], strict=True)):
    checks.fail("kernel", kernel, f"sizes within those of the images {images.shape[1:-1]}")
  checks.all_at_least("beta", beta, 0)
  if jnp.shape(beta) not in ((), mask.shape[-1:]):
    checks.fail("beta", jnp.shape(beta), f"a scalar, or one for each of {mask.shape[-1]} atoms")
  checks.positive_int("steps", steps)
  batch_size = len(images) if batch_size is None else checks.positive_int("batch_size", batch_size)
  if batch_size > len(images):
    checks.fail("batch_size", batch_size, f"at most the number of images, {len(images)}")
  checks.positive_int("coding_iterations", coding_iterations)
  checks.one_of("padding", padding, ("CIRCULAR", "SAME"))
  checks.boolean("nonnegative", nonnegative)
  if not isinstance(optimizer, optax.GradientTransformation):
    checks.fail("optimizer", optimizer, "one of Optax")
  shape = jax.ShapeDtypeStruct((*mask.shape[:-2], images.shape[-1], mask.shape[-1]), images.dtype)
  if state is None:
    state = _start(shape, mask, optimizer, init, key)
  else:
    _check_state(state, shape, mask, optimizer, init, key)
  settings = _Settings(kernel, steps, batch_size, coding_iterations, padding, nonnegative, optimizer)
  return _learn(images, jnp.asarray(beta, images.dtype), state, steps, settings)


@partial(jax.jit, static_argnames="settings")
def _learn(images, beta, state, steps, settings):
  images, beta, state = vary_alike((images, beta, state))
  batch_size = settings.batch_size
  mask = support_mask(settings.kernel)
  # The atoms do not depend on the unit, with which no square leaves the range of float32.
  images, unit = scaled(images)
  beta = beta / unit

  def update(state):
    batch = _minibatch(images, batch_size, state)
    dictionary = ConvDictionary(state.filters, padding=settings.padding)
    code = fista(
      dictionary,
      batch,
      beta,
      iterations=settings.coding_iterations,
      step="adaptive",
      nonnegative=settings.nonnegative,
      record=(),
    ).code

    def data_term(filters):
      residual = dictionary.replace(filters=filters).residual(code, batch)
      return 0.5 * jnp.sum(jnp.square(residual)) / batch_size

    value, gradient = jax.value_and_grad(data_term)(state.filters)
    energy = jnp.max(jnp.sum(jnp.square(code), axis=tuple(range(code.ndim - 1)))) / batch_size
    # What leaves the support must not reach the optimizer's momentum either.
    gradient = jnp.where(mask & (energy > 0), gradient / jnp.where(energy > 0, energy, 1), 0)
    changes, optimizer_state = settings.optimizer.update(gradient, state.optimizer, state.filters)
    moved = jnp.asarray(optax.apply_updates(state.filters, changes))
    objective = value + jnp.sum(expand_rank(beta, code.ndim) * jnp.abs(code)) / batch_size
    support = jnp.count_nonzero(code, axis=tuple(range(code.ndim - 1))) / batch_size
    state = LearningState(
      project(moved, mask, state.filters), optimizer_state, state.key, state.step + 1
    )
    return state, objective, support.astype(objective.dtype)

  def body(i, carry):
    state, objectives, supports = carry
    state, objective, support = update(state)
    return state, objectives.at[i].set(objective), supports.at[i].set(support)

  traces = (
    jnp.zeros_like(images, shape=settings.steps),
    jnp.zeros_like(images, shape=(settings.steps, mask.shape[-1])),
  )
  # A number of steps that the compiler knows would let it treat short loops differently, to the bit.
  state, objectives, supports = lax.fori_loop(0, steps, body, (state, *traces))
  return LearningResult(
    ConvDictionary(state.filters, padding=settings.padding), objectives * unit * unit, supports, state
  )


def _minibatch(images, batch_size, state):
  """This step's part of this epoch's permutation."""
  if batch_size == len(images):
    return images
  epoch, position = jnp.divmod(state.step, len(images) // batch_size)
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl="threefry2x32"), epoch)
  order = jax.random.permutation(key, len(images))
  return images[lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)]


def _as_images(images):
  images = checks.real_array("images", images)
  if images.ndim not in (3, 4) or images.size == 0:
    checks.fail("images", images.shape, "[N, H, W, C] or [N, L, C], no axis empty")
  images = images.astype(common_float(images))
  if not checks.is_traced(images) and not bool(jnp.all(jnp.isfinite(images))):
    checks.fail("images", "NaN or infinity", "finite values")
  return images


def _start(shape, mask, optimizer, init, key):
  try:
    noise_key, batch_key = jax.random.split(
      jax.random.key(0, impl="threefry2x32") if key is None else key
    )
  except TypeError:
    checks.fail("key", key, "one made by jax.random.key")
  noise = jax.random.normal(noise_key, shape.shape, shape.dtype)
  filters = project(noise, mask, noise)
  if init is not None:
    checks.all_at_least("init", init, -jnp.inf)
    if jnp.shape(init) != shape.shape:
      checks.fail("init", jnp.shape(init), f"filters of shape {shape.shape}")
    filters = project(jnp.asarray(init, shape.dtype), mask, filters)
  data = jax.random.bits(batch_key, (2,), jnp.uint32)
  return LearningState(filters, optimizer.init(filters), data, jnp.zeros((), jnp.int32))


def _check_state(state, shape, mask, optimizer, init, key):
  if init is not None or key is not None:
    checks.fail("state", "init or key beside it", "neither: it holds both")
  expected = jax.eval_shape(lambda: _start(shape, mask, optimizer, None, None))
  if jax.tree.structure(state) != jax.tree.structure(expected):
    checks.fail("state", jax.tree.structure(state), "a LearningState of this optimizer")
  for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
    if jnp.shape(got) != wanted.shape or jnp.result_type(got) != wanted.dtype:
      checks.fail(
        "state",
        (jnp.shape(got), jnp.result_type(got)),
        f"an array like {wanted.shape}, {wanted.dtype}, as for these images and this kernel",
      )
