"""JAX's implicit promotions of types and ranks written out, for its strict modes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def common_float(*values: Any) -> jnp.dtype:
  """Floating type that holds all values (arrays, scalars or types); the default one for integers."""
  with jax.numpy_dtype_promotion("standard"):
    return jnp.result_type(float, *values)


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
  """The type itself, float32 for the half precisions: for sums, norms and spectra."""
  with jax.numpy_dtype_promotion("standard"):
    return jnp.promote_types(dtype, jnp.float32)


def expand_rank(value: Any, ndim: int) -> Any:
  """The array with axes of size 1 in front, `ndim` axes in all; scalars and larger arrays unchanged."""
  missing = ndim - jnp.ndim(value)
  return jnp.expand_dims(value, tuple(range(missing))) if jnp.ndim(value) and missing > 0 else value
