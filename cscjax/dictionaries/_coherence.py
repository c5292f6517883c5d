"""Mutual coherence and the norms of atoms, without the explicit matrix."""

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

BLOCK = 2**22  # numbers in a block of columns of the Gram matrix, or of their atoms


@ops.highest_precision
def mutual_coherence(dictionary: Dictionary, signal_shape: Sequence[int] | None = None) -> jax.Array:
  """mu(D): largest |<d_i, d_j>| / (||d_i|| ||d_j||) over pairs of different atoms (Lemma 1), in 0..1.

  Atoms that are 0 are left out. The explicit matrix is never made, nor the whole Gram matrix.

  Without a shape, that of all shifts of the filters on an unbounded grid, where no atom is cut. Two
  shifts of dilated filters share taps only where stride * p = dilation * u, p a shift of the code and u
  of the filters' taps: mu then depends on stride s and dilation t through s / gcd(s, t) alone. So at
  stride 1 dilation leaves it as it is, and at other strides can only raise it.

  With a shape, that of `to_matrix`: atoms cut by a border and shifts around a circle are in, those
  that do not fit are not. In Fig. S1's example (0.47, and 0 with dilation 2) the dilated atoms that
  would overlap do not fit into the image any more. Dilation can raise it, too: where shifts around a
  circle meet a second time, or atoms are cut. A larger signal has the same pairs of atoms as one of
  twice a filter's extent, so sizes are cut to that.

  Args:
    dictionary: Any dictionary.
    signal_shape: Shape of one signal without batch: (n,), (L, C) or (H, W, C). Needed by a dictionary
      that is not one of this package; of no account for `MatrixDictionary`.

  Returns:
    A scalar of the dictionary's floating type, computed in float32 at least. 0 where there is but one
    atom.

  Raises:
    ValueError: If `signal_shape` does not fit the dictionary, or is needed and missing.
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
  return jnp.minimum(coherence, 1).astype(dtype)  # rounding can lead beyond 1


@ops.highest_precision
def atom_norms(dictionary: Dictionary, signal_shape: Sequence[int]) -> Code:
  """||d_j|| of every atom, those cut by a border among them, shaped like a code without batch.

  Args:
    dictionary: Any dictionary.
    signal_shape: As in `to_matrix`.

  Raises:
    ValueError: If `signal_shape` does not fit the dictionary.
  """
  shape = check_signal_shape(dictionary, signal_shape)
  if isinstance(dictionary, IdentityAugmented):
    new = atom_norms(dictionary.conv, shape)
    return jnp.ones(shape, new.dtype), new
  if isinstance(dictionary, MatrixDictionary):
    return ops.norm(jnp.asarray(dictionary.atoms, floating_type(dictionary, shape)), axis=0)
  if isinstance(dictionary, ConvDictionary) and not _meets_itself(dictionary, shape):
    filters = jnp.asarray(dictionary.filters, floating_type(dictionary, shape))
    power = ops.power_of_two(filters, axis=range(filters.ndim - 1))
    squares = dictionary.replace(filters=jnp.square(filters / power))
    sums = squares.analysis(jnp.ones(shape, filters.dtype))
    roots = jnp.where(sums > 0, jnp.sqrt(jnp.where(sums > 0, sums, 1)), sums)
    return roots * power.reshape((1,) * (roots.ndim - 1) + (-1,))
  norms = _map_atoms(dictionary, shape, lambda _, atoms: ops.norm(atoms, axis=-1))
  return _unflatten(norms, _code_shapes(dictionary, shape))


def _meets_itself(conv: ConvDictionary, shape: tuple[int, ...]) -> bool:
  """Whether a filter goes around a circular signal and back onto itself."""
  sizes = zip(conv.axes, shape[:-1], strict=True)
  return conv.padding == "CIRCULAR" and any(axis.extent > n for axis, n in sizes)


def _coherence(dictionary, shape):
  if shape is None:
    return _over_all_shifts(dictionary)
  conv = dictionary.conv if isinstance(dictionary, IdentityAugmented) else dictionary
  if isinstance(conv, ConvDictionary) and _has_just_all_shifts(conv, shape):
    return _over_all_shifts(dictionary)
  if isinstance(dictionary, IdentityAugmented):
    return _beside_identity(dictionary.conv, _enough(dictionary.conv, shape))
  if isinstance(dictionary, ConvDictionary):
    shape = _enough(dictionary, shape)
  return _largest_in_gram(dictionary, shape)


def _over_all_shifts(dictionary):
  if isinstance(dictionary, IdentityAugmented):
    filters = dictionary.conv.filters
    beside = jnp.max(jnp.abs(_unit_rows(filters.reshape(-1, filters.shape[-1]).T)))
    return jnp.maximum(beside, _over_all_shifts(dictionary.conv))
  if isinstance(dictionary, ConvDictionary):
    return _largest_correlation(dictionary)
  checks.fail("signal_shape", None, f"a shape, for a {type(dictionary).__name__}")


def _has_just_all_shifts(conv: ConvDictionary, shape: tuple[int, ...]) -> bool:
  """Whether no atom is cut, and any two overlap as on an unbounded grid and not a second time."""
  sizes = list(zip(conv.axes, shape[:-1], strict=True))
  room = all(n >= 2 * axis.extent - 1 for axis, n in sizes)
  whole_turns = all(n % axis.stride == 0 for axis, n in sizes)
  return room and (conv.padding == "VALID" or (conv.padding == "CIRCULAR" and whole_turns))


def _largest_correlation(dictionary: ConvDictionary) -> jax.Array:
  """The filters' cross-correlations at the lags that the stride lets occur."""
  *kernel, channels, count = dictionary.filters.shape
  atoms = jnp.moveaxis(dictionary.filters, -1, 0).reshape(count, -1)
  atoms = _unit_rows(atoms).reshape(count, *kernel, channels)
  steps = [axis.stride // math.gcd(axis.stride, axis.dilation) for axis in dictionary.axes]
  reach = [(k - 1) // s * s for k, s in zip(kernel, steps, strict=True)]
  lags = [2 * r // s + 1 for r, s in zip(reach, steps, strict=True)]
  zero_lag = tuple(n // 2 for n in lags)

  def largest(item):
    index, atom = item
    against = ops.conv(atom, jnp.moveaxis(atoms, 0, -1), stride=steps, padding=[(r, r) for r in reach])
    return jnp.max(jnp.abs(against).at[(*zero_lag, index)].set(0))

  batch = max(1, BLOCK // max(math.prod(lags) * count, atoms[0].size))
  return jnp.max(lax.map(largest, (jnp.arange(count), atoms), batch_size=min(batch, count)))


def _largest_in_gram(dictionary, shape):
  norms = jnp.concatenate([jnp.ravel(part) for part in jax.tree.leaves(atom_norms(dictionary, shape))])

  def largest(indices, atoms):
    atoms = _unit_rows(atoms).reshape(-1, *shape)
    gram = jnp.abs(_flatten(dictionary.analysis(atoms), len(indices)))
    gram = gram.at[jnp.arange(len(indices)), indices].set(0)
    return jnp.max(_divide(gram, norms[None]), axis=1)

  return jnp.max(_map_atoms(dictionary, shape, largest))


def _beside_identity(conv, shape):
  """mu([I, F^T]): an atom against a unit vector is its entry there."""

  def largest(_, atoms):
    return jnp.max(jnp.abs(_unit_rows(atoms)), axis=1)

  return jnp.maximum(jnp.max(_map_atoms(conv, shape, largest)), _largest_in_gram(conv, shape))


def _enough(conv: ConvDictionary, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The smallest shape with all pairs of overlapping atoms that `shape` has.

  Along an axis, two overlapping filters of extent e cover at most 2 e - 1 sites. With 2 e + s - 2 there
  is room for every such pair away from the borders, wherever the stride s puts it, and none for one that
  meets both borders (or itself around the circle); those at a border are the same at any size that
  leaves the same remainder by the stride.
  """
  spatial = []
  for n, axis in zip(shape[:-1], conv.axes, strict=True):
    enough = 2 * axis.extent + axis.stride - 2
    spatial.append(min(n, enough + (n - enough) % axis.stride))
  return (*spatial, shape[-1])


def _map_atoms(
  dictionary: Dictionary,
  shape: tuple[int, ...],
  function: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
  """function(indices [b], atoms [b, n]) -> [b] over all atoms, a block at a time."""
  shapes = _code_shapes(dictionary, shape)
  size = sum(math.prod(s.shape) for s in jax.tree.leaves(shapes))
  block = min(size, max(1, BLOCK // max(size, math.prod(shape))))
  dtype = floating_type(dictionary, shape)

  def step(first):
    indices = jnp.minimum(first + jnp.arange(block), size - 1)  # the last atom may come again
    codes = _unflatten(jax.nn.one_hot(indices, size, dtype=dtype), shapes)
    return function(indices, dictionary.synthesis(codes, (block, *shape)).reshape(block, -1))

  return lax.map(step, jnp.arange(0, size, block)).reshape(-1)[:size]


def _code_shapes(dictionary, shape) -> Any:
  signal = jax.ShapeDtypeStruct(shape, ops.common_float(*jax.tree.leaves(dictionary)))
  return jax.eval_shape(dictionary.analysis, signal)


def _flatten(code, batch):
  return jnp.concatenate([part.reshape(batch, -1) for part in jax.tree.leaves(code)], axis=1)


def _unflatten(array, shapes):
  """[..., size] -> a code with leading axes."""
  leaves, treedef = jax.tree.flatten(shapes)
  parts, start = [], 0
  for leaf in leaves:
    end = start + math.prod(leaf.shape)
    parts.append(array[..., start:end].reshape(*array.shape[:-1], *leaf.shape))
    start = end
  return jax.tree.unflatten(treedef, parts)


def _unit_rows(rows):
  """Each row divided by its norm, 0 where it is 0."""
  rows = jnp.asarray(rows, ops.common_float(rows))
  rows = rows / ops.power_of_two(rows, axis=-1)
  return _divide(rows, ops.norm(rows, axis=-1)[..., None])


def _divide(values, norms):
  """values / norms at any scale of the norms, 0 where a norm is 0, NaN where it is NaN."""
  power = ops.power_of_two(norms[None], axis=0)[0]
  norms = norms / power
  return jnp.where(norms == 0, 0, values / power / jnp.where(norms == 0, 1, norms))
