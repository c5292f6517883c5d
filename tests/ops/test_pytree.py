"""Frozen dataclasses as pytrees: their structures, static fields and copies."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import struct

import cscjax
from cscjax import ops


class Sum(ops.PyTree):
  parts: tuple
  weight: float = struct.field(pytree_node=False, default=1.0)

  def __post_init__(self):
    if self.weight < 0:
      raise ValueError("weight")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Double:
  """A user's dictionary, registered with JAX alone."""

  size: jax.Array
  signal_ndim = 1

  def analysis(self, x):
    return 2 * x

  def synthesis(self, code, signal_shape=None):
    return 2 * code

  def residual(self, code, x):
    return self.synthesis(code) - x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Triple(Double):
  def analysis(self, x):
    return 3 * x

  def synthesis(self, code, signal_shape=None):
    return 3 * code


def _structure(tree):
  return jax.tree.structure(tree)


def _subclasses(cls):
  return [cls, *(found for child in cls.__subclasses__() for found in _subclasses(child))]


def test_objects_of_different_classes_have_different_structures():
  conv = cscjax.ConvDictionary(jnp.ones((3, 1, 2)))
  same_fields = [
    cscjax.MaskedDictionary(conv, jnp.ones(1)),
    cscjax.ScaledDictionary(conv, jnp.ones(1)),
    type("UserDictionary", (cscjax.ScaledDictionary,), {})(conv, jnp.ones(1)),
  ]
  structures = [_structure(d) for d in same_fields]
  assert all(a != b for i, a in enumerate(structures) for b in structures[:i])
  assert _structure(cscjax.MaskedDictionary(conv, jnp.zeros(1))) == structures[0]


@pytest.mark.parametrize(
  "wrap",
  [
    lambda d: cscjax.Lasso(d, jnp.ones(3), 0.1),
    lambda d: cscjax.StackedDictionary([d, d]),
    lambda d: Sum(({"part": [d]},)),
    cscjax.dictionaries.with_methods,
  ],
)
def test_the_structure_tells_dataclasses_of_users_apart(wrap):
  assert _structure(wrap(Double(jnp.ones(1)))) != _structure(wrap(Triple(jnp.ones(1))))


def test_every_class_of_the_package_is_told_apart_by_jax():
  """Classes that JAX compares by their fields alone may only be those of the training state."""
  by_fields = [cls for cls in _subclasses(struct.PyTreeNode) if cls.__module__.startswith("cscjax.")]
  names = {cls.__name__ for cls in by_fields}
  assert names <= {"TrainState", "EpochMetrics"}


def test_leaves_may_be_labels():
  """Optax takes a tree of strings to say which leaves get which optimizer."""
  dictionary = cscjax.MaskedDictionary(cscjax.ConvDictionary(jnp.ones((3, 1, 2))), jnp.ones(1))
  labels = jax.tree.map(lambda _: "frozen", dictionary)
  assert jax.tree.leaves(labels) == ["frozen", "frozen"]
  assert _structure(labels) == _structure(dictionary)


def test_copies_are_checked():
  total = Sum((jnp.ones(2),))
  assert total.replace(weight=2.0).weight == 2
  with pytest.raises(ValueError, match="weight"):
    total.replace(weight=-1.0)
  with pytest.raises(TypeError, match="heavy"):
    total.replace(heavy=1)
  with pytest.raises(ValueError, match="stride"):
    cscjax.ConvDictionary(jnp.ones((3, 1, 2))).replace(stride=0)


def test_jax_rebuilds_objects_without_their_checks():
  total = Sum((jnp.ones(2), jnp.zeros(())), 3.0)
  shapes = jax.eval_shape(lambda tree: tree, total)
  assert shapes.weight == 3
  assert shapes.parts[0].shape == (2,)
  leaves, structure = jax.tree.flatten(total)
  assert jax.tree.unflatten(structure, [None, object()]).parts[0] is None
  paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(total)]
  assert paths == [".parts[0]", ".parts[1]"]
  assert len(leaves) == 2
