"""Norms, coherence and entries of the atoms of any dictionary, one block of atoms at a time."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cscjax import ops
from cscjax.dictionaries._protocol import Code, Dictionary, floating_type

BLOCK = 2**22  # largest number of values in a block of columns of the Gram matrix, or of atoms
Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The values, rows and columns of the entries of a sparse matrix."""
Representatives = tuple[Dictionary, tuple[int, ...], np.ndarray]
"""A dictionary, the shape of its signals and the positions of some atoms in a flattened code."""


def norms_of_atoms(dictionary: Dictionary, shape: tuple[int, ...]) -> Code:
  """Computes the norm of every atom from the atoms themselves."""
  norms = map_atoms(dictionary, shape, lambda _, atoms: ops.norm(atoms, axis=-1))
  return unflatten(norms, code_shapes(dictionary, shape))


def gram_coherence(dictionary: Dictionary, shape: tuple[int, ...], norms: Code) -> jax.Array:
  """Computes the coherence from the Gram matrix and the norms of the atoms."""
  norms = jnp.concatenate([jnp.ravel(part) for part in jax.tree.leaves(norms)])

  def largest(indices: jax.Array, atoms: jax.Array) -> jax.Array:
    atoms = unit_rows(atoms).reshape(-1, *shape)
    gram = jnp.abs(flatten(dictionary.analysis(atoms), len(indices)))
    gram = gram.at[jnp.arange(len(indices)), indices].set(0)
    return jnp.max(_divide(gram, norms[None]), axis=1)

  return jnp.max(map_atoms(dictionary, shape, largest))


def map_atoms(
  dictionary: Dictionary,
  shape: tuple[int, ...],
  function: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
  """Applies a function (indices [b], atoms [b, n]) -> [b] to all atoms, one block at a time."""
  size = code_size(dictionary, shape)
  block = min(size, max(1, BLOCK // max(size, math.prod(shape))))

  def step(first: jax.Array) -> jax.Array:
    indices = jnp.minimum(first + jnp.arange(block), size - 1)  # repeats the last atom in the last block
    return function(indices, synthesized_atoms(dictionary, shape, indices).reshape(block, -1))

  return lax.map(step, jnp.arange(0, size, block)).reshape(-1)[:size]


def synthesized_atoms(dictionary: Dictionary, shape: tuple[int, ...], indices: jax.Array) -> jax.Array:
  """Returns the atoms with the given positions [b] in a flattened code: [b, *shape]."""
  size, dtype = code_size(dictionary, shape), floating_type(dictionary, shape)
  codes = unflatten(jax.nn.one_hot(indices, size, dtype=dtype), code_shapes(dictionary, shape))
  return dictionary.synthesis(codes, (len(indices), *shape))


def entries_of_atoms(dictionary: Dictionary, indices: np.ndarray, shape: tuple[int, ...]) -> Entries:
  """Returns the entries of some atoms that are not zero."""
  block = max(1, BLOCK // max(code_size(dictionary, shape), math.prod(shape)))
  parts = []
  for start in range(0, len(indices), block):
    chosen = jnp.asarray(indices[start : start + block])
    atoms = np.asarray(synthesized_atoms(dictionary, shape, chosen), np.float64)
    columns, rows = np.nonzero(atoms.reshape(len(chosen), -1))
    parts.append((atoms.reshape(len(chosen), -1)[columns, rows], rows, start + columns))
  if not parts:
    return np.zeros(0), np.zeros(0, int), np.zeros(0, int)
  values, rows, columns = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
  return values, rows, columns


def code_size(dictionary: Dictionary, shape: tuple[int, ...]) -> int:
  """Returns the number of coefficients of a code."""
  return sum(math.prod(part.shape) for part in jax.tree.leaves(code_shapes(dictionary, shape)))


def code_shapes(dictionary: Dictionary, shape: tuple[int, ...]) -> Any:
  """Returns the shapes of the leaves of a code."""
  signal = jax.ShapeDtypeStruct(shape, ops.common_float(*jax.tree.leaves(dictionary)))
  return jax.eval_shape(dictionary.analysis, signal)


def flatten(code: Code, batch: int) -> jax.Array:
  """Converts a code with one batch axis to an array [batch, size]."""
  return jnp.concatenate([part.reshape(batch, -1) for part in jax.tree.leaves(code)], axis=1)


def unflatten(array: jax.Array, shapes: Any) -> Code:
  """Converts an array [..., size] to a code with batch axes."""
  leaves, treedef = jax.tree.flatten(shapes)
  parts, start = [], 0
  for leaf in leaves:
    end = start + math.prod(leaf.shape)
    parts.append(array[..., start:end].reshape(*array.shape[:-1], *leaf.shape))
    start = end
  return jax.tree.unflatten(treedef, parts)


def unit_rows(rows: jax.Array) -> jax.Array:
  """Divides each row by its norm; rows of zeros stay zero."""
  rows = jnp.asarray(rows, ops.common_float(rows))
  rows = rows / ops.power_of_two(rows, axis=-1)
  return _divide(rows, ops.norm(rows, axis=-1)[..., None])


def _divide(values: jax.Array, norms: jax.Array) -> jax.Array:
  """Computes values / norms safely at any scale; the result is 0 for a norm of 0, and NaN for NaN."""
  power = ops.power_of_two(norms[None], axis=0)[0]
  norms = norms / power
  return jnp.where(norms == 0, 0, values / power / jnp.where(norms == 0, 1, norms))
