"""Atoms of several sizes in one array of filters: their supports, and the projection onto them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cscjax import checks, ops
from cscjax.learning._rank1 import rank1_factors

Kernel = tuple[tuple[tuple[int, ...], int], ...]
"""Pairs (size along each axis, number of atoms of this size)."""

_EXPECTED = "pairs (size, count) whose size is an integer >= 1, or one per axis"


def as_kernel(kernel: Sequence) -> tuple:
  """Checks pairs (size, count), and converts them to tuples, which are hashable.

  A size is one integer for all axes, or one per axis.
  """
  try:
    pairs = [(size, count) for size, count in kernel]
  except (TypeError, ValueError):
    checks.fail("kernel", kernel, _EXPECTED)
  if not pairs:
    checks.fail("kernel", kernel, _EXPECTED)
  return tuple(
    (ops.integers_per_axis("kernel", size), checks.positive_int("kernel", count))
    for size, count in pairs
  )


def with_rank(kernel: Sequence, rank: int) -> Kernel:
  """Returns the result of `as_kernel` with one size per axis; raises ValueError if it has others."""
  pairs = [(size if isinstance(size, tuple) else (size,) * rank, count) for size, count in kernel]
  if any(len(size) != rank for size, _ in pairs):
    checks.fail("kernel", kernel, f"{_EXPECTED} ({rank} axes)")
  return tuple(pairs)


def full_size(kernel: Kernel) -> tuple[int, ...]:
  """Returns the smallest size that contains all atoms."""
  return tuple(map(max, zip(*(size for size, _ in kernel), strict=True)))


def support_mask(kernel: Kernel) -> np.ndarray:
  """Returns the support of each atom, centred in the array: bool [kh, kw, 1, m], or [k, 1, m]."""
  full = full_size(kernel)
  masks = []
  for size, count in kernel:
    mask = np.zeros(full, bool)
    mask[tuple(slice((f - n) // 2, (f - n) // 2 + n) for f, n in zip(full, size, strict=True))] = True
    masks += [mask] * count
  return np.stack(masks, axis=-1)[..., None, :]


def project(
  filters: jax.Array, mask: np.ndarray, previous: jax.Array, *, rank1: bool = False
) -> jax.Array:
  """Projects each atom onto its support and the unit sphere, and onto rank 1 if `rank1`.

  The result is the nearest such atom. An atom that is zero on its support is taken from `previous`.
  """
  filters = jnp.where(mask, filters, 0)
  axes = tuple(range(filters.ndim - 1))
  largest = jnp.max(jnp.abs(filters), axis=axes, keepdims=True)
  filters = filters / jnp.where(largest > 0, largest, 1)  # keeps the squares in range
  if rank1:
    pattern, weights = rank1_factors(filters)
    filters = pattern[..., None, :] * jnp.expand_dims(weights, tuple(range(filters.ndim - 2)))
  norms = jnp.sqrt(jnp.sum(jnp.square(filters), axis=axes, keepdims=True))
  return jnp.where(norms > 0, filters / jnp.where(norms > 0, norms, 1), previous)
