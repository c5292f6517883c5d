"""Warnings of solvers about units and axes that are probably not meant: when, where, and when not."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax

SIGNALS = cscjax.ConvDictionary(jnp.ones((3, 3, 2)) / 3)
IMAGES = cscjax.ConvDictionary(jnp.ones((3, 3, 1, 2)) / 3)
COLOUR = np.zeros((12, 16, 3), np.float32)
PIXELS = np.full((8, 8, 1), 200, np.uint8)

CALLS = {
  "ista": lambda d, x, beta: cscjax.ista(d, x, beta, iterations=1),
  "admm": lambda d, x, beta: cscjax.admm(d, x, beta, iterations=1),
  "layered_thresholding": lambda d, x, beta: cscjax.layered_thresholding([d], x, [beta]),
  "layered_bp": lambda d, x, beta: cscjax.layered_bp([d], x, [beta], iterations=1),
  "ml_ista": lambda d, x, beta: cscjax.ml_ista([d], x, [beta], iterations=1),
}


@pytest.mark.parametrize(
  "name", [n if n in ("ista", "layered_bp") else pytest.param(n, marks=pytest.mark.slow) for n in CALLS]
)
def test_warnings_point_at_the_call(name):
  for dictionary, x, text in (
    (SIGNALS, COLOUR, "^x: expected signals .* looks like one image"),
    (IMAGES, PIXELS, "^x: expected values in 0..1 for a penalty of 0.1, got integers"),
  ):
    with pytest.warns(match=text) as caught:
      CALLS[name](dictionary, x, 0.1)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
  ("dictionary", "x", "beta"),
  [
    (SIGNALS, COLOUR[None], 0.1),  # a batch axis more
    (SIGNALS, np.zeros((100, 16, 3), np.float32), 0.1),  # too long for an image
    (SIGNALS, np.zeros((5, 12, 3), np.float32), 0.1),  # too small for an image
    (SIGNALS, COLOUR[0], 0.1),  # one signal
    (IMAGES, PIXELS, 20),  # a penalty for 0..255
    (IMAGES, PIXELS, cscjax.relative(0.1)),
    (IMAGES, PIXELS, 0),
    (IMAGES, PIXELS / np.float32(255), 0.1),
    (cscjax.MatrixDictionary(jnp.eye(2)), [3, 4], 0.1),  # a list
  ],
)
def test_other_calls_do_not_warn(dictionary, x, beta):
  cscjax.fista(dictionary, x, beta, iterations=1)  # a warning would be an error


def test_no_warning_under_jit():
  for dictionary, x in ((SIGNALS, COLOUR), (IMAGES, PIXELS)):
    jax.jit(lambda x, d=dictionary: cscjax.fista(d, x, 0.1, iterations=1).code)(x)


def test_beta_max_of_integers_does_not_warn():
  assert cscjax.beta_max(IMAGES, PIXELS) > 255


def test_a_warning_is_given_once_per_line():
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("default")
    for _ in range(3):
      cscjax.ista(SIGNALS, COLOUR, 0.1, iterations=1)
  assert len(caught) == 1
