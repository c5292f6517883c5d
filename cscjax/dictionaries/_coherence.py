"""Mutual coherence and norms of the atoms, computed without the matrix of the dictionary."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cscjax import checks, ops
from cscjax.dictionaries._base import (
  Code,
  Dictionary,
  check_dictionary,
  check_signal_shape,
  floating_type,
  in_single_precision,
)
from cscjax.dictionaries._conv import ConvDictionary
from cscjax.dictionaries._identity import IdentityAugmented
from cscjax.dictionaries._matrix import MatrixDictionary

BLOCK = 2**22  # largest number of values in a block of columns of the Gram matrix, or of atoms


@ops.highest_precision
def mutual_coherence(dictionary: Dictionary, signal_shape: Sequence[int] | None = None) -> jax.Array:
  """Computes the mutual coherence of a dictionary: the largest absolute cosine between two of its atoms.

  It is `mu(D) = max_{i != j} |<d_i, d_j>| / (||d_i|| ||d_j||)` (Lemma 1). Atoms that are zero are
  ignored. Neither the matrix of the dictionary nor its whole Gram matrix is stored.

  Without `signal_shape`, the atoms are all shifts of the filters on an unbounded grid, where no border
  cuts them. With dilation, two shifts have taps in common only if `stride * p = dilation * u`, where p
  is a shift of the code and u a shift of the taps. Hence mu depends on a stride s and a dilation t only
  through s / gcd(s, t): dilation does not change it at stride 1, and can only increase it at other
  strides.

  With `signal_shape`, the atoms are the columns of `to_matrix`. Atoms that are cut by a border and
  shifts around a circle are included; atoms that do not fit into the signal are not. In the example of
  Fig. S1 (mu is 0.47, and 0 with dilation 2) the dilated atoms that would overlap no longer fit into the
  image. Dilation can also increase mu, if it makes a border cut atoms or shifts around a circle overlap
  twice. For convolutions, the cost does not grow with signals beyond about twice the extent of a filter,
  because larger signals have the same pairs of overlapping atoms.

  Args:
    dictionary: Any dictionary.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C). It is not needed for
      a `MatrixDictionary`, and required for dictionaries that are not of this package.

  Returns:
    A scalar in [0, 1] of the floating-point type of the dictionary, computed in at least float32. It is
    zero for a single atom.

  Raises:
    ValueError: If `dictionary` is not a dictionary, or if `signal_shape` does not fit it or is missing
      although it is required.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> filters = jnp.array([1.0, 2.0]).reshape(2, 1, 1)
    >>> round(float(cscjax.mutual_coherence(cscjax.ConvDictionary(filters))), 3)  # 2 / (1 + 4)
    0.4
  """
  check_dictionary(dictionary)
  if isinstance(dictionary, MatrixDictionary) and signal_shape is None:
    signal_shape = dictionary.atoms.shape[:1]
  if signal_shape is None:
    dtype = ops.common_float(*jax.tree.leaves(dictionary))
  else:
    signal_shape = check_signal_shape(dictionary, signal_shape)
    dtype = floating_type(dictionary, signal_shape)
  coherence = _coherence(in_single_precision(dictionary), signal_shape)
  return jnp.minimum(coherence, 1).astype(dtype)  # rounding can exceed 1


@ops.highest_precision
def atom_norms(dictionary: Dictionary, signal_shape: Sequence[int]) -> Code:
  """Computes the norm of every atom, including those that are cut by a border.

  Args:
    dictionary: Any dictionary.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).

  Returns:
    The norms, as a code without batch axes.

  Raises:
    ValueError: If `dictionary` is not a dictionary, or if `signal_shape` does not fit it.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import atom_norms
    >>> norms = atom_norms(cscjax.MatrixDictionary(jnp.array([[3.0, 0.0], [4.0, 1.0]])), (2,))
    >>> [round(float(norm), 3) for norm in norms]
    [5.0, 1.0]
  """
  shape = check_signal_shape(dictionary, signal_shape)
  if isinstance(dictionary, IdentityAugmented):
    new = atom_norms(dictionary.conv, shape)
    return jnp.ones(shape, new.dtype), new
  if isinstance(dictionary, MatrixDictionary):
    return ops.norm(jnp.asarray(dictionary.atoms, floating_type(dictionary, shape)), axis=0)
  if isinstance(dictionary, ConvDictionary) and not _overlaps_itself(dictionary, shape):
    filters = jnp.asarray(dictionary.filters, floating_type(dictionary, shape))
    power = ops.power_of_two(filters, axis=range(filters.ndim - 1))
    squares = dictionary.replace(filters=jnp.square(filters / power))
    sums = squares.analysis(jnp.ones(shape, filters.dtype))
    roots = jnp.where(sums > 0, jnp.sqrt(jnp.where(sums > 0, sums, 1)), sums)
    return roots * power.reshape((1,) * (roots.ndim - 1) + (-1,))
  norms = _map_atoms(dictionary, shape, lambda _, atoms: ops.norm(atoms, axis=-1))
  return _unflatten(norms, _code_shapes(dictionary, shape))


def _overlaps_itself(conv: ConvDictionary, shape: tuple[int, ...]) -> bool:
  """Whether a filter is longer than a circular signal, so that it wraps around and overlaps itself."""
  sizes = zip(conv.axes, shape[:-1], strict=True)
  return conv.padding == "CIRCULAR" and any(axis.extent > n for axis, n in sizes)


def _coherence(dictionary: Dictionary, shape: tuple[int, ...] | None) -> jax.Array:
  """Computes `mutual_coherence` for checked arguments."""
  if shape is None:
    return _unbounded_coherence(dictionary)
  conv = dictionary.conv if isinstance(dictionary, IdentityAugmented) else dictionary
  if isinstance(conv, ConvDictionary) and _is_like_unbounded(conv, shape):
    return _unbounded_coherence(dictionary)
  if isinstance(dictionary, IdentityAugmented):
    return _augmented_coherence(dictionary.conv, _reduced_shape(dictionary.conv, shape))
  if isinstance(dictionary, ConvDictionary):
    shape = _reduced_shape(dictionary, shape)
  return _gram_coherence(dictionary, shape)


def _unbounded_coherence(dictionary: Dictionary) -> jax.Array:
  """Computes the coherence of all shifts of the filters on an unbounded grid."""
  if isinstance(dictionary, IdentityAugmented):
    filters = dictionary.conv.filters
    with_identity = jnp.max(jnp.abs(_unit_rows(filters.reshape(-1, filters.shape[-1]).T)))
    return jnp.maximum(with_identity, _unbounded_coherence(dictionary.conv))
  if isinstance(dictionary, ConvDictionary):
    return _max_cross_correlation(dictionary)
  checks.fail(
    "signal_shape", None, f"the shape of a signal, which a {type(dictionary).__name__} requires"
  )


def _is_like_unbounded(conv: ConvDictionary, shape: tuple[int, ...]) -> bool:
  """Whether no atom is cut, and all pairs of atoms overlap as on an unbounded grid and not twice."""
  sizes = list(zip(conv.axes, shape[:-1], strict=True))
  room = all(n >= 2 * axis.extent - 1 for axis, n in sizes)
  whole_turns = all(n % axis.stride == 0 for axis, n in sizes)
  return room and (conv.padding == "VALID" or (conv.padding == "CIRCULAR" and whole_turns))


def _max_cross_correlation(dictionary: ConvDictionary) -> jax.Array:
  """Returns the largest cross-correlation of two normalized filters at the lags that occur."""
  *kernel, channels, count = dictionary.filters.shape
  atoms = jnp.moveaxis(dictionary.filters, -1, 0).reshape(count, -1)
  atoms = _unit_rows(atoms).reshape(count, *kernel, channels)
  steps = [axis.stride // math.gcd(axis.stride, axis.dilation) for axis in dictionary.axes]
  reach = [(k - 1) // s * s for k, s in zip(kernel, steps, strict=True)]
  lags = [2 * r // s + 1 for r, s in zip(reach, steps, strict=True)]
  zero_lag = tuple(n // 2 for n in lags)

  def largest(item: tuple[jax.Array, jax.Array]) -> jax.Array:
    index, atom = item
    cosines = ops.conv(atom, jnp.moveaxis(atoms, 0, -1), stride=steps, padding=[(r, r) for r in reach])
    return jnp.max(jnp.abs(cosines).at[(*zero_lag, index)].set(0))

  batch = max(1, BLOCK // max(math.prod(lags) * count, atoms[0].size))
  return jnp.max(lax.map(largest, (jnp.arange(count), atoms), batch_size=min(batch, count)))


def _gram_coherence(dictionary: Dictionary, shape: tuple[int, ...]) -> jax.Array:
  """Computes the coherence from the Gram matrix, one block of columns at a time."""
  norms = jnp.concatenate([jnp.ravel(part) for part in jax.tree.leaves(atom_norms(dictionary, shape))])

  def largest(indices: jax.Array, atoms: jax.Array) -> jax.Array:
    atoms = _unit_rows(atoms).reshape(-1, *shape)
    gram = jnp.abs(_flatten(dictionary.analysis(atoms), len(indices)))
    gram = gram.at[jnp.arange(len(indices)), indices].set(0)
    return jnp.max(_divide(gram, norms[None]), axis=1)

  return jnp.max(_map_atoms(dictionary, shape, largest))


def _augmented_coherence(conv: ConvDictionary, shape: tuple[int, ...]) -> jax.Array:
  """Computes mu([I, F^T]): the cosine between an atom and a unit vector is one of its entries."""

  def largest(_: jax.Array, atoms: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(_unit_rows(atoms)), axis=1)

  return jnp.maximum(jnp.max(_map_atoms(conv, shape, largest)), _gram_coherence(conv, shape))


def _reduced_shape(conv: ConvDictionary, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the smallest shape with the same pairs of overlapping atoms as `shape`.

  Along an axis, two overlapping filters of extent e cover at most 2 e - 1 samples. A size of 2 e + s - 2
  has room for every such pair away from the borders, at every position that the stride s allows, and no
  pair touches both borders (or itself around the circle). The pairs at a border are the same for all
  sizes with the same remainder modulo the stride.
  """
  spatial = []
  for n, axis in zip(shape[:-1], conv.axes, strict=True):
    sufficient = 2 * axis.extent + axis.stride - 2
    spatial.append(min(n, sufficient + (n - sufficient) % axis.stride))
  return (*spatial, shape[-1])


