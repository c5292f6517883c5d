"""One step of dictionary learning: sparse codes of a minibatch, a gradient step, and the projection."""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cscjax.dictionaries import ConvDictionary
from cscjax.learning._images import Images
from cscjax.learning._kernels import project, support_mask, with_rank
from cscjax.ops import compact_repr, conv, expand_rank, power_of_two, vary_alike
from cscjax.solvers import RelativePenalty, beta_max, fista

if TYPE_CHECKING:
  from cscjax.learning._learner import DictionaryLearner


class LearningState(NamedTuple):
  """The state of dictionary learning: a pytree of arrays that can be saved and passed to a later call.

  Attributes:
    filters: The filters, [kh, kw, C, m], [k, C, m] or [kd, kh, kw, C, m].
    optimizer: State of the Optax optimizer.
    key: Key data of the random minibatches, uint32 [2].
    step: Number of steps done so far, an int32 scalar.
    objective: Mean of 1/2 ||x - D code||^2 + beta ||code||_1 over the minibatch of the last step, before
      that step changed the atoms; infinite before the first step.
    support_size: Number of nonzero coefficients of each atom, averaged over the minibatch of the last
      step: [m].
    unused: Number of steps since each atom was last used or replaced, int32 [m].
  """

  filters: jax.Array
  optimizer: Any
  key: jax.Array
  step: jax.Array
  objective: jax.Array
  support_size: jax.Array
  unused: jax.Array

  def __repr__(self) -> str:
    return compact_repr(self)


class _Sums(NamedTuple):
  """Sums over the images of a minibatch, divided by their number.

  Attributes:
    objective: 1/2 ||x - D code||^2 + beta ||code||_1.
    gradient: The gradient of the data term with respect to the filters.
    energy: ||code_j||^2 of each atom, [m].
    support_size: Number of nonzero coefficients of each atom, [m].
  """

  objective: jax.Array
  gradient: jax.Array
  energy: jax.Array
  support_size: jax.Array


class _Patch(NamedTuple):
  """The part of a minibatch that is reconstructed worst.

  Attributes:
    error: Its squared error, a scalar.
    values: The patch, [kh, kw, C] or [k, C].
  """

  error: jax.Array
  values: jax.Array


def in_units(images: Images) -> tuple[Images, jax.Array]:
  """Divides images by a power of two, with which squares stay in the range of float32; returns both.

  The atoms do not depend on this unit.
  """
  unit = power_of_two(images.stacks)
  return images.replace(stacks=tuple(stack / unit for stack in images.stacks)), unit


def with_objective_in(unit: jax.Array, state: LearningState) -> LearningState:
  """Converts the objective of a state from unit^2 to the scale of the images."""
  return state._replace(objective=state.objective * unit * unit)


@jax.jit
def one_step(images: Images, learner: "DictionaryLearner", state: LearningState) -> LearningState:
  """Returns the state after one step on all images."""
  images, learner, state = vary_alike((images, learner, state))
  images, unit = in_units(images)
  return with_objective_in(unit, advance(learner, images, unit, state))


def advance(
  learner: "DictionaryLearner",
  images: Images,
  unit: jax.Array,
  state: LearningState,
  drawn: jax.Array | None = None,
) -> LearningState:
  """Returns the state after one step.

  Args:
    learner: The settings.
    images: The images, from `in_units`.
    unit: The unit of the images. The penalty and the objective of the new state are in this unit.
    state: The state before the step.
    drawn: Indices of the images of the minibatch; all images if None.
  """
  support = support_mask(with_rank(learner.kernel, images.stacks[0].ndim - 2))
  # The atom that may be replaced in this step: of those unused longest, the first.
  candidate = jnp.argmax(state.unused)
  window = lax.dynamic_index_in_dim(jnp.asarray(support, state.filters.dtype), candidate, axis=-1)
  sums, patch = _encode_minibatch(learner, images, unit, state.filters, window, drawn)
  energy = jnp.max(sums.energy)
  # The momentum of the optimizer must not see the gradient outside the support either.
  gradient = jnp.where(support & (energy > 0), sums.gradient / jnp.where(energy > 0, energy, 1), 0)
  changes, optimizer = learner.optimizer.update(gradient, state.optimizer, state.filters)
  moved = jnp.asarray(optax.apply_updates(state.filters, changes))
  unused = jnp.where(sums.support_size > 0, 0, state.unused + 1)
  if learner.replace_unused is not None:
    replaced = (jnp.arange(len(unused)) == candidate) & (unused >= learner.replace_unused)
    moved = jnp.where(expand_rank(replaced, moved.ndim), patch.values[..., None], moved)
    unused = jnp.where(replaced, 0, unused)
    # The momentum belongs to the old atom.
    optimizer = optax.tree_utils.tree_map_params(
      learner.optimizer, lambda v: jnp.where(expand_rank(replaced, v.ndim), 0, v), optimizer
    )
  return LearningState(
    filters=project(moved, support, state.filters, rank1=learner.rank1),
    optimizer=optimizer,
    key=state.key,
    step=state.step + 1,
    objective=sums.objective,
    support_size=sums.support_size,
    unused=unused,
  )


