"""Max-pooling."""

import jax
import jax.numpy as jnp
from jax import lax


def max_pool(x: jax.Array) -> jax.Array:
  """The largest of each 2x2 pixels, or of 2 samples; at an odd border of what there is.

  Written as a maximum over a reshaped array: the gradient of `lax.reduce_window` is a scatter, which
  takes about ten times as long on the CPU. Equal largest values share the gradient, where that one
  gives it to the first; after a ReLU, whose zeros pass none on, there is no difference.

  Args:
    x: Floating, [N, H, W, C] or [N, L, C].

  Returns:
    [N, ceil(H / 2), ceil(W / 2), C], or [N, ceil(L / 2), C].
  """
  odd = [(0, size % 2, 0) for size in x.shape[1:-1]]
  x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), [(0, 0, 0), *odd, (0, 0, 0)])
  halves = [part for size in x.shape[1:-1] for part in (size // 2, 2)]
  pairs = x.reshape(x.shape[0], *halves, x.shape[-1])
  return jnp.max(pairs, axis=tuple(range(2, pairs.ndim - 1, 2)))