def _map_atoms(
  dictionary: Dictionary,
  shape: tuple[int, ...],
  function: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
  """Applies a function (indices [b], atoms [b, n]) -> [b] to all atoms, one block at a time."""
  shapes = _code_shapes(dictionary, shape)
  size = sum(math.prod(s.shape) for s in jax.tree.leaves(shapes))
  block = min(size, max(1, BLOCK // max(size, math.prod(shape))))
  dtype = floating_type(dictionary, shape)

  def step(first: jax.Array) -> jax.Array:
    indices = jnp.minimum(first + jnp.arange(block), size - 1)  # repeats the last atom in the last block
    codes = _unflatten(jax.nn.one_hot(indices, size, dtype=dtype), shapes)
    return function(indices, dictionary.synthesis(codes, (block, *shape)).reshape(block, -1))

  return lax.map(step, jnp.arange(0, size, block)).reshape(-1)[:size]


def _code_shapes(dictionary: Dictionary, shape: tuple[int, ...]) -> Any:
  """Returns the shapes of the leaves of a code."""
  signal = jax.ShapeDtypeStruct(shape, ops.common_float(*jax.tree.leaves(dictionary)))
  return jax.eval_shape(dictionary.analysis, signal)


def _flatten(code: Code, batch: int) -> jax.Array:
  """Converts a code with one batch axis to an array [batch, size]."""
  return jnp.concatenate([part.reshape(batch, -1) for part in jax.tree.leaves(code)], axis=1)


def _unflatten(array: jax.Array, shapes: Any) -> Code:
  """Converts an array [..., size] to a code with batch axes."""
  leaves, treedef = jax.tree.flatten(shapes)
  parts, start = [], 0
  for leaf in leaves:
    end = start + math.prod(leaf.shape)
    parts.append(array[..., start:end].reshape(*array.shape[:-1], *leaf.shape))
    start = end
  return jax.tree.unflatten(treedef, parts)


def _unit_rows(rows: jax.Array) -> jax.Array:
  """Divides each row by its norm; rows of zeros stay zero."""
  rows = jnp.asarray(rows, ops.common_float(rows))
  rows = rows / ops.power_of_two(rows, axis=-1)
  return _divide(rows, ops.norm(rows, axis=-1)[..., None])


def _divide(values: jax.Array, norms: jax.Array) -> jax.Array:
  """Computes values / norms safely at any scale; the result is 0 for a norm of 0, and NaN for NaN."""
  power = ops.power_of_two(norms[None], axis=0)[0]
  norms = norms / power
  return jnp.where(norms == 0, 0, values / power / jnp.where(norms == 0, 1, norms))
