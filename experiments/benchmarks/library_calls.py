"""The float32 calls of cscjax whose kernels the suite `kernels` counts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from cscjax import ConvDictionary, MatrixDictionary, admm, fista, learn_dictionary
from cscjax.solvers import TEST_PERIOD

IMAGE, FILTERS = (256, 256, 1), (8, 8, 1, 32)
TOLERANCE, BETA = 1e-3, 0.1
FILTER_SIZE = FILTERS[0]


class Call(NamedTuple):
  """A call that runs one loop.

  Attributes:
    function: Function of arrays that makes the call.
    shapes: Shapes of the arrays.
    iterations: Number of solver iterations in one iteration of the loop.
  """

  function: Callable[..., Any]
  shapes: tuple[tuple[int, ...], ...]
  iterations: int = 1


def _fista_conv(x: jax.Array, filters: jax.Array, step: jax.Array) -> Any:
  return fista(
    ConvDictionary(filters, padding="SAME"), x, BETA, tolerance=TOLERANCE, step=step, record=()
  )


def _fista_adaptive(x: jax.Array, filters: jax.Array) -> Any:
  return fista(ConvDictionary(filters, padding="SAME"), x, BETA, tolerance=TOLERANCE, record=())


def _admm_conv(x: jax.Array, filters: jax.Array) -> Any:
  return admm(ConvDictionary(filters, padding="SAME"), x, BETA, tolerance=TOLERANCE, record=())


def _fista_dense(x: jax.Array, matrix: jax.Array, step: jax.Array) -> Any:
  return fista(MatrixDictionary(matrix), x, BETA, tolerance=TOLERANCE, step=step, record=())


def _learn_dictionary(images: jax.Array) -> Any:
  return learn_dictionary(images, BETA, kernel=((8, 32),), batch_size=4)


CALLS = {
  "fista_g256x32": Call(_fista_conv, (IMAGE, FILTERS, ()), TEST_PERIOD),
  "fista_adaptive_g256x32": Call(_fista_adaptive, (IMAGE, FILTERS), TEST_PERIOD),
  "admm_g256x32": Call(_admm_conv, (IMAGE, FILTERS), TEST_PERIOD),
  "fista_dense": Call(_fista_dense, ((1000,), (1000, 5000), ()), TEST_PERIOD),
  "learn_dictionary": Call(_learn_dictionary, ((16, 64, 64, 1),)),  # one iteration is one learning step
}