def _encode_minibatch(
  learner: "DictionaryLearner",
  images: Images,
  unit: jax.Array,
  filters: jax.Array,
  window: jax.Array,
  drawn: jax.Array | None,
) -> tuple[_Sums, _Patch]:
  """Encodes the images of a step."""
  count = images.count if drawn is None else len(drawn)
  encode = partial(_encode, learner, unit, count, filters, window)
  if len(images.stacks) == 1:
    rows = (images.stacks[0], images.masks[0]) if drawn is None else images.rows(0, drawn)
    return encode(*rows)
  if drawn is None:
    found = [encode(*rows) for rows in zip(images.stacks, images.masks, strict=True)]
    parts = jax.tree.map(lambda *values: jnp.stack(values), *found)
  else:

    def encode_one(place: jax.Array) -> tuple[_Sums, _Patch]:
      branches = [
        lambda row, index=index: encode(*images.rows(index, row)) for index in range(len(images.stacks))
      ]
      return lax.switch(place[0], branches, place[1:])

    parts = lax.map(encode_one, images.places[drawn])
  sums, patches = parts
  worst = jnp.argmax(patches.error)
  return (
    jax.tree.map(lambda values: jnp.sum(values, axis=0), sums),
    jax.tree.map(lambda values: values[worst], patches),
  )


def _encode(
  learner: "DictionaryLearner",
  unit: jax.Array,
  count: int,
  filters: jax.Array,
  window: jax.Array,
  x: jax.Array,
  mask: jax.Array | None,
) -> tuple[_Sums, _Patch]:
  """Encodes images [n, ...]; returns sums divided by `count`, and the worst patch in the window."""
  dictionary = ConvDictionary(filters, padding=learner.padding)
  weighed = x if mask is None else mask * x
  if isinstance(learner.beta, RelativePenalty):
    largest = beta_max(dictionary, weighed, nonnegative=learner.nonnegative)
    penalty = expand_rank(jnp.asarray(learner.beta.fraction, x.dtype), x.ndim) * largest
  else:
    penalty = expand_rank(jnp.asarray(learner.beta, x.dtype) / unit, x.ndim)
  code = fista(
    dictionary,
    x,
    penalty,
    iterations=learner.coding_iterations,
    step="adaptive",
    nonnegative=learner.nonnegative,
    mask=mask,
    record=(),
  ).code

  def data_term(filters: jax.Array) -> tuple[jax.Array, jax.Array]:
    square = jnp.square(dictionary.replace(filters=filters).residual(code, x))
    error = square if mask is None else mask * square
    return 0.5 * jnp.sum(error) / count, error

  (value, error), gradient = jax.value_and_grad(data_term, has_aux=True)(filters)
  axes = tuple(range(code.ndim - 1))
  sums = _Sums(
    objective=value + jnp.sum(penalty * jnp.abs(code)) / count,
    gradient=gradient,
    energy=jnp.sum(jnp.square(code), axis=axes) / count,
    support_size=(jnp.count_nonzero(code, axis=axes) / count).astype(value.dtype),
  )
  return sums, _worst_patch(weighed, error, window)


def _worst_patch(x: jax.Array, error: jax.Array, window: jax.Array) -> _Patch:
  """Returns the patch of some images with the largest sum of errors in a window [kh, kw, 1, 1]."""
  errors = conv(jnp.sum(error, axis=-1, keepdims=True), window, padding="VALID")
  place = jnp.unravel_index(jnp.argmax(errors), errors.shape)
  sizes = (1, *window.shape[:-2], x.shape[-1])
  return _Patch(jnp.max(errors), lax.dynamic_slice(x, place, sizes)[0])
