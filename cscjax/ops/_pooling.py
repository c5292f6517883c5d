"""Max-pooling."""

import jax
import jax.numpy as jnp
from jax import lax

from cscjax import checks


def max_pool(x: jax.Array) -> jax.Array:
  """The largest of each 2x2 pixels, or of 2 samples; at an odd border of what there is.

  The values, and the gradient, which goes to the first of equal ones, are those of `lax.reduce_window`,
  whose gradient is a scatter, slow on the CPU. Neighbours are compared with each other: the gradient of
  a maximum would compare them with their maximum, to which none need be equal where XLA computes them
  twice and rounds differently.

  Args:
    x: Floating, [N, H, W, C] or [N, L, C].

  Returns:
    [N, ceil(H / 2), ceil(W / 2), C], or [N, ceil(L / 2), C].

  Raises:
    ValueError: If `x` is not floating or has another number of axes.
  """
  checks.all_real("x", x)
  if x.ndim not in (3, 4) or not jnp.issubdtype(x.dtype, jnp.floating):
    checks.fail("x", f"{x.dtype.name}{list(x.shape)}", "floating [N, H, W, C] or [N, L, C]")
  for axis in reversed(range(1, x.ndim - 1)):
    half = -(-x.shape[axis] // 2)
    edges = [(0, 2 * half - size if i == axis else 0, 0) for i, size in enumerate(x.shape)]
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), edges)
    pairs = x.reshape(*x.shape[:axis], half, 2, *x.shape[axis + 1 :])
    first, second = (lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2))
    x = jnp.where((first >= second) | jnp.isnan(first), first, second)
  return x
