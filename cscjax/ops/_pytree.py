"""Immutable objects that are pytrees, and whose constructors may check their arguments."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Self, dataclass_transform

import jax
from flax import struct


@dataclass_transform(frozen_default=True, field_specifiers=(struct.field,))
class PyTree:
  """The base class of frozen dataclasses that are pytrees, such as dictionaries, problems and solvers.

  The annotated fields of a subclass are the arguments of its constructor. A field is static if it is
  declared with `flax.struct.field(pytree_node=False)`. JAX rebuilds an object without calling its
  constructor, which may therefore check and convert its arguments: the leaves of a gradient or of a
  shape need not be valid arguments.

  Use this class instead of `flax.struct.PyTreeNode` and `jax.tree_util.register_dataclass`. In jaxlib
  0.10 to 0.12 at least, the structures of objects of two such classes are equal if their fields are, and
  only the hashes tell them apart, so that `jax.jit` sometimes runs what it has compiled for the other
  class. The structure of a `PyTree` contains its class and the classes of the dataclasses in its fields.

  The constructor takes keywords only if the class statement says `kw_only=True`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flax import struct
    >>> from cscjax import ops
    >>> class Scale(ops.PyTree):
    ...   factor: jax.Array
    ...   axis: str = struct.field(pytree_node=False, default="x")
    >>> scale = Scale(jnp.float32(2))
    >>> jax.tree.map(lambda a: 3 * a, scale).replace(axis="y")
    Scale(factor=Array(6., dtype=float32), axis='y')
  """

  def __init_subclass__(cls, *, kw_only: bool = False, **kwargs: Any):
    super().__init_subclass__(**kwargs)
    dataclasses.dataclass(frozen=True, kw_only=kw_only)(cls)
    jax.tree_util.register_pytree_with_keys(cls, cls._flatten, cls._unflatten)

  def replace(self, **changes: Any) -> Self:
    """Returns a copy with other values of some fields, which only `__post_init__` checks, if defined.

    Args:
      **changes: The new values, by the names of the fields.

    Returns:
      An object of the same class.

    Raises:
      TypeError: If the object has no field of a name.
    """
    unknown = changes.keys() - vars(self).keys()
    if unknown:
      raise TypeError(f"{type(self).__name__} has no fields {sorted(unknown)}")
    new = self._unflatten(((), {**vars(self), **changes}.items(), ()), ())
    check = getattr(new, "__post_init__", None)
    if check is not None:
      check()
    return new

  def _flatten(self) -> tuple[Any, Any]:
    fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
    values = {field.name: getattr(self, field.name) for field in fields}
    static = {field.name for field in fields if self._is_static(field, values[field.name])}
    names = tuple(name for name in values if name not in static)
    children = [(jax.tree_util.GetAttrKey(name), values[name]) for name in names]
    classes = tuple(_classes([values[name] for name in names]))
    return children, (names, tuple((k, v) for k, v in values.items() if k in static), classes)

  @staticmethod
  def _is_static(field: dataclasses.Field, value: Any) -> bool:
    del value
    return not field.metadata.get("pytree_node", True)

  @classmethod
  def _unflatten(
    cls, structure: tuple[Iterable[str], Iterable[Any], Iterable[type]], children: Iterable[Any]
  ) -> Self:
    names, static, _ = structure
    new = object.__new__(cls)
    for name, value in (*zip(names, children, strict=True), *static):
      object.__setattr__(new, name, value)
    return new


def _classes(value: Any) -> Iterator[type]:
  """Yields the classes of the dataclasses in a value, which may be a tuple, a list or a dict."""
  if isinstance(value, dict):
    value = list(value.values())
  if isinstance(value, (list, tuple)):
    for item in value:
      yield from _classes(item)
  elif dataclasses.is_dataclass(value) and not jax.tree_util.all_leaves((value,)):
    yield type(value)
