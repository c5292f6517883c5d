"""Lists of images and signals of several sizes, and atoms that start as patches of them."""

import functools
import itertools

import jax
import numpy as np
import optax
import pytest

from cscjax.learning import learn_dictionary
from tests import references

RNG = np.random.default_rng(0)
LENGTHS = (9, 12, 9, 7)
SIGNALS = [RNG.normal(size=(length, 2)) for length in LENGTHS]
INIT = RNG.normal(size=(3, 2, 2))
INIT /= np.sqrt(np.sum(INIT**2, axis=(0, 1)))
RATE = 0.2
one_step = functools.partial(
  learn_dictionary,
  beta=0.3,
  kernel=[(3, 2)],
  steps=1,
  coding_iterations=800,
  optimizer=optax.sgd(RATE),
  init=INIT,
)


def _dense_step(signals, padding):
  """Returns the objective and the atoms of a step on some signals, from a dense matrix for each."""
  objective, energy, gradient = 0.0, np.zeros(2), np.zeros(INIT.shape)
  for signal in signals:
    d = references.conv_matrix(INIT, signal.shape[:1], padding=padding)
    code, trace = references.pursue(d, signal.ravel(), 0.3, 3000, accelerate=True)
    objective += trace[-1] / len(signals)
    energy += np.sum(code.reshape(-1, 2) ** 2, axis=0) / len(signals)
    for index in np.ndindex(INIT.shape):
      unit = np.zeros(INIT.shape)
      unit[index] = 1
      change = references.conv_matrix(unit, signal.shape[:1], padding=padding) @ code
      gradient[index] += change @ (d @ code - signal.ravel()) / len(signals)
  moved = INIT - RATE * gradient / energy.max()
  return objective, moved / np.sqrt(np.sum(moved**2, axis=(0, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["CIRCULAR", "SAME"])
def test_a_step_on_all_signals_against_dense_algebra(x64, padding):
  result = one_step(SIGNALS, padding=padding)
  objective, filters = _dense_step(SIGNALS, padding)
  assert result.objective[0] == pytest.approx(objective)
  np.testing.assert_allclose(result.dictionary.filters, filters, atol=1e-6)


def test_a_step_on_a_minibatch_against_dense_algebra(x64):
  result = one_step(SIGNALS, batch_size=3)
  expected = [_dense_step(signals, "CIRCULAR") for signals in itertools.combinations(SIGNALS, 3)]
  (drawn,) = (e for e in expected if e[0] == pytest.approx(float(result.objective[0])))
  np.testing.assert_allclose(result.dictionary.filters, drawn[1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_list_of_equal_sizes_is_the_array(batch_size):
  images = np.float32(RNG.normal(size=(3, 6, 5, 1)))
  mask = np.float32(RNG.uniform(size=(3, 6, 5)) < 0.8)
  run = functools.partial(
    learn_dictionary, beta=0.3, kernel=[(3, 2)], steps=3, batch_size=batch_size, init="patches"
  )
  expected = run(images, mask=mask)
  got = run(list(images), mask=list(mask))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_minibatches_are_those_of_an_array():
  """The objective of zero codes shows which signals were drawn: signal i has energy 4^i."""
  amplitudes = np.sqrt(2 * 3 * 4.0 ** np.arange(6))
  signals = [np.float32([[a], *[[0]] * (5 + i % 2)]) for i, a in enumerate(amplitudes)]
  array = np.zeros((6, 7, 1), np.float32)
  array[:, 0, 0] = amplitudes
  run = functools.partial(learn_dictionary, beta=1e3, kernel=[(2, 1)], steps=5, batch_size=3)
  with pytest.warns(match="^beta: expected less than"):
    np.testing.assert_allclose(run(signals).objective, run(array).objective, rtol=1e-6)


@pytest.mark.slow
def test_a_run_on_several_sizes_resumes_with_the_same_bits_and_works_under_jit():
  signals = [np.float32(signal) for signal in SIGNALS[:3]]
  arguments = {"beta": 0.3, "kernel": [(3, 2)], "batch_size": 2}
  whole = learn_dictionary(signals, steps=3, **arguments)
  part = learn_dictionary(signals, steps=1, **arguments)
  rest = learn_dictionary(signals, steps=2, state=part.state, **arguments)
  np.testing.assert_array_equal(rest.dictionary.filters, whole.dictionary.filters)
  traced = jax.jit(functools.partial(learn_dictionary, steps=3, **arguments))(signals)
  np.testing.assert_allclose(traced.dictionary.filters, whole.dictionary.filters, atol=1e-5)


def _windows(image, size):
  """Returns all patches of an image as rows of norm 1."""
  axes = tuple(range(image.ndim - 1))
  patches = np.lib.stride_tricks.sliding_window_view(image, size, axes)
  rows = np.moveaxis(patches, image.ndim - 1, -1).reshape(-1, np.prod(size) * image.shape[-1])
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.slow
def test_atoms_start_as_patches_at_all_positions(x64):
  """No code is nonzero, so the atoms stay the patches. Every patch is drawn about equally often."""
  images = [RNG.normal(size=(*size, 2)) for size in ((4, 5), (3, 4))]
  windows = np.concatenate([_windows(image, (3, 3)) for image in images])  # 2 x 3 and 1 x 2
  count = 400
  with pytest.warns(match="^beta: expected less than"):
    result = learn_dictionary(images, 1e3, kernel=[(3, count)], steps=1, init="patches")
  atoms = np.reshape(result.dictionary.filters, (-1, count))
  cosines = windows @ atoms
  np.testing.assert_allclose(cosines.max(axis=0), 1, rtol=1e-5)
  drawn = np.bincount(cosines.argmax(axis=0), minlength=len(windows))
  assert np.all(np.abs(drawn - count / 8) < 4 * np.sqrt(count / 8))


@pytest.mark.slow
def test_patches_of_zeros_are_replaced_by_noise():
  with pytest.warns(match="^beta: expected less than"):
    result = learn_dictionary(np.zeros((1, 8, 1)), 1.0, kernel=[(5, 3)], steps=1, init="patches")
  filters = np.asarray(result.dictionary.filters)
  np.testing.assert_allclose(np.sum(filters**2, axis=(0, 1)), 1, rtol=1e-5)
  assert np.all(np.std(filters, axis=0) > 0.1)


@pytest.mark.slow
def test_volumes_are_learned():
  """A planted atom is found from a noisy version of it."""
  atom = RNG.normal(size=(2, 2, 2))
  atom /= np.linalg.norm(atom)
  volumes = np.zeros((4, 2, 3, 4, 1), np.float32)
  for volume, place in zip(volumes, ((0, 0), (0, 2), (1, 1), (1, 2)), strict=True):
    volume[:, place[0] : place[0] + 2, place[1] : place[1] + 2, 0] = 3 * atom
  init = (atom + RNG.normal(size=atom.shape) / 5)[..., None, None]
  result = learn_dictionary(volumes, 0.1, kernel=[(2, 1)], steps=60, padding="SAME", init=init)
  assert np.sum(init[..., 0, 0] * atom) < 0.95 * np.linalg.norm(init)
  learned = np.asarray(result.dictionary.filters)[..., 0, 0]
  assert np.sum(learned * atom) > 0.999


@pytest.mark.slow
def test_a_list_of_integers_gives_a_warning():
  images = [np.uint8(RNG.integers(0, 256, size=(6, width, 3))) for width in (6, 7)]
  with pytest.warns(match="^images: expected values in 0..1"):
    learn_dictionary(images, 0.1, kernel=[(3, 2)], steps=1, coding_iterations=1)


@pytest.mark.parametrize(
  ("name", "arguments"),
  [
    ("images", {"images": []}),
    ("images", {"images": [np.ones((8, 1)), np.ones((9, 2))]}),
    ("images", {"images": [np.ones((8, 1)), np.ones((8, 9, 1))]}),
    ("images", {"images": [np.ones(8), np.ones(9)]}),
    ("images", {"images": [np.ones((8, 1)), np.ones((0, 1))]}),
    ("images", {"images": [np.ones((8, 1)), np.full((9, 1), np.nan)]}),
    ("kernel", {"images": [np.ones((8, 1)), np.ones((2, 1))]}),
    ("batch_size", {"batch_size": 5}),
    ("mask", {"mask": np.ones((9, 2))}),
    ("mask", {"mask": [np.ones(8)] * 4}),
    ("init", {"init": "chunk"}),
    ("rank1", {"rank1": 1}),
  ],
)
def test_bad_input_names_the_argument(name, arguments):
  arguments = {"images": SIGNALS, "beta": 0.1, "kernel": [(3, 2)], "steps": 1, **arguments}
  with pytest.raises(ValueError, match=f"^{name}: expected"):
    learn_dictionary(**arguments)
