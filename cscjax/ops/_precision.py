"""Types and precision: JAX's implicit promotions written out, products in full float32."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

F = TypeVar("F", bound=Callable[..., Any])


def highest_precision(function: F) -> F:
  """Decorates a function whose products and convolutions have to be right to rounding in float32.

  Recent GPUs compute them in TF32 by default, with 10 bits of mantissa instead of 23. Solvers and
  whatever bounds or certifies something ask for all of them, whatever `jax.default_matmul_precision`
  the caller has set. Networks do not, and neither do the pursuits that they are made of.

  Derivatives of what is computed inside have the same precision. The rule of a custom derivative needs
  the decorator too, because JAX can apply it after the function has returned.

  Args:
    function: Any function of JAX arrays.

  Returns:
    The function, of the same signature.
  """
  return jax.default_matmul_precision("highest")(function)


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
