"""Stride, dilation and padding of a convolution, checked and hashable, and the sizes that follow."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import lax

from cscjax import checks

Padding = Literal["SAME", "CIRCULAR", "VALID"] | Sequence[tuple[int, int]]
"""Zeros ("SAME"), wrapped around ("CIRCULAR"), none ("VALID"), or explicit zeros (low, high) an axis."""


class Axis(NamedTuple):
  """One spatial axis of a convolution.

  Attributes:
    taps: Number of taps of a filter.
    stride: Step between outputs, which are the positions of an atom.
    dilation: Step between the taps.
    padding: "SAME", "CIRCULAR", "VALID", or the numbers of zeros (low, high).
  """

  taps: int
  stride: int
  dilation: int
  padding: str | tuple[int, int]

  @property
  def extent(self) -> int:
    """Number of samples from a filter's first tap to its last."""
    return (self.taps - 1) * self.dilation + 1

  def pads(self, size: int) -> tuple[int, int]:
    """Numbers of samples to add before and after a signal of this size: zeros, or wrapped ones."""
    if self.padding == "CIRCULAR":
      return (self.extent - 1) // 2, self.extent // 2
    if isinstance(self.padding, str):
      return lax.padtype_to_pads((size,), (self.extent,), (self.stride,), self.padding)[0]
    return self.padding

  def code_size(self, size: int) -> int:
    """Number of outputs for a signal of this size; below 1 where the filter does not fit."""
    return (size + sum(self.pads(size)) - self.extent) // self.stride + 1

  def signal_size(self, code_size: int) -> int:
    """Size of the signals for a code of this size: stride * size where padded to size, or what fits."""
    if self.padding in ("SAME", "CIRCULAR"):
      return code_size * self.stride
    low, high = (0, 0) if isinstance(self.padding, str) else self.padding
    return (code_size - 1) * self.stride + self.extent - low - high


def integers_per_axis(name: str, value: Any) -> int | tuple[int, ...]:
  """An integer or a tuple of them, such as a stride; ValueError unless all are integers >= 1."""
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


def as_axes(filters: jax.Array, stride: Any, dilation: Any, padding: Any) -> tuple[Axis, ...]:
  """The spatial axes of filters [kernel..., C, m]; ValueError where an argument does not fit."""
  checks.all_real("filters", filters)
  rank = filters.ndim - 2
  if rank not in (1, 2):
    checks.fail("filters", tuple(filters.shape), "[kh, kw, C, m], or [k, C, m] for 1-D signals")
  if min(filters.shape) < 1:
    checks.fail("filters", tuple(filters.shape), "no empty axis")
  strides, dilations = (
    _per_axis(name, integers_per_axis(name, value), rank)
    for name, value in (("stride", stride), ("dilation", dilation))
  )
  padding = as_padding(padding)
  paddings = (padding,) * rank if isinstance(padding, str) else padding
  if len(paddings) != rank:
    checks.fail("padding", padding, f"{rank} pairs (low, high)")
  return tuple(map(Axis, filters.shape[:-2], strides, dilations, paddings))


def _per_axis(name, value, rank):
  values = value if isinstance(value, tuple) else (value,) * rank
  if len(values) != rank:
    checks.fail(name, value, f"one integer >= 1, or {rank} of them")
  return values


def _plain(value: Any) -> Any:
  """Arrays, NumPy scalars, lists and ranges as Python numbers and tuples of them."""
  if isinstance(value, np.generic | np.ndarray | jax.Array) and not checks.is_traced(value):
    value = np.asarray(value).tolist()
  if isinstance(value, Sequence) and not isinstance(value, str | bytes):
    return tuple(map(_plain, value))
  return value
