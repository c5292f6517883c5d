"""Types and precision: explicit promotion of types and ranks, and products in full float32."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

F = TypeVar("F", bound=Callable[..., Any])


def highest_precision(function: F) -> F:
  """Decorates a function so that its products and convolutions have full float32 precision.

  Recent GPUs compute float32 products in TF32 by default, with 10 bits of mantissa instead of 23.
  Solvers, bounds and certificates use full precision, whatever `jax.default_matmul_precision` the caller
  has set. Networks, and the pursuits inside them, leave the choice to the caller.

  Derivatives of the function have the same precision. The rule of a custom derivative needs the
  decorator, too, because JAX can apply the rule after the function has returned.

  Args:
    function: Any function of JAX arrays.

  Returns:
    The decorated function, with the same signature.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> @ops.highest_precision
    ... def energy(x):
    ...   return jnp.vdot(x, x)
    >>> float(energy(jnp.array([3.0, 4.0])))
    25.0
  """
  return jax.default_matmul_precision("highest")(function)


def common_float(*values: Any) -> jnp.dtype:
  """Returns the floating-point type that JAX's promotion gives for some values and a Python float.

  Args:
    *values: Arrays, scalars or types.

  Returns:
    The type, which for integers alone is the default one (float32, or float64 if 64-bit types are
    enabled).

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> ops.common_float(jnp.bfloat16, jnp.arange(3)).name
    'bfloat16'
  """
  with jax.numpy_dtype_promotion("standard"):
    return jnp.result_type(float, *values)


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
  """Returns a type of at least single precision, for sums, norms and Fourier transforms.

  Args:
    dtype: A floating-point type.

  Returns:
    float32 for the types of half precision, else `dtype`.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> ops.at_least_float32(jnp.bfloat16).name
    'float32'
  """
  with jax.numpy_dtype_promotion("standard"):
    return jnp.promote_types(dtype, jnp.float32)


def expand_rank(value: Any, ndim: int) -> Any:
  """Adds leading axes of size 1, so that an array broadcasts even if JAX forbids rank promotion.

  Args:
    value: An array or a scalar.
    ndim: Wanted number of axes.

  Returns:
    An array with `ndim` axes. A scalar, or a value with `ndim` axes or more, is returned unchanged.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> ops.expand_rank(jnp.ones(3), 4).shape
    (1, 1, 1, 3)
  """
  missing = ndim - jnp.ndim(value)
  return jnp.expand_dims(value, tuple(range(missing))) if jnp.ndim(value) and missing > 0 else value
