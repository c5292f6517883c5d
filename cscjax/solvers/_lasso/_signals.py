"""Arrays whose first axes are those of a batch of signals: sums, masks and units of each signal."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code
from cscjax.ops import at_least_float32, expand_rank


def sum_signals(array: jax.Array, batch_ndim: int) -> jax.Array:
  """Returns the sum over all axes but the first `batch_ndim`, in float32 or wider."""
  precise = at_least_float32(array.dtype)
  return jnp.sum(array, axis=tuple(range(batch_ndim, array.ndim)), dtype=precise)


def count_nonzeros(code: Code, batch_ndim: int) -> jax.Array:
  """Returns the number of nonzero coefficients of each signal, over all parts of a code, int32."""
  counts = [jnp.count_nonzero(c, axis=tuple(range(batch_ndim, c.ndim))) for c in jax.tree.leaves(code)]
  return jnp.asarray(sum(counts), jnp.int32)


def weighted_sum(weights: jax.Array, array: jax.Array, unit: jax.Array) -> jax.Array:
  """Returns the sum of weights * array / unit over all axes but those of `unit`, as `sum_signals`.

  What is constant in each signal multiplies the sum: XLA would store its broadcast, an array of the size
  of the code, for the whole iteration.
  """
  shape = (1,) * (array.ndim - weights.ndim) + weights.shape
  if any(size != 1 for size in shape[unit.ndim :]):
    return sum_signals(weights * (array * per_signal(1 / unit, array)), unit.ndim)
  total = sum_signals(array, unit.ndim)
  return weights.reshape(shape[: unit.ndim]).astype(total.dtype) * (total / unit.astype(total.dtype))


def per_signal(value: ArrayLike, array: jax.Array) -> jax.Array:
  """Returns a scalar, or one value per signal [batch...], in the type and rank of `array`."""
  value = jnp.asarray(value, array.dtype)
  return value.reshape(value.shape + (1,) * (array.ndim - value.ndim) * bool(value.ndim))


def safe_sqrt(square: jax.Array) -> jax.Array:
  """Returns the square root, with derivative 0 at 0 instead of infinity."""
  return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def as_mask(mask: ArrayLike, x: jax.Array, has_channels: bool = True) -> jax.Array:
  """Checks a mask, and converts it to the type and rank of the signals.

  Args:
    mask: Weights in 0..1 that broadcast against `x`.
    x: The signals; only their shape and type are used.
    has_channels: Whether the last axis of `x` contains channels. If so, a mask without this axis is the
      same for all channels.

  Returns:
    The mask, with as many axes as `x`.

  Raises:
    ValueError: If the mask does not broadcast against `x`, or if values are outside 0..1.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import solvers
    >>> solvers.as_mask(jnp.ones((8, 8)), jnp.ones((5, 8, 8, 3))).shape
    (1, 8, 8, 1)
  """
  mask = checks.real_array("mask", mask)
  if not checks.is_traced(mask):
    lowest, highest = checks.extremes(mask)
    if not (lowest >= 0 and highest <= 1):
      checks.fail("mask", f"values from {lowest:g} to {highest:g}", "weights in 0..1")
  mask = jnp.asarray(mask, x.dtype)
  if _broadcasts_to(mask.shape, x.shape):
    return expand_rank(mask, x.ndim)
  if has_channels and _broadcasts_to((*mask.shape, 1), x.shape):
    return expand_rank(mask[..., None], x.ndim)
  checks.fail("mask", mask.shape, f"a shape that broadcasts to the signal's shape {x.shape}")


def _broadcasts_to(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
  try:
    return jnp.broadcast_shapes(shape, wanted) == wanted
  except ValueError:
    return False


def in_precision(tree: Any, dtype: Any) -> Any:
  """Converts the floating-point arrays of a tree to a type, or to float32 if that is wider."""
  precise = at_least_float32(dtype)

  def convert(leaf: jax.Array) -> jax.Array:
    return leaf.astype(precise) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

  return jax.tree.map(convert, tree)


def unit_of(x: jax.Array, batch_ndim: int) -> jax.Array:
  """Returns a power of two near the largest magnitude of each signal: [batch...].

  It is 1 if that magnitude is zero or not finite.
  """
  largest = jnp.max(jnp.abs(lax.stop_gradient(x)), axis=tuple(range(batch_ndim, x.ndim)), initial=0)
  _, exponent = jnp.frexp(largest.astype(at_least_float32(x.dtype)))
  bound = -int(jnp.finfo(x.dtype).minexp)  # 1 / unit must be in range, too
  unit = jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, -bound, bound))
  return jnp.where((largest > 0) & (largest < jnp.inf), unit, 1)
