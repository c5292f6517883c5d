"""Immutable objects that are pytrees, and whose constructors may check their arguments."""

import dataclasses
from collections.abc import Iterable
from typing import Any, Self, dataclass_transform

import jax
from flax import struct


@dataclass_transform(frozen_default=True, field_specifiers=(struct.field,))
class PyTree:
  """Base class of frozen dataclasses that are pytrees.

  A field is static if it is declared with `flax.struct.field(pytree_node=False)`, or if its value is a
  string. JAX rebuilds an object without calling its constructor, which may therefore check and convert
  its arguments: the leaves of a gradient or of a shape need not be valid arguments.
  """

  def __init_subclass__(cls, **kwargs: Any):
    super().__init_subclass__(**kwargs)
    dataclasses.dataclass(frozen=True)(cls)
    jax.tree_util.register_pytree_with_keys(cls, cls._flatten, cls._unflatten)

  def replace(self, **changes: Any) -> Self:
    """Returns a copy with other values of some fields, which are not checked."""
    return self._unflatten(((), {**vars(self), **changes}.items()), ())

  def _flatten(self) -> tuple[Any, Any]:
    fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
    values = {field.name: getattr(self, field.name) for field in fields}
    static = {
      field.name
      for field in fields
      if not field.metadata.get("pytree_node", True) or isinstance(values[field.name], str)
    }
    names = tuple(name for name in values if name not in static)
    children = [(jax.tree_util.GetAttrKey(name), values[name]) for name in names]
    return children, (names, tuple((k, v) for k, v in values.items() if k in static))

  @classmethod
  def _unflatten(cls, structure: tuple[Iterable[str], Iterable[Any]], children: Iterable[Any]) -> Self:
    names, static = structure
    new = object.__new__(cls)
    for name, value in (*zip(names, children, strict=True), *static):
      object.__setattr__(new, name, value)
    return new
