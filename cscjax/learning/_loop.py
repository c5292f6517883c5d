"""The loop of dictionary learning over minibatches: traces, the stopping rule, and callbacks."""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cscjax import checks
from cscjax.dictionaries import ConvDictionary
from cscjax.learning._images import Images, minibatch
from cscjax.learning._steps import LearningState, advance, in_units, with_objective_in
from cscjax.ops import at_least_float32, compact_repr, vary_alike
from cscjax.solvers import TEST_PERIOD, Callback, report

if TYPE_CHECKING:
  from cscjax.learning._learner import DictionaryLearner


class LearningResult(NamedTuple):
  """The result of `learn_dictionary`.

  The traces (`objective` and `support_size`) end with the last step. Under `jax.jit` and other
  transformations, where shapes cannot depend on values, traces with a tolerance have the length of
  `max_steps`, and are zero after the stop: cut them to `trace[:steps]` outside.

  Attributes:
    dictionary: The learned dictionary, whose atoms have norm 1.
    objective: Mean of 1/2 ||x - D code||^2 + beta ||code||_1 over the minibatch of each step, before the
      step changes the atoms: [steps].
    support_size: Number of nonzero coefficients of each atom, averaged over the minibatch of each step:
      [steps, m].
    steps: Number of steps that were run, an int32 scalar.
    converged: Whether the objective changed by at most the tolerance; None without a tolerance.
    state: The state after the last step, from which a later call can continue.
  """

  dictionary: ConvDictionary
  objective: jax.Array
  support_size: jax.Array
  steps: jax.Array
  converged: jax.Array | None
  state: LearningState

  def __repr__(self) -> str:
    return compact_repr(self, traces=("objective", "support_size"))


class _Test(NamedTuple):
  """The stopping rule, which compares the mean objectives of successive periods.

  Attributes:
    total: Sum of the objectives of the steps of this period.
    previous: Mean objective of the last complete period; infinite before.
    converged: Whether the last two of them differed by at most the tolerance.
  """

  total: jax.Array
  previous: jax.Array
  converged: jax.Array


def cut_traces(result: LearningResult) -> LearningResult:
  """Cuts the traces of a result to the steps that were run, unless their number is traced."""
  if checks.is_traced(result):
    return result
  steps = int(result.steps)
  return result._replace(objective=result.objective[:steps], support_size=result.support_size[:steps])


@partial(jax.jit, static_argnames=("batch_size", "length", "callbacks"))
def run_steps(
  images: Images,
  learner: "DictionaryLearner",
  state: LearningState,
  steps: int,
  tolerance: jax.Array | None,
  *,
  batch_size: int,
  length: int,
  callbacks: tuple[Callback, ...],
) -> LearningResult:
  """Runs steps on minibatches of some images.

  Args:
    images: All images.
    learner: The settings.
    state: The state before the first step.
    steps: Number of steps; with a tolerance, the largest number. It is traced, because with a static
      number the compiler could round short loops differently.
    tolerance: The tolerance, or None.
    batch_size: Number of images of a minibatch.
    length: Length of the traces.
    callbacks: The functions that follow the steps.
  """
  images, learner, state, tolerance = vary_alike((images, learner, state, tolerance))
  images, unit = in_units(images)
  epoch = images.count // batch_size
  period = -(-TEST_PERIOD // epoch) * epoch  # whole epochs, of at least TEST_PERIOD steps

  def tested(test: _Test, tolerance: jax.Array, objective: jax.Array, i: jax.Array) -> _Test:
    total = test.total + objective.astype(test.total.dtype)
    is_over = (i + 1) % period == 0
    mean = total / period
    is_near = jnp.abs(test.previous - mean) <= tolerance * mean
    return _Test(
      jnp.where(is_over, 0, total), jnp.where(is_over, mean, test.previous), is_over & is_near
    )

  def body(i: jax.Array, carry: Any) -> Any:
    state, test, objectives, supports = carry
    drawn = None
    if batch_size < images.count:
      drawn = minibatch(images.count, batch_size, state.key, state.step)
    state = advance(learner, images, unit, state, drawn)
    is_last = i + 1 == steps
    if tolerance is not None:
      test = tested(test, tolerance, state.objective, i)
      is_last = is_last | test.converged
    if callbacks:
      report(callbacks, i + 1, with_objective_in(unit, state).objective, None, is_last)
    return (
      *(state, test),
      objectives.at[i].set(state.objective),
      supports.at[i].set(state.support_size),
    )

  like = images.stacks[0]
  traces = (
    jnp.zeros_like(like, shape=length),
    jnp.zeros_like(like, shape=(length, state.filters.shape[-1])),
  )
  if tolerance is None:
    done, converged = jnp.asarray(steps, jnp.int32), None
    state, _, objectives, supports = lax.fori_loop(0, steps, body, (state, None, *traces))
  else:
    zero = jnp.zeros_like(like, at_least_float32(like.dtype), shape=())
    test = _Test(zero, zero + jnp.inf, jnp.zeros_like(zero, bool))

    def unfinished(carry: Any) -> jax.Array:
      done, (_, test, *_) = carry
      return (done < steps) & ~test.converged & ~jnp.isnan(test.previous)

    def run_period(carry: Any) -> Any:
      done, carry = carry
      end = jnp.minimum(done + period, steps)
      return end, lax.fori_loop(done, end, body, carry)

    start = (jnp.zeros((), jnp.int32), (state, test, *traces))
    done, (state, test, objectives, supports) = lax.while_loop(unfinished, run_period, start)
    converged = test.converged
  return LearningResult(
    dictionary=learner.dictionary(state),
    objective=objectives * unit * unit,
    support_size=supports,
    steps=done,
    converged=converged,
    state=with_objective_in(unit, state),
  )
