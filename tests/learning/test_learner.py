"""DictionaryLearner: single steps, replaced atoms, and the stopping rule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cscjax.learning import DictionaryLearner, learn_dictionary

RNG = np.random.default_rng(0)
IMAGES = np.float32(RNG.normal(size=(6, 10, 9, 2)))
LEARNER = DictionaryLearner(kernel=[(3, 4)], beta=0.5, coding_iterations=5)


@functools.partial(jax.jit, static_argnames="learner")  # the learner is hashable
def step(learner, images, state):
  return learner.step(images, state)


def test_single_steps_are_those_of_a_run():
  state, objectives = LEARNER.init(IMAGES, key=jax.random.key(1)), []
  for _ in range(3):
    state = step(LEARNER, IMAGES, state)
    objectives.append(state.objective)
  run = functools.partial(learn_dictionary, IMAGES, 0.5, kernel=[(3, 4)], coding_iterations=5)
  expected = run(steps=3, key=jax.random.key(1))
  np.testing.assert_allclose(objectives, expected.objective, rtol=1e-5)
  np.testing.assert_allclose(state.support_size, expected.support_size[-1], rtol=1e-5)
  np.testing.assert_allclose(state.filters, expected.dictionary.filters, atol=1e-5)
  assert jax.tree.structure(state) == jax.tree.structure(expected.state)
  assert LEARNER.dictionary(state).padding == "CIRCULAR"


@pytest.mark.slow
def test_streamed_minibatches_and_a_penalty_that_is_traced():
  """A minibatch of three images has the mean objective of its images; a run continues its state."""
  state = LEARNER.init(IMAGES[:1])
  of_one = [LEARNER.step(IMAGES[i : i + 1], state).objective for i in range(3)]
  of_all = jax.jit(lambda learner, state: learner.step(IMAGES[:3], state))(LEARNER, state)
  np.testing.assert_allclose(of_all.objective, np.mean(of_one), rtol=1e-5)
  assert LEARNER.run(IMAGES, steps=4, batch_size=3, state=of_all).state.step == 5


def _worst(images, size):
  """Returns the patch with the largest energy, of norm 1."""
  found = [
    image[i : i + size, j : j + size]
    for image in images
    for i in range(image.shape[0] - size + 1)
    for j in range(image.shape[1] - size + 1)
  ]
  patch = max(found, key=np.linalg.norm)
  return patch / np.linalg.norm(patch)


@pytest.mark.parametrize(
  "images",
  [IMAGES, pytest.param([IMAGES[0], IMAGES[1, :5], IMAGES[2, :5]], marks=pytest.mark.slow)],
)
def test_unused_atoms_become_the_worst_patches(images):
  """All codes are zero, so the worst patch is that with the largest energy; one atom a step."""
  learner = LEARNER.replace(kernel=[(3, 1), (2, 2)], beta=1e3, replace_unused=3)
  states = [learner.init(images)]
  for _ in range(4):
    states.append(learner.step(images, states[-1]))
  filters = [np.asarray(state.filters) for state in states]
  np.testing.assert_allclose(filters[2], filters[0], atol=1e-6)
  np.testing.assert_allclose(filters[3][..., 0], _worst(images, 3), atol=1e-6)
  np.testing.assert_allclose(filters[3][..., 1:], filters[0][..., 1:], atol=1e-6)
  # The window of a smaller atom is the part of the patch on which it is supported.
  inner = [image[:-1, :-1] for image in images]
  np.testing.assert_allclose(filters[4][:2, :2, :, 1], _worst(inner, 2), atol=1e-6)
  np.testing.assert_array_equal(states[4].unused, [1, 0, 4])


@pytest.mark.slow
def test_a_replaced_atom_has_no_momentum_and_a_used_one_stays():
  learner = LEARNER.replace(beta=np.array([1e3, 0.1, 0.1, 1e3]), optimizer=optax.sgd(0.1, momentum=0.9))
  state = learner.init(IMAGES)
  ones = jax.tree.map(jnp.ones_like, state.optimizer)
  state = learner.step(IMAGES, state._replace(unused=jnp.array([5, 9, 8, 9], jnp.int32), optimizer=ones))
  np.testing.assert_array_equal(state.unused, [6, 0, 0, 10])  # atom 1 was due, but was used
  state = learner.step(IMAGES, state)
  np.testing.assert_array_equal(state.unused, [7, 0, 0, 0])
  momentum = np.asarray(state.optimizer[0].trace)
  assert not np.any(momentum[..., 3])
  assert np.all(np.any(momentum[..., :3], axis=(0, 1, 2)))


def _stop(objective, tolerance, period):
  """Returns the number of steps after which the rule holds."""
  means = np.asarray(objective).reshape(-1, period).mean(axis=1)
  near = np.abs(np.diff(means)) <= tolerance * means[1:]
  return (int(np.argmax(near)) + 2) * period


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "period"), [(None, 10), (2, 12)])
def test_a_run_stops_when_the_objective_rests(batch_size, period):
  tolerance = 1e-2
  run = functools.partial(
    learn_dictionary, IMAGES, 0.5, kernel=[(3, 4)], coding_iterations=5, batch_size=batch_size
  )
  long = run(steps=10 * period)
  result = run(tolerance=tolerance, max_steps=500)
  expected = _stop(long.objective, tolerance, period)
  assert result.steps == result.state.step == expected
  assert 2 * period < expected < 10 * period
  assert result.converged
  assert result.objective.shape == (expected,)
  assert result.support_size.shape == (expected, 4)
  np.testing.assert_allclose(result.objective, long.objective[:expected], rtol=1e-4)
  assert (long.steps, long.converged) == (10 * period, None)


@pytest.mark.slow
def test_a_run_that_does_not_converge_ends_with_max_steps():
  history = []
  run = functools.partial(LEARNER.run, IMAGES, callback=history.append)
  result = run(tolerance=0, max_steps=25)
  assert (result.steps, result.converged, len(result.objective)) == (25, False, 25)
  assert [stats.is_last for stats in history] == [False] * 24 + [True]
  history.clear()
  traced = jax.jit(lambda: run(tolerance=0.9, max_steps=500))()
  jax.effects_barrier()
  assert (traced.steps, traced.converged, len(traced.objective)) == (20, True, 500)
  assert [stats.is_last for stats in history] == [False] * 19 + [True]
