"""The regularizer of the Lasso: its proximal operator, its subgradient and its convex conjugate."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cscjax import checks
from cscjax.dictionaries import Code
from cscjax.ops import PyTree, norm, soft_threshold
from cscjax.solvers._arguments import list_as_code, per_part


class Regularizer(PyTree):
  """The term sum beta ||group|| + ridge/2 ||part||^2 of one part of a code.

  A group has the coefficients along `joint_axes`; without such axes, each coefficient is a group of its
  own, and its norm is its magnitude. All arrays broadcast against the part and are constant in a group,
  except that `nonnegative` may differ between the coefficients of a group.

  Attributes:
    beta: Penalty of each group.
    ridge: Penalty of the squares; None if it is zero.
    nonnegative: Which coefficients are constrained to be nonnegative; None for none.
    joint_axes: The axes of a group, negative; empty if each coefficient is a group.
  """

  beta: jax.Array
  ridge: jax.Array | None
  nonnegative: jax.Array | None
  joint_axes: tuple[int, ...] = struct.field(pytree_node=False)

  def prox(self, point: jax.Array, step: jax.Array) -> jax.Array:
    """Returns the minimizer g of 1/2 ||g - point||^2 + step times the term."""
    point = self.project(point)
    if self.joint_axes:
      size = self.norm(point)
      point = point * (jax.nn.relu(size - step * self.beta) / jnp.where(size > 0, size, 1))
    else:
      point = soft_threshold(point, step * self.beta)
    return point if self.ridge is None else point / (1 + step * self.ridge)

  def project(self, code: jax.Array) -> jax.Array:
    """Returns the nearest code that satisfies the constraint."""
    return code if self.nonnegative is None else jnp.where(self.nonnegative, jax.nn.relu(code), code)

  def norm(self, code: jax.Array) -> jax.Array:
    """Returns the norm of each group, with axes of size 1 in place of `joint_axes`."""
    return (
      jnp.expand_dims(norm(code, self.joint_axes), self.joint_axes) if self.joint_axes else abs(code)
    )

  def dual_norm(self, correlation: jax.Array) -> jax.Array:
    """Returns what `beta` is compared with: the norm of each group of D^T residual, projected.

    A group of the solution is zero exactly if this is at most `beta`.
    """
    return self.norm(self.project(correlation))

  def dual_projection(self, v: jax.Array) -> jax.Array:
    """Returns v minus the prox of v for a step of 1 and no ridge: the nearest dual feasible point."""
    if self.joint_axes:
      inside = self.project(v)
      size = self.norm(inside)
      shrunk = inside * jnp.where(size > self.beta, self.beta / jnp.where(size > 0, size, 1), 1)
      return shrunk if self.nonnegative is None else shrunk + (v - inside)
    lowest = (
      -self.beta if self.nonnegative is None else jnp.where(self.nonnegative, -jnp.inf, -self.beta)
    )
    return jnp.minimum(jnp.maximum(v, lowest), self.beta)

  def gradient(self, code: jax.Array) -> jax.Array:
    """Returns the derivative with respect to the nonzero coefficients; 0 for a group of zeros."""
    if self.joint_axes:
      size = self.norm(code)
      direction = code / jnp.where(size > 0, size, 1)
    else:
      direction = jnp.sign(code)
    gradient = self.beta * direction
    return gradient if self.ridge is None else gradient + self.ridge * code

  def squares(self, code: jax.Array) -> jax.Array:
    """Returns ridge/2 code^2."""
    return jnp.zeros_like(code) if self.ridge is None else 0.5 * (self.ridge * code) * code

  def conjugate(self, excess: jax.Array) -> jax.Array:
    """Returns the convex conjugate where `dual_norm` exceeds `beta` by `excess`: excess^2 / (2 ridge).

    Where the ridge is zero, the conjugate is the indicator of the dual feasible set, which the caller
    observes, and this is zero.
    """
    if self.ridge is None:
      return jnp.zeros_like(excess)
    ridge = jnp.broadcast_to(self.ridge, excess.shape)
    return jnp.where(ridge > 0, 0.5 * (excess / jnp.where(ridge > 0, ridge, 1)) * excess, 0)

  def distance(self, gradient: jax.Array, code: jax.Array) -> jax.Array:
    """Returns the distance of 0 from `gradient` plus the subdifferential, negative inside of it.

    For a group of zeros it is one value, by how much `dual_norm` exceeds `beta`.
    """
    inside = self.dual_norm(-gradient) - self.beta
    outside = jnp.abs(gradient + self.gradient(code))
    if self.nonnegative is not None:
      outside = jnp.where(self.nonnegative & (code == 0), jax.nn.relu(-gradient), outside)
    return jnp.where(self.is_zero_group(code), inside, outside)

  def is_zero_group(self, code: jax.Array) -> jax.Array:
    """Returns which groups are zero, with axes of size 1 in place of `joint_axes`."""
    return jnp.all(code == 0, axis=self.joint_axes, keepdims=True) if self.joint_axes else code == 0

  def is_free(self, code: jax.Array) -> jax.Array:
    """Returns which coefficients the term lets vary smoothly around `code`."""
    free = ~self.is_zero_group(code) | (self.beta == 0)
    return free if self.nonnegative is None else free & ((code != 0) | ~self.nonnegative)

  def has_kink(self) -> jax.Array:
    """Returns which coefficients have a kink or a bound at zero, in a group that is not zero."""
    kink = jnp.zeros((), bool) if self.joint_axes else self.beta > 0
    return kink if self.nonnegative is None else kink | self.nonnegative

  def is_positive(self) -> bool:
    """Returns whether no coefficient is known to have neither `beta` nor `ridge`."""
    total = self.beta if self.ridge is None else self.beta + self.ridge
    return checks.is_traced(total) or bool(jnp.all(total > 0))


def as_regularizer(
  code: Code, nonnegative: Any, ridge: Any, joint_axes: int | Sequence[int] | None, batch_ndim: int
) -> Any:
  """Checks arguments of a solver, and returns a `Regularizer` with `beta` 0 for each part of a code.

  Args:
    code: A code; only its structure, shapes and types are used.
    nonnegative: A bool, or an array of bools that broadcasts against the code, for each part or for all.
    ridge: None, or a penalty in any form that `beta` has.
    joint_axes: Axes of a group, negative; None if each coefficient is a group.
    batch_ndim: Number of batch axes of the code.
  """
  axes = as_axes(joint_axes, code, batch_ndim)
  parts, structure = jax.tree.flatten(code)
  constrained = _as_bools(nonnegative, code)
  if ridge is not None:
    checks.all_at_least("ridge", ridge, 0)
    ridge = per_part("ridge", ridge, group_norms(code, axes))
  columns = [[None] * len(parts) if c is None else jax.tree.leaves(c) for c in (ridge, constrained)]
  return structure.unflatten(
    Regularizer(jnp.zeros(()), mu, bools, axes) for mu, bools in zip(*columns, strict=True)
  )


def regularizers_of(tree: Any) -> list[Regularizer]:
  """Returns the regularizers of all parts of a code."""
  return jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Regularizer))


def map_arrays(function: Callable[[Code], Code], regularizer: Any, code: Code) -> Any:
  """Maps each field of the regularizer of a code, as a pytree in the structure of the code."""
  structure = jax.tree.structure(code)
  parts = structure.flatten_up_to(regularizer)
  fields = zip(*map(jax.tree.leaves, parts), strict=True)
  mapped = [jax.tree.leaves(function(structure.unflatten(field))) for field in fields]
  return structure.unflatten(
    jax.tree.structure(part).unflatten(arrays)
    for part, arrays in zip(parts, zip(*mapped, strict=True), strict=True)
  )


def group_norms(code: Code, joint_axes: tuple[int, ...]) -> Code:
  """Returns the shapes and types of the norms of the groups of a code."""

  def part(c: Any) -> jax.ShapeDtypeStruct:
    shape = [1 if i - c.ndim in joint_axes else n for i, n in enumerate(c.shape)]
    return jax.ShapeDtypeStruct(shape, c.dtype)

  return jax.tree.map(part, code)


def as_axes(joint_axes: int | Sequence[int] | None, code: Code, batch_ndim: int) -> tuple[int, ...]:
  """Checks `joint_axes`."""
  if joint_axes is None:
    return ()
  axes = tuple(joint_axes) if isinstance(joint_axes, Sequence) else (joint_axes,)
  lowest = batch_ndim - min(part.ndim for part in jax.tree.leaves(code))
  for axis in axes:
    checks.int_between("joint_axes", axis, lowest, -1)
  if len(set(axes)) != len(axes):
    checks.fail("joint_axes", joint_axes, "different axes")
  return tuple(sorted(axes))


def _as_bools(nonnegative: Any, code: Code) -> Any:
  """Returns an array of bools for each part of a code; None if no coefficient is constrained."""
  nonnegative = list_as_code("nonnegative", nonnegative, code)
  for leaf in jax.tree.leaves(nonnegative, is_leaf=lambda node: node is None):
    if not isinstance(leaf, bool) and not jnp.issubdtype(getattr(leaf, "dtype", float), bool):
      checks.fail("nonnegative", leaf, "True or False, or an array of these")
  if isinstance(nonnegative, bool | np.bool_) and not nonnegative:
    return None
  shapes = jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape, bool), code)
  return per_part("nonnegative", nonnegative, shapes)
