"""Norms, coherence and entries of the atoms of a convolution, from its filters."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cscjax import ops
from cscjax.dictionaries._atoms import (
  BLOCK,
  Entries,
  Representatives,
  code_size,
  gram_coherence,
  map_atoms,
  norms_of_atoms,
  unit_rows,
)
from cscjax.dictionaries._protocol import floating_type

if TYPE_CHECKING:
  from cscjax.dictionaries._conv import ConvDictionary


def conv_atom_norms(conv: "ConvDictionary", shape: tuple[int, ...]) -> jax.Array:
  """Computes the norm of every atom, including those that are cut by a border."""
  if _overlaps_itself(conv, shape):
    return norms_of_atoms(conv, shape)
  filters = jnp.asarray(conv.filters, floating_type(conv, shape))
  power = ops.power_of_two(filters, axis=range(filters.ndim - 1))
  squares = conv.replace(filters=jnp.square(filters / power))
  sums = squares.analysis(jnp.ones(shape, filters.dtype))
  roots = jnp.where(sums > 0, jnp.sqrt(jnp.where(sums > 0, sums, 1)), sums)
  return roots * power.reshape((1,) * (roots.ndim - 1) + (-1,))


def conv_atom_entries(conv: "ConvDictionary", indices: np.ndarray, shape: Sequence[int]) -> Entries:
  """Computes `AbstractDictionary.atom_entries` from the taps of the filters."""
  filters = np.asarray(conv.filters, np.float64)
  *spatial, channels = shape
  axes = list(zip(conv.axes, spatial, strict=True))
  *positions, atom = np.unravel_index(
    indices, (*(axis.code_size(n) for axis, n in axes), filters.shape[-1])
  )
  rank, count = len(axes), len(indices)
  site, inside = np.zeros((count,) + (1,) * rank, np.int64), True
  for i, (axis, n) in enumerate(axes):
    first = positions[i] * axis.stride - axis.pads(n)[0]
    place = first[:, None] + np.arange(axis.taps) * axis.dilation
    place = place.reshape(count, *(axis.taps if i == j else 1 for j in range(rank)))
    if axis.padding == "CIRCULAR":
      place = place % n
    inside = inside & (place >= 0) & (place < n)
    site = site * n + place
  rows = site[..., None] * channels + np.arange(channels)
  values = np.moveaxis(filters, -1, 0)[atom]
  inside = np.broadcast_to(np.asarray(inside)[..., None], values.shape)
  columns = np.broadcast_to(np.arange(count).reshape((-1,) + (1,) * (rank + 1)), values.shape)
  return values[inside], rows[inside], columns[inside]


def conv_coherence(conv: "ConvDictionary", shape: tuple[int, ...] | None) -> jax.Array:
  """Computes the mutual coherence on signals of a shape, or on an unbounded grid."""
  if shape is None or _is_like_unbounded(conv, shape):
    return _max_cross_correlation(conv)
  shape = reduced_shape(conv, shape, overlapping=2)
  return gram_coherence(conv, shape, conv_atom_norms(conv, shape))


def augmented_coherence(conv: "ConvDictionary", shape: tuple[int, ...] | None) -> jax.Array:
  """Computes mu([I, F^T]): the cosine between an atom and a unit vector is one of its entries."""

  def largest(_: jax.Array, atoms: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(unit_rows(atoms)), axis=1)

  if shape is None or _is_like_unbounded(conv, shape):
    entries = jnp.abs(unit_rows(conv.filters.reshape(-1, conv.filters.shape[-1]).T))
  else:
    entries = map_atoms(conv, reduced_shape(conv, shape, overlapping=2), largest)
  return jnp.maximum(jnp.max(entries), conv_coherence(conv, shape))


def _overlaps_itself(conv: "ConvDictionary", shape: tuple[int, ...]) -> bool:
  """Whether a filter is longer than a circular signal, so that it wraps around and overlaps itself."""
  sizes = zip(conv.axes, shape[:-1], strict=True)
  return conv.padding == "CIRCULAR" and any(axis.extent > n for axis, n in sizes)


def _is_like_unbounded(conv: "ConvDictionary", shape: tuple[int, ...]) -> bool:
  """Whether no atom is cut, and all pairs of atoms overlap as on an unbounded grid and not twice."""
  sizes = list(zip(conv.axes, shape[:-1], strict=True))
  room = all(n >= 2 * axis.extent - 1 for axis, n in sizes)
  whole_turns = all(n % axis.stride == 0 for axis, n in sizes)
  return room and (conv.padding == "VALID" or (conv.padding == "CIRCULAR" and whole_turns))


def _max_cross_correlation(conv: "ConvDictionary") -> jax.Array:
  """Returns the largest cross-correlation of two normalized filters at the lags that occur."""
  *kernel, channels, count = conv.filters.shape
  atoms = jnp.moveaxis(conv.filters, -1, 0).reshape(count, -1)
  atoms = unit_rows(atoms).reshape(count, *kernel, channels)
  steps = [axis.stride // math.gcd(axis.stride, axis.dilation) for axis in conv.axes]
  reach = [(k - 1) // s * s for k, s in zip(kernel, steps, strict=True)]
  lags = [2 * r // s + 1 for r, s in zip(reach, steps, strict=True)]
  zero_lag = tuple(n // 2 for n in lags)

  def largest(item: tuple[jax.Array, jax.Array]) -> jax.Array:
    index, atom = item
    cosines = ops.conv(atom, jnp.moveaxis(atoms, 0, -1), stride=steps, padding=[(r, r) for r in reach])
    return jnp.max(jnp.abs(cosines).at[(*zero_lag, index)].set(0))

  batch = max(1, BLOCK // max(math.prod(lags) * count, atoms[0].size))
  return jnp.max(lax.map(largest, (jnp.arange(count), atoms), batch_size=min(batch, count)))


def reduced_shape(conv: "ConvDictionary", shape: tuple[int, ...], overlapping: int) -> tuple[int, ...]:
  """Returns the smallest shape with the same chains of overlapping atoms as `shape`.

  Along an axis, a chain of two filters of extent e, the second of which overlaps the first, covers at
  most 2 e - 1 samples, and an atom and its neighbors on both sides 3 e - 2. With s - 1 samples more, at
  stride s, there is room for each such chain away from the borders, at every position that the stride
  allows, and no chain touches both borders (or itself around the circle). The chains at a border are the
  same for all sizes with the same remainder modulo the stride.

  Args:
    conv: The convolution.
    shape: The shape of a signal.
    overlapping: The number of filters in a chain.
  """
  spatial = []
  for n, axis in zip(shape[:-1], conv.axes, strict=True):
    sufficient = _sufficient_size(axis, overlapping)
    spatial.append(min(n, sufficient + (n - sufficient) % axis.stride))
  return (*spatial, shape[-1])


def _sufficient_size(axis: ops.Axis, overlapping: int) -> int:
  """Returns a size with room for each chain of overlapping filters."""
  return overlapping * (axis.extent - 1) + axis.stride


def conv_representatives(conv: "ConvDictionary", shape: tuple[int, ...] | None) -> Representatives:
  """Returns atoms that have the neighbors of all atoms.

  On an unbounded grid these are the filters at one position, here on a circle that is long enough.
  """
  if shape is None or _has_all_neighbors(conv, shape):
    sizes = [-(-(2 * axis.extent - 1) // axis.stride) * axis.stride for axis in conv.axes]
    *_, channels, count = conv.filters.shape
    return conv.replace(padding="CIRCULAR"), (*sizes, channels), np.arange(count)
  shape = reduced_shape(conv, shape, overlapping=3)
  return conv, shape, np.arange(code_size(conv, shape))


def _has_all_neighbors(conv: "ConvDictionary", shape: tuple[int, ...]) -> bool:
  """Whether no atom is cut, and some have all neighbors that they have on an unbounded grid, once."""
  sizes = zip(conv.axes, shape[:-1], strict=True)
  inside = all(n >= _sufficient_size(axis, 3) for axis, n in sizes)
  return _is_like_unbounded(conv, shape) and (conv.padding == "CIRCULAR" or inside)
