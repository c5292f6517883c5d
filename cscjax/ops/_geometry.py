"""Stride, dilation and padding of a convolution, checked and hashable."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.core import Tracer

from cscjax import checks

Padding = Literal["SAME", "CIRCULAR", "VALID"] | Sequence[tuple[int, int]]
"""Zeros ("SAME"), wrapped around ("CIRCULAR"), none ("VALID"), or explicit zeros (low, high) an axis."""


def as_steps(name: str, value: Any) -> int | tuple[int, ...]:
  """A stride or dilation as an integer, or a tuple of them; ValueError unless all are integers >= 1."""
  value = _plain(value)
  if not isinstance(value, tuple):
    return checks.positive_int(name, value)
  if not value:
    checks.fail(name, value, "an integer >= 1, or one for each axis")
  return tuple(checks.positive_int(name, step) for step in value)


def as_padding(value: Any) -> str | tuple[tuple[int, int], ...]:
  """Padding as a name, or a tuple of pairs; ValueError if it is neither."""
  if isinstance(value, str):
    return checks.one_of("padding", value, ("SAME", "CIRCULAR", "VALID"))
  pairs = _plain(value)
  expected = "SAME, CIRCULAR, VALID or pairs (low, high) of integers >= 0, one for each axis"
  if not isinstance(pairs, tuple) or not pairs:
    checks.fail("padding", value, expected)
  for pair in pairs:
    if not isinstance(pair, tuple) or len(pair) != 2:
      checks.fail("padding", value, expected)
    if not all(type(size) is int and 0 <= size < 2**31 for size in pair):
      checks.fail("padding", value, expected)
  return tuple((low, high) for low, high in pairs)


def as_geometry(filters: jax.Array, stride: Any, dilation: Any, padding: Any) -> tuple:
  """Checked (strides, dilations, padding) with one entry for each spatial axis of the filters."""
  checks.all_real("filters", filters)
  rank = filters.ndim - 2
  if rank not in (1, 2):
    checks.fail("filters", tuple(filters.shape), "[kh, kw, C, m], or [k, C, m] for 1-D signals")
  if min(filters.shape) < 1:
    checks.fail("filters", tuple(filters.shape), "no empty axis")
  strides, dilations = (
    _per_axis(name, as_steps(name, value), rank)
    for name, value in (("stride", stride), ("dilation", dilation))
  )
  padding = as_padding(padding)
  if not isinstance(padding, str) and len(padding) != rank:
    checks.fail("padding", padding, f"{rank} pairs (low, high)")
  return strides, dilations, padding


def spans(filters: jax.Array, dilations: Sequence[int]) -> tuple[int, ...]:
  """Extent of a dilated filter along each axis."""
  return tuple((k - 1) * d + 1 for k, d in zip(filters.shape[:-2], dilations, strict=True))


def _per_axis(name, value, rank):
  values = value if isinstance(value, tuple) else (value,) * rank
  if len(values) != rank:
    checks.fail(name, value, f"one integer >= 1, or {rank} of them")
  return values


def _plain(value: Any) -> Any:
  """Arrays, NumPy scalars, lists and ranges as Python numbers and tuples of them."""
  if isinstance(value, np.generic | np.ndarray | jax.Array) and not isinstance(value, Tracer):
    value = np.asarray(value).tolist()
  if isinstance(value, Sequence) and not isinstance(value, str | bytes):
    return tuple(map(_plain, value))
  return value
