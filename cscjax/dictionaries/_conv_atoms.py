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
  gram_coherence,
  map_atoms,
  norms_of_atoms,
  unit_rows,
)
from cscjax.dictionaries._base import floating_type

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
  shape = _reduced_shape(conv, shape)
  return gram_coherence(conv, shape, conv_atom_norms(conv, shape))


def augmented_coherence(conv: "ConvDictionary", shape: tuple[int, ...] | None) -> jax.Array:
  """Computes mu([I, F^T]): the cosine between an atom and a unit vector is one of its entries."""

  def largest(_: jax.Array, atoms: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(unit_rows(atoms)), axis=1)

  if shape is None or _is_like_unbounded(conv, shape):
    entries = jnp.abs(unit_rows(conv.filters.reshape(-1, conv.filters.shape[-1]).T))
  else:
    entries = map_atoms(conv, _reduced_shape(conv, shape), largest)
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


def _reduced_shape(conv: "ConvDictionary", shape: tuple[int, ...]) -> tuple[int, ...]:
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
