"""What a dictionary is, and its explicit matrix."""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.ops import at_least_float32, common_float, highest_precision

Code = Any
"""A code: an array, or a pytree of arrays where a dictionary joins several."""


@runtime_checkable
class Dictionary(Protocol):
  """A linear map D from codes to signals: the protocol that a dictionary of your own has to meet.

  A dictionary has the four members below and is a pytree (`jax.tree_util.register_dataclass`,
  `flax.struct.PyTreeNode`) whose leaves, if there are any, are arrays of real numbers: what a gradient
  can be taken of. Everything else is a static field and has to be hashable.

  `analysis` and `synthesis` must be exact adjoints, <D^T x, g> = <x, D g>, linear in x and in the code,
  and accept leading batch axes. A code is an array, or a pytree of arrays (a tuple, a dict, ...) whose
  leaves have the batch axes first. Solvers compute in the floating type that `analysis` returns for a
  signal of the type of x and of the leaves together.

  `ista`, `fista`, the layered and multi-layer solvers, `beta_max`, `duality_gap`, `lipschitz`,
  `to_matrix`, `atom_norms` and `mutual_coherence` (with a shape) ask for no more than this. `omp`,
  `admm` and the theory of stripes and patches need the dictionaries of this package, and say so.

  Example:
    >>> @jax.tree_util.register_dataclass
    ... @dataclasses.dataclass(frozen=True)
    ... class Scaled:
    ...   factor: jax.Array
    ...   signal_ndim = 1
    ...   def analysis(self, x):
    ...     return self.factor * x
    ...   def synthesis(self, code, signal_shape=None):
    ...     return self.factor * code
    ...   def residual(self, code, x):
    ...     return self.synthesis(code) - x
    >>> cscjax.fista(Scaled(jnp.float32(2)), jnp.ones(3), beta=0.4).code
    Array([0.4, 0.4, 0.4], dtype=float32)
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


def split(signal: jax.Array, code: Code) -> Code:
  """The inverse of `join`: the channels of a signal as the parts of a code like `code`."""
  parts, structure = jax.tree.flatten(code)
  ends = np.cumsum([part.shape[-1] for part in parts])[:-1]
  return jax.tree.unflatten(structure, jnp.split(signal, ends, axis=-1))


def check_dictionary(dictionary: Any) -> None:
  """Raises ValueError if it is no `Dictionary`, or its leaves are not arrays of real numbers."""
  if isinstance(dictionary, type) or not isinstance(dictionary, Dictionary):
    checks.fail("dictionary", type(dictionary).__name__, "a Dictionary (MatrixDictionary(atoms), ...)")
  node = jax.tree.structure(dictionary).node_data()
  if node is None:
    checks.fail(
      "dictionary", type(dictionary).__name__, "a pytree (jax.tree_util.register_dataclass, ...)"
    )
  try:
    hash(node[1])  # jit's cache compares them: one that it cannot compare makes later calls fail
  except TypeError as error:
    checks.fail("dictionary", type(dictionary).__name__, f"hashable static fields ({error})")
  for leaf in jax.tree.leaves(dictionary):
    checks.real_array("dictionary", leaf)


def check_one_per_dictionary(dictionaries: Sequence[Dictionary], **values: Any) -> None:
  """ValueError where an argument has not one value for each dictionary, or there is none."""
  if not isinstance(dictionaries, Sequence) or not dictionaries:
    checks.fail("dictionaries", dictionaries, "a sequence of at least one")
  for name, value in values.items():
    count = len(value) if isinstance(value, Sequence) or np.ndim(value) else None
    if count != len(dictionaries):
      checks.fail(
        name, value if count is None else count, f"one for each of {len(dictionaries)} dictionaries"
      )


def floating_type(dictionary: Dictionary, signal_shape: Sequence[int], *arrays: Any) -> Any:
  """The floating type of codes, for signals of this shape in the type of `arrays` and the leaves."""
  dtype = common_float(*arrays, *jax.tree.leaves(dictionary))
  signal = jax.ShapeDtypeStruct(tuple(signal_shape), dtype)
  return common_float(dtype, *jax.tree.leaves(jax.eval_shape(dictionary.analysis, signal)))


def as_signal(dictionary: Dictionary, x: ArrayLike) -> jax.Array:
  """`x` in the floating type of signal and dictionary together (integers are converted)."""
  check_dictionary(dictionary)
  x = checks.real_array("x", x)
  ndim = dictionary.signal_ndim
  if x.ndim < ndim:
    checks.fail("x", x.shape, f"at least {ndim} axes")
  try:
    dtype = floating_type(dictionary, x.shape[x.ndim - ndim :], x)
  except TypeError as error:  # JAX's, for shapes that do not fit
    checks.fail("x", x.shape, f"a shape that the dictionary takes ({str(error)[:100]})")
  return x.astype(dtype)


def in_single_precision(dictionary: Dictionary) -> Dictionary:
  """The dictionary with its floating leaves in float32 at least."""

  def convert(leaf):
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
      return leaf
    return jnp.asarray(leaf, at_least_float32(dtype))

  return jax.tree.map(convert, dictionary)


def check_signal_shape(dictionary: Dictionary, signal_shape: Sequence[int]) -> tuple[int, ...]:
  """`signal_shape` as a tuple; ValueError where it is not the shape of one signal without batch."""
  check_dictionary(dictionary)
  ndim = dictionary.signal_ndim
  if not isinstance(signal_shape, Sequence) or len(signal_shape) != ndim:
    checks.fail("signal_shape", signal_shape, f"the {ndim} sizes of one signal, without batch")
  shape = tuple(checks.positive_int("signal_shape", n) for n in signal_shape)
  try:
    dtype = common_float(*jax.tree.leaves(dictionary))
    jax.eval_shape(dictionary.analysis, jax.ShapeDtypeStruct(shape, dtype))
  except (TypeError, ValueError) as error:  # JAX raises TypeError for shapes that do not fit
    reason = " ".join(str(error).split())[:200]
    raise ValueError(f"signal_shape: {shape} does not fit the dictionary ({reason})") from error
  return shape


@highest_precision
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
  dtype = floating_type(dictionary, signal_shape)
  signals = jnp.eye(size, dtype=dtype).reshape(size, *signal_shape)
  rows = jax.tree.leaves(dictionary.analysis(signals))
  return jnp.concatenate([row.reshape(size, -1) for row in rows], axis=1)
