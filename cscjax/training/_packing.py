"""The arrays of a training state as a few vectors, one for each thing that is done with them."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from cscjax.training._optim import is_decayed


class Packing:
  """How a tree of many small arrays becomes one of a few vectors, and back.

  An update of a hundred arrays takes a hundred kernels on a GPU, and on several devices as many sums
  over them. Arrays are packed together if they have the same type and weight decay is for all of them or
  for none, so that an elementwise optimizer does the same with the vectors as with the arrays.

  Args:
    like: A dict (of dicts) of arrays; their shapes, types and names count.
  """

  def __init__(self, like: dict[str, Any]):
    named, self._structure = jax.tree.flatten_with_path(like)
    self._shapes = [leaf.shape for _, leaf in named]
    self._members: dict[str, list[int]] = {}  # of each vector, as positions among the leaves
    for index, (path, leaf) in enumerate(named):
      # Names by which `is_decayed` tells the vectors apart too.
      name = f"{'kernel' if is_decayed(path) else 'rest'}_{leaf.dtype.name}"
      self._members.setdefault(name, []).append(index)
    self._packed_structure = jax.tree.structure(dict.fromkeys(self._members, 0))

  def pack(self, tree: Any) -> Any:
    """Replaces each subtree that has the structure of `like` by a dict of vectors."""

    def vectors(subtree):
      leaves = jax.tree.leaves(subtree)
      return {
        name: jnp.concatenate([leaves[index].ravel() for index in members])
        for name, members in self._members.items()
      }

    return _map_subtrees(vectors, self._structure, tree)

  def unpack(self, tree: Any) -> Any:
    """The inverse of `pack`."""

    def arrays(packed):
      leaves = {}
      for name, members in self._members.items():
        shapes = [self._shapes[index] for index in members]
        parts = jax.lax.split(packed[name], [math.prod(shape) for shape in shapes])
        leaves |= {i: part.reshape(shape) for i, part, shape in zip(members, parts, shapes, strict=True)}
      return self._structure.unflatten([leaves[index] for index in sorted(leaves)])

    return _map_subtrees(arrays, self._packed_structure, tree)


def _map_subtrees(function, structure, tree):
  """Applies a function to the subtrees of one structure, and leaves all else."""

  def matches(subtree):
    return jax.tree.structure(subtree) == structure

  return jax.tree.map(lambda t: function(t) if matches(t) else t, tree, is_leaf=matches)
