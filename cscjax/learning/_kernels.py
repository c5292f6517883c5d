"""Atoms of several sizes in one array of filters: where each may be non-zero, and its projection."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cscjax import checks, ops

Kernel = tuple[tuple[tuple[int, ...], int], ...]
"""Pairs (size along each axis, number of atoms)."""


def as_kernel(kernel: Sequence, rank: int) -> Kernel:
  """Checked pairs, from (size, count) ones whose size is one for all axes or one an axis."""
  expected = "pairs (size, count), a size one integer >= 1 or one an axis"
  try:
    pairs = [(size, count) for size, count in kernel]
  except (TypeError, ValueError):
    checks.fail("kernel", kernel, expected)
  if not pairs:
    checks.fail("kernel", kernel, expected)
  result = []
  for size, count in pairs:
    sizes = ops.integers_per_axis("kernel", size)
    sizes = sizes if isinstance(sizes, tuple) else (sizes,) * rank
    if len(sizes) != rank:
      checks.fail("kernel", kernel, f"{expected} ({rank} axes)")
    result.append((sizes, checks.positive_int("kernel", count)))
  return tuple(result)


def full_size(kernel: Kernel) -> tuple[int, ...]:
  """The smallest size that holds all atoms."""
  return tuple(map(max, zip(*(size for size, _ in kernel), strict=True)))


def support_mask(kernel: Kernel) -> np.ndarray:
  """Bool [kh, kw, 1, m], or [k, 1, m]: the taps of each atom, in the middle of the array."""
  full = full_size(kernel)
  masks = []
  for size, count in kernel:
    mask = np.zeros(full, bool)
    mask[tuple(slice((f - n) // 2, (f - n) // 2 + n) for f, n in zip(full, size, strict=True))] = True
    masks += [mask] * count
  return np.stack(masks, axis=-1)[..., None, :]


def project(filters: jax.Array, mask: np.ndarray, previous: jax.Array) -> jax.Array:
  """Each atom on its support and of norm 1; `previous` where nothing of it is left."""
  filters = jnp.where(mask, filters, 0)
  axes = tuple(range(filters.ndim - 1))
  largest = jnp.max(jnp.abs(filters), axis=axes, keepdims=True)
  filters = filters / jnp.where(largest > 0, largest, 1)  # so that no square leaves the range of float32
  norms = jnp.sqrt(jnp.sum(jnp.square(filters), axis=axes, keepdims=True))
  return jnp.where(norms > 0, filters / jnp.where(norms > 0, norms, 1), previous)
