"""Warnings of learn_dictionary, and penalties relative to beta_max."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.learning import learn_dictionary

IMAGES = np.random.default_rng(0).normal(size=(3, 12, 12, 1)).astype(np.float32)
COLOUR = np.repeat(IMAGES[0], 3, axis=-1)
learn = functools.partial(learn_dictionary, steps=1, coding_iterations=2)


@pytest.mark.parametrize(
  ("text", "images", "beta", "kernel"),
  [
    ("beta: expected less than", IMAGES, 100, [(3, 2)]),
    ("beta: expected a fraction below 1, got 1.5", IMAGES, cscjax.relative(1.5), [(3, 2)]),
    ("images: .* looks like one image", COLOUR, 0.1, [(3, 2)]),
    pytest.param(
      *(r"images: .* looks like \[N, C, H, W\]", np.moveaxis(IMAGES, -1, 1), 0.1, [(1, 2)]),
      marks=pytest.mark.slow,
    ),
    (r"images: .* looks like \[N, C, L\]", IMAGES[:, :1, :, 0], 0.1, [(1, 2)]),
    ("images: expected values in 0..1", np.uint8(100 + 50 * IMAGES), 0.1, [(3, 2)]),
  ],
)
def test_a_call_that_is_probably_not_meant(text, images, beta, kernel):
  with pytest.warns(match=f"^{text}") as caught:
    learn(images, beta, kernel=kernel)
  assert [warning.filename for warning in caught] == [__file__]


def test_the_largest_penalty_that_a_warning_names_is_right():
  with pytest.warns(match="^beta: ") as caught:
    result = learn(IMAGES, 100, kernel=[(3, 2)])
  stated = float(str(caught[0].message).split("less than ")[1].split(",")[0])
  largest = float(np.max(cscjax.beta_max(result.dictionary, IMAGES)))
  assert stated == pytest.approx(largest, rel=1e-2)
  learn(IMAGES, 0.95 * stated, kernel=[(3, 2)])  # does not warn


def test_other_calls_do_not_warn():
  learn(COLOUR, 0.1, kernel=[((3,), 2)])  # signals, as the kernel says
  jax.jit(lambda x: learn(x, 0.1, kernel=[(3, 2)]).objective)(COLOUR)
  jax.jit(lambda x: learn(x, 100, kernel=[(3, 2)]).objective)(IMAGES)


def test_a_kernel_that_does_not_fit_channels_first_is_explained():
  with (
    pytest.warns(match=r"\[N, C, H, W\]"),
    pytest.raises(ValueError, match=r"^kernel: expected sizes"),
  ):
    learn(np.moveaxis(IMAGES, -1, 1), 0.1, kernel=[(3, 2)])


@pytest.mark.slow
def test_a_step_with_a_relative_penalty_is_that_with_beta_max_of_each_image():
  """The penalties of equal images are one number; its unit does not matter."""
  images = np.stack([IMAGES[0], np.roll(IMAGES[0], 3, axis=0)])  # periodic: the same beta_max
  init = np.random.default_rng(1).normal(size=(3, 3, 1, 2)).astype(np.float32)
  init /= np.sqrt(np.sum(init**2, axis=(0, 1, 2)))
  dictionary = cscjax.ConvDictionary(jnp.asarray(init), padding="CIRCULAR")
  fractions = np.array([0.1, 0.3], np.float32)
  expected = learn(
    images, fractions * np.max(cscjax.beta_max(dictionary, images)), kernel=[(3, 2)], init=init
  )
  for scale in (1, 1000):
    got = learn(scale * images, cscjax.relative(fractions), kernel=[(3, 2)], init=init)
    np.testing.assert_allclose(got.dictionary.filters, expected.dictionary.filters, atol=1e-5)
    np.testing.assert_allclose(got.objective, scale**2 * expected.objective, rtol=1e-5)
    np.testing.assert_array_equal(got.support_size, expected.support_size)


@pytest.mark.slow
def test_a_run_with_a_relative_penalty_resumes_with_the_same_bits():
  run = functools.partial(learn, IMAGES, cscjax.relative(0.2), kernel=[(3, 2)])
  first = run(steps=2)
  np.testing.assert_array_equal(
    run(steps=3, state=first.state).dictionary.filters, run(steps=5).dictionary.filters
  )
