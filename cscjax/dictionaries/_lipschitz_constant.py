"""The Lipschitz constant of any dictionary: from its matrix, or certified by the Lanczos method."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cscjax import ops
from cscjax.dictionaries._atoms import code_size, synthesized_atoms
from cscjax.dictionaries._block_circulant import largest_eigenvalue
from cscjax.dictionaries._protocol import Dictionary, floating_type, to_matrix

DENSE_SIZE = 256  # largest size of a signal or a code for which the matrix is used
FAILURE_PROBABILITY = 1e-6  # probability, over the random start, that a certified L is too small


def is_small(dictionary: Dictionary, shape: tuple[int, ...]) -> bool:
  """Whether a signal or its code is so small that the matrix of the dictionary gives L exactly."""
  return min(math.prod(shape), code_size(dictionary, shape)) <= DENSE_SIZE


def dense_constant(dictionary: Dictionary, shape: tuple[int, ...]) -> jax.Array:
  """Computes L from the matrix of the dictionary, or from its transpose if codes are small."""
  size = code_size(dictionary, shape)
  if math.prod(shape) <= size:
    return largest_gram_eigenvalue(to_matrix(dictionary, shape))
  atoms = synthesized_atoms(dictionary, shape, jnp.arange(size))
  return largest_gram_eigenvalue(atoms.reshape(size, -1))


def largest_gram_eigenvalue(matrix: jax.Array) -> jax.Array:
  """Computes lambda_max(D^T D) for a matrix D."""
  matrix, scale = ops.scaled(matrix)
  wide = matrix if matrix.shape[0] < matrix.shape[1] else matrix.T
  return scale * (scale * largest_eigenvalue(wide @ wide.T))


def certified_bound(
  dictionary: Dictionary, shape: tuple[int, ...], tolerance: float, key: jax.Array | None
) -> jax.Array:
  """Computes the upper bound of `lipschitz` by the Lanczos method."""
  dtype = floating_type(dictionary, shape)
  key = jax.random.key(0, impl="threefry2x32") if key is None else key
  start = jax.random.normal(key, shape, dtype)
  return _largest_ritz_value(dictionary, start, lanczos_steps(start.size, tolerance)) / (1 - tolerance)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _largest_ritz_value(dictionary: Dictionary, start: jax.Array, iterations: int) -> jax.Array:
  """Computes the largest Ritz value of D D^T, with derivative v^T d(D D^T) v for the Ritz vector v.

  Unlike the derivative of `eigvalsh`, this one is finite for repeated eigenvalues.
  """
  frame, scale = _frame_operator(dictionary, start)
  return scale * (scale * ops.lanczos_max(frame, start, iterations))


@_largest_ritz_value.defjvp
@ops.highest_precision
def _(iterations: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
  dictionary, start = primals
  frame, scale = _frame_operator(dictionary, start)
  vector = ops.lanczos_vector(frame, start, iterations)

  def quotient(dictionary: Dictionary) -> Any:
    parts = jax.tree.leaves(dictionary.analysis(vector))
    return sum(jnp.sum(jnp.square(part / scale)) for part in parts)

  _, tangent = jax.jvp(quotient, (dictionary,), (tangents[0],))
  value = _largest_ritz_value(dictionary, start, iterations)
  return value, (scale * (scale * tangent)).astype(value.dtype)


def _frame_operator(
  dictionary: Dictionary, start: jax.Array
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
  """Returns the map v -> D D^T v / scale^2, and the scale.

  The scale divides the code and the result separately, so that neither overflows nor underflows.
  """
  scale = ops.power_of_two(dictionary.analysis(start))

  def frame(x: jax.Array) -> jax.Array:
    code = jax.tree.map(lambda part: part / scale.astype(part.dtype), dictionary.analysis(x))
    return dictionary.synthesis(code, x.shape) / scale.astype(x.dtype)

  return frame, scale.astype(start.dtype)


def lanczos_steps(size: int, tolerance: float) -> int:
  """Returns the number k of Lanczos iterations for `lipschitz`, where n = `size`.

  k is not limited to n. In exact arithmetic n iterations would suffice, but in floating point the
  vectors lose their orthogonality, and n iterations can miss the largest eigenvalue by more than the
  tolerance.
  """
  bound = math.log(1.648 * math.sqrt(size) / FAILURE_PROBABILITY)
  return math.ceil((bound / math.sqrt(tolerance) + 1) / 2)
