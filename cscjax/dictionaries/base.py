"""What a dictionary is, and its explicit matrix."""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from cscjax import checks

Code = Any
"""A code: an array, or a pytree of arrays where a dictionary joins several."""


@runtime_checkable
class Dictionary(Protocol):
  """A linear map D from codes to signals, a pytree whose leaves are its atoms.

  `analysis` and `synthesis` are exact adjoints: <D^T x, g> = <x, D g>. Leading axes of signals and
  codes are batch. Solvers and models ask for no more than this.
  """

  @property
  def signal_ndim(self) -> int:
    """How many trailing axes of an array are one signal: 1 for vectors [n], 3 for images [H, W, C]."""
    ...

  def analysis(self, x: jax.Array) -> Code:
    """D^T x."""
    ...

  def synthesis(self, code: Code, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """D code; `signal_shape` tells the signal's size where the code leaves it open."""
    ...

  def residual(self, code: Code, x: jax.Array) -> jax.Array:
    """D code - x, the gradient of the data term with respect to D code."""
    ...


def join(code: Code) -> jax.Array:
  """A code as the signal of the next layer: its parts concatenated along the channels."""
  parts = jax.tree.leaves(code)
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


def check_dictionary(dictionary: Any) -> None:
  """ValueError where it is none, or its atoms are no real numbers."""
  for leaf in jax.tree.leaves(dictionary):
    checks.real_array("dictionary", leaf)
  if not isinstance(dictionary, Dictionary):
    checks.fail("dictionary", type(dictionary).__name__, "a Dictionary (MatrixDictionary(atoms), ...)")


def check_signal_shape(dictionary: Dictionary, signal_shape: Sequence[int]) -> tuple[int, ...]:
  """`signal_shape` as a tuple; ValueError where it is not the shape of one signal without batch."""
  check_dictionary(dictionary)
  ndim = dictionary.signal_ndim
  if not isinstance(signal_shape, Sequence) or len(signal_shape) != ndim:
    checks.fail("signal_shape", signal_shape, f"the {ndim} sizes of one signal, without batch")
  shape = tuple(checks.positive_int("signal_shape", n) for n in signal_shape)
  try:
    jax.eval_shape(dictionary.analysis, jax.ShapeDtypeStruct(shape, jnp.float32))
  except ValueError as error:
    raise ValueError(f"signal_shape: {shape} does not fit the dictionary ({error})") from error
  return shape


def to_matrix(dictionary: Dictionary, signal_shape: Sequence[int]) -> jax.Array:
  """The explicit matrix of a dictionary, for small shapes: tests, theory and figures.

  Args:
    dictionary: Any dictionary.
    signal_shape: Shape of one signal without batch: (n,), (L, C) or (H, W, C).

  Returns:
    [n, p] with D code = matrix @ code for signals and codes flattened in C order (a code that is a
    pytree: its leaves one after the other), n = prod(signal_shape).
  """
  signal_shape = check_signal_shape(dictionary, signal_shape)
  size = math.prod(signal_shape)
  dtype = jnp.result_type(*jax.tree.leaves(dictionary))
  signals = jnp.eye(size, dtype=dtype).reshape(size, *signal_shape)
  rows = jax.tree.leaves(dictionary.analysis(signals))
  return jnp.concatenate([row.reshape(size, -1) for row in rows], axis=1)
