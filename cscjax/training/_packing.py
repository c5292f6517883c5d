"""Packing of the many small arrays of a training state into a few vectors."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cscjax.training._optim import is_decayed


class Packing:
  """Packs the arrays of a tree into a few vectors, and unpacks them.

  An optimizer's update of a hundred arrays launches a hundred kernels on a GPU, and as many all-reduces
  on several devices; packed, it takes a few. Arrays share a vector if they have the same type and weight
  decay applies to all of them or to none, so that an elementwise optimizer gives the same result with
  the vectors as with the arrays.

  Args:
    like: A dict (of dicts) of arrays, of which only the shapes, types and names matter.
  """

  def __init__(self, like: dict[str, Any]) -> None:
    named, self._structure = jax.tree.flatten_with_path(like)
    self._shapes = [leaf.shape for _, leaf in named]
    self._members: dict[str, list[int]] = {}  # indices of the leaves in each vector
    for index, (path, leaf) in enumerate(named):
      # The names are such that `is_decayed` works for the vectors too.
      name = f"{'kernel' if is_decayed(path) else 'rest'}_{leaf.dtype.name}"
      self._members.setdefault(name, []).append(index)
    self._packed_structure = jax.tree.structure(dict.fromkeys(self._members, 0))

  def pack(self, tree: Any) -> Any:
    """Replaces each subtree that has the structure of `like` by a dict of vectors."""

    def vectors(subtree: Any) -> dict[str, jax.Array]:
      leaves = jax.tree.leaves(subtree)
      return {
        name: jnp.concatenate([leaves[index].ravel() for index in members])
        for name, members in self._members.items()
      }

    return _map_subtrees(vectors, self._structure, tree)

  def unpack(self, tree: Any) -> Any:
    """The inverse of `pack`."""

    def arrays(packed: dict[str, jax.Array]) -> Any:
      leaves = {}
      for name, members in self._members.items():
        shapes = [self._shapes[index] for index in members]
        parts = jax.lax.split(packed[name], [math.prod(shape) for shape in shapes])
        leaves |= {i: part.reshape(shape) for i, part, shape in zip(members, parts, shapes, strict=True)}
      return self._structure.unflatten([leaves[index] for index in sorted(leaves)])

    return _map_subtrees(arrays, self._packed_structure, tree)


def _map_subtrees(function: Callable[[Any], Any], structure: Any, tree: Any) -> Any:
  """Applies a function to all subtrees of one structure, and leaves the rest unchanged."""

  def matches(subtree: Any) -> bool:
    return jax.tree.structure(subtree) == structure

  return jax.tree.map(lambda t: function(t) if matches(t) else t, tree, is_leaf=matches)
