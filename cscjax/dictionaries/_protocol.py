"""The protocol of dictionaries, checks of arguments, and the matrix of a dictionary."""

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.ops import at_least_float32, common_float, highest_precision

D = TypeVar("D")

Code = Any
"""A code: an array, or a pytree of arrays if the dictionary has several parts."""


@runtime_checkable
class Dictionary(Protocol):
  """A linear map D from codes to signals: the protocol that every dictionary implements.

  A dictionary has the four members below and is a pytree (derive it from `cscjax.ops.PyTree`, or use
  `jax.tree_util.register_dataclass`). Its leaves, if it has any, are arrays of real numbers, with
  respect to which gradients can be taken. All other fields are static and must be hashable.

  `analysis` and `synthesis` must be exact adjoints, `<D^T x, g> = <x, D g>`, be linear in x and in the
  code, and accept leading batch axes. A code is an array, or a pytree of arrays (a tuple, a dict, ...)
  whose leaves start with the batch axes. Solvers compute in the floating-point type that `analysis`
  returns for a signal in the common type of x and the leaves.

  All solvers except `admm`, the theory and the functions of this package need only this protocol. A
  class that derives from `AbstractDictionary` gets all methods of a dictionary, can override those that
  it can compute faster, and can provide the circulant embedding that `admm` requires.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> class Scaled(cscjax.ops.PyTree):
    ...   factor: jax.Array
    ...   signal_ndim = 1
    ...   def analysis(self, x):
    ...     return self.factor * x
    ...   def synthesis(self, code, signal_shape=None):
    ...     return self.factor * code
    ...   def residual(self, code, x):
    ...     return self.synthesis(code) - x
    >>> result = cscjax.fista(Scaled(jnp.float32(2)), jnp.ones(3), beta=0.4)
    >>> [round(float(coefficient), 3) for coefficient in result.code]
    [0.4, 0.4, 0.4]
  """

  @property
  def signal_ndim(self) -> int:
    """Number of trailing axes that form one signal: 1 for vectors [n], 3 for images [H, W, C]."""
    ...

  def analysis(self, x: jax.Array) -> Code:
    """Computes D^T x.

    Args:
      x: Signal, with any number of leading batch axes.

    Returns:
      The code, an array or a pytree of arrays that start with the batch axes.
    """
    ...

  def synthesis(self, code: Code, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Computes D code.

    Args:
      code: The code, with any number of leading batch axes.
      signal_shape: Shape of the signal, for dictionaries in which the code does not determine it.

    Returns:
      The signal, with the batch axes of the code.
    """
    ...

  def residual(self, code: Code, x: jax.Array) -> jax.Array:
    """Computes D code - x, the gradient of 1/2 ||D code - x||^2 with respect to D code.

    Args:
      code: The code, with any number of leading batch axes.
      x: The signal, with the same batch axes.

    Returns:
      An array of the shape of `x`.
    """
    ...


def join(code: Code) -> jax.Array:
  """Concatenates the parts of a code along the channels, to form the signal of the next layer.

  Args:
    code: An array, or a pytree of arrays with equal shapes but for the last axis.

  Returns:
    One array; a code of one part is returned unchanged.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax.dictionaries import join
    >>> join((jnp.ones((8, 8, 3)), jnp.zeros((8, 8, 16)))).shape
    (8, 8, 19)
  """
  parts = jax.tree.leaves(code)
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


def split(signal: jax.Array, code: Code) -> Code:
  """Splits the channels of a signal into the parts of a code, the inverse of `join`.

  Args:
    signal: Array whose last axis has as many channels as all parts together.
    code: A code with the wanted structure and numbers of channels; only its shapes are used.

  Returns:
    A code with the structure of `code`.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax.dictionaries import split
    >>> code = (jnp.ones((8, 8, 3)), jnp.zeros((8, 8, 16)))
    >>> [part.shape for part in split(jnp.ones((8, 8, 19)), code)]
    [(8, 8, 3), (8, 8, 16)]
  """
  parts, structure = jax.tree.flatten(code)
  ends = np.cumsum([part.shape[-1] for part in parts])[:-1]
  return jax.tree.unflatten(structure, jnp.split(signal, ends, axis=-1))


def check_dictionary(dictionary: Any) -> None:
  """Checks that an argument is a dictionary.

  Args:
    dictionary: The argument.

  Raises:
    ValueError: If `dictionary` does not implement the `Dictionary` protocol, is not a pytree, has static
      fields that are not hashable, or has leaves that are not arrays of real numbers.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import check_dictionary
    >>> check_dictionary(cscjax.MatrixDictionary(jnp.eye(2)))
    >>> check_dictionary(jnp.eye(2))
    Traceback (most recent call last):
      ...
    ValueError: dictionary: expected a Dictionary (MatrixDictionary(atoms), ...), got ...
  """
  if isinstance(dictionary, type) or not isinstance(dictionary, Dictionary):
    checks.fail("dictionary", type(dictionary).__name__, "a Dictionary (MatrixDictionary(atoms), ...)")
  node = jax.tree.structure(dictionary).node_data()
  if node is None:
    checks.fail(
      "dictionary", type(dictionary).__name__, "a pytree (jax.tree_util.register_dataclass, ...)"
    )
  try:
    hash(node[1])  # a field that cannot be hashed makes later calls under `jax.jit` fail
  except TypeError as error:
    checks.fail("dictionary", type(dictionary).__name__, f"hashable static fields ({error})")
  for leaf in jax.tree.leaves(dictionary):
    checks.real_array("dictionary", leaf)


def check_part(name: str, part: Any) -> None:
  """Raises ValueError if a part of a composed dictionary is an array, such as filters or atoms.

  All other values are accepted, because JAX puts placeholders into the fields of a pytree.
  """
  if isinstance(part, jax.Array | np.ndarray | list):
    checks.fail(name, "an array", "a dictionary, such as cscjax.ConvDictionary(filters)")


def check_one_per_dictionary(dictionaries: Sequence[Dictionary], **values: Any) -> None:
  """Checks that arguments have one value per dictionary.

  Args:
    dictionaries: The dictionaries, a nonempty sequence.
    **values: The other arguments, by name.

  Raises:
    ValueError: If `dictionaries` is not a nonempty sequence, or if one of `values` is not a sequence or
      an array of the same length.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import check_one_per_dictionary
    >>> dictionaries = [cscjax.MatrixDictionary(jnp.eye(2))] * 2
    >>> check_one_per_dictionary(dictionaries, betas=[0.1, 0.2])
    >>> check_one_per_dictionary(dictionaries, betas=[0.1])
    Traceback (most recent call last):
      ...
    ValueError: betas: expected one value for each of 2 dictionaries, got 1
  """
  if not isinstance(dictionaries, Sequence) or not dictionaries:
    checks.fail("dictionaries", dictionaries, "a sequence of at least one dictionary")
  for name, value in values.items():
    count = len(value) if isinstance(value, Sequence) or np.ndim(value) else None
    if count != len(dictionaries):
      checks.fail(
        name,
        value if count is None else count,
        f"one value for each of {len(dictionaries)} dictionaries",
      )


def floating_type(dictionary: Dictionary, signal_shape: Sequence[int], *arrays: Any) -> Any:
  """Returns the floating-point type of the codes of signals in the common type of arrays and leaves."""
  dtype = common_float(*arrays, *jax.tree.leaves(dictionary))
  signal = jax.ShapeDtypeStruct(tuple(signal_shape), dtype)
  return common_float(dtype, *jax.tree.leaves(jax.eval_shape(dictionary.analysis, signal)))


def as_signal(dictionary: Dictionary, x: ArrayLike) -> jax.Array:
  """Converts a signal to the floating-point type in which solvers compute.

  Args:
    dictionary: Any dictionary.
    x: Signal of the dictionary, with any number of leading batch axes. Integers are converted.

  Returns:
    The signal in the common floating-point type of `x` and `dictionary`.

  Raises:
    ValueError: If `dictionary` is not a dictionary, or if `x` is not an array of real numbers whose
      shape the dictionary accepts.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import as_signal
    >>> as_signal(cscjax.MatrixDictionary(jnp.eye(2)), [3, 4]).dtype.name
    'float32'
  """
  check_dictionary(dictionary)
  x = checks.real_array("x", x)
  ndim = dictionary.signal_ndim
  if x.ndim < ndim:
    checks.fail("x", x.shape, f"at least {ndim} axes")
  try:
    dtype = floating_type(dictionary, x.shape[x.ndim - ndim :], x)
  except TypeError as error:  # JAX raises it for shapes that do not fit
    checks.fail("x", x.shape, f"a shape that the dictionary accepts ({str(error)[:100]})")
  return x.astype(dtype)


def in_single_precision(dictionary: D) -> D:
  """Converts the floating-point leaves of a dictionary to at least float32."""

  def convert(leaf: jax.Array) -> jax.Array:
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
      return leaf
    return jnp.asarray(leaf, at_least_float32(dtype))

  return jax.tree.map(convert, dictionary)


def check_signal_shape(dictionary: Dictionary, signal_shape: Sequence[int]) -> tuple[int, ...]:
  """Checks that a shape is that of one signal of a dictionary.

  Args:
    dictionary: Any dictionary.
    signal_shape: The shape, without batch axes: (n,), (L, C) or (H, W, C).

  Returns:
    The shape as a tuple of `int`.

  Raises:
    ValueError: If `dictionary` is not a dictionary, or if `signal_shape` is not a sequence of
      `dictionary.signal_ndim` integers >= 1 that the dictionary accepts.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import check_signal_shape
    >>> check_signal_shape(cscjax.ConvDictionary(jnp.ones((3, 3, 1, 8))), [32, 32, 1])
    (32, 32, 1)
  """
  check_dictionary(dictionary)
  ndim = dictionary.signal_ndim
  if not isinstance(signal_shape, Sequence) or len(signal_shape) != ndim:
    checks.fail("signal_shape", signal_shape, f"the {ndim} sizes of one signal, without batch axes")
  shape = tuple(checks.positive_int("signal_shape", n) for n in signal_shape)
  try:
    dtype = common_float(*jax.tree.leaves(dictionary))
    jax.eval_shape(dictionary.analysis, jax.ShapeDtypeStruct(shape, dtype))
  except (TypeError, ValueError) as error:  # JAX raises TypeError for shapes that do not fit
    reason = checks.one_line(error)
    raise ValueError(
      f"signal_shape: expected a shape that the dictionary accepts, got {shape} ({reason})"
    ) from error
  return shape


@highest_precision
def to_matrix(dictionary: Dictionary, signal_shape: Sequence[int]) -> jax.Array:
  """Computes the matrix of a dictionary.

  The matrix has as many entries as a signal has samples times the number of coefficients of its code, so
  this is for small signals.

  Args:
    dictionary: Any dictionary.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).

  Returns:
    A matrix of shape [n, p], n = prod(signal_shape), with `D code = matrix @ code` for signals and codes
    that are flattened in row-major order. The leaves of a code that is a pytree are concatenated.

  Raises:
    ValueError: If `signal_shape` does not fit the dictionary.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.ConvDictionary(jnp.array([1.0, 2.0]).reshape(2, 1, 1), padding="VALID")
    >>> cscjax.to_matrix(dictionary, (3, 1)).tolist()
    [[1.0, 0.0], [2.0, 1.0], [0.0, 2.0]]
  """
  signal_shape = check_signal_shape(dictionary, signal_shape)
  size = math.prod(signal_shape)
  dtype = floating_type(dictionary, signal_shape)
  signals = jnp.eye(size, dtype=dtype).reshape(size, *signal_shape)
  rows = jax.tree.leaves(dictionary.analysis(signals))
  return jnp.concatenate([row.reshape(size, -1) for row in rows], axis=1)
