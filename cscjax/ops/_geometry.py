"""Stride, dilation and padding of a convolution, checked and hashable, and the resulting sizes."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import lax

from cscjax import checks

Padding = Literal["SAME", "CIRCULAR", "VALID"] | Sequence[tuple[int, int]]
"""Padding of a convolution.

"SAME" pads with zeros, "CIRCULAR" wraps the signal around, and "VALID" adds nothing. A sequence of pairs
(low, high), one per spatial axis, adds that many zeros before and after the signal.
"""

LAYOUTS = {
  1: ("NWC", "WIO", "NWC"),
  2: ("NHWC", "HWIO", "NHWC"),
  3: ("NDHWC", "DHWIO", "NDHWC"),
}
"""Axes of signals, filters and codes by the number of spatial axes, as `jax.lax` names them."""

Pads = Sequence[tuple[int, int]]
Sizes = tuple[tuple[int, ...], tuple[int, ...]]  # spatial shapes of the signal and of the filters


class Axis(NamedTuple):
  """One spatial axis of a convolution.

  Attributes:
    taps: Number of taps of a filter.
    stride: Step between outputs, that is, between the positions of an atom.
    dilation: Step between the taps.
    padding: "SAME", "CIRCULAR", "VALID", or the numbers of zeros (low, high).
  """

  taps: int
  stride: int
  dilation: int
  padding: str | tuple[int, int]

  @property
  def extent(self) -> int:
    """Number of samples from the first tap of a filter to its last."""
    return (self.taps - 1) * self.dilation + 1

  def pads(self, size: int) -> tuple[int, int]:
    """Returns how many samples are added before and after a signal, as zeros or wrapped around.

    Args:
      size: Size of the signal, at least 1.

    Returns:
      The pair (low, high).
    """
    if self.padding == "CIRCULAR":
      return (self.extent - 1) // 2, self.extent // 2
    if isinstance(self.padding, str):
      return lax.padtype_to_pads((size,), (self.extent,), (self.stride,), self.padding)[0]
    return self.padding

  def code_size(self, size: int) -> int:
    """Returns the number of outputs for a signal.

    Args:
      size: Size of the signal, at least 1.

    Returns:
      The number of outputs. It is below 1 if the filter does not fit into the padded signal.
    """
    return (size + sum(self.pads(size)) - self.extent) // self.stride + 1

  def signal_size(self, code_size: int) -> int:
    """Returns a size of signal that gives a code of the given size.

    Args:
      code_size: Size of the code, at least 1.

    Returns:
      stride * code_size for "SAME" and "CIRCULAR", else the smallest size that gives `code_size`.
    """
    if self.padding in ("SAME", "CIRCULAR"):
      return code_size * self.stride
    low, high = (0, 0) if isinstance(self.padding, str) else self.padding
    return (code_size - 1) * self.stride + self.extent - low - high


def integers_per_axis(name: str, value: Any) -> int | tuple[int, ...]:
  """Checks a value such as a stride: one integer, or one per axis.

  Args:
    name: Name of the argument, for the error message.
    value: An integer, or a sequence or array of integers, all at least 1.

  Returns:
    The value as an `int` or a tuple of them, which is hashable.

  Raises:
    ValueError: If `value` is empty or contains anything but integers >= 1.

  Example:
    >>> import numpy as np
    >>> from cscjax import ops
    >>> ops.integers_per_axis("stride", np.array([2, 1]))
    (2, 1)
  """
  value = _plain(value)
  if not isinstance(value, tuple):
    return checks.positive_int(name, value)
  if not value:
    checks.fail(name, value, "an integer >= 1, or one for each axis")
  return tuple(checks.positive_int(name, step) for step in value)


def as_padding(value: Any) -> str | tuple[tuple[int, int], ...]:
  """Checks a padding and makes it hashable.

  Args:
    value: "SAME", "CIRCULAR", "VALID", or pairs (low, high) of integers >= 0, one per spatial axis.

  Returns:
    The name, or the pairs as a tuple of tuples of `int`.

  Raises:
    ValueError: If `value` is none of these.

  Example:
    >>> from cscjax import ops
    >>> ops.as_padding([[1, 2], [0, 0]])
    ((1, 2), (0, 0))
  """
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
  """Checks the geometry of a convolution and returns its spatial axes.

  Args:
    filters: Filters of shape [kh, kw, C, m], [k, C, m] or [kd, kh, kw, C, m].
    stride: Step between outputs, at least 1: one integer, or one per spatial axis.
    dilation: Step between the taps of a filter, at least 1: one integer, or one per spatial axis.
    padding: "SAME", "CIRCULAR", "VALID", or pairs (low, high), one per spatial axis.

  Returns:
    One `Axis` per spatial axis.

  Raises:
    ValueError: If `filters` is not an array of real numbers of one of these shapes, or if the stride,
      the dilation or the padding is invalid or has the wrong number of axes.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> rows, columns = ops.as_axes(jnp.ones((3, 5, 1, 8)), (1, 2), 2, "SAME")
    >>> rows.extent, columns.extent, columns.code_size(16)
    (5, 9, 8)
  """
  checks.all_real("filters", filters)
  rank = filters.ndim - 2
  if rank not in LAYOUTS:
    expected = "[kh, kw, C, m], [k, C, m] for 1-D signals, or [kd, kh, kw, C, m] for volumes"
    checks.fail("filters", tuple(filters.shape), expected)
  if min(filters.shape) < 1:
    checks.fail("filters", tuple(filters.shape), "a shape without an empty axis")
  strides, dilations = (
    _per_axis(name, integers_per_axis(name, value), rank)
    for name, value in (("stride", stride), ("dilation", dilation))
  )
  padding = as_padding(padding)
  paddings = (padding,) * rank if isinstance(padding, str) else padding
  if len(paddings) != rank:
    checks.fail("padding", padding, f"{rank} pairs (low, high)")
  return tuple(map(Axis, filters.shape[:-2], strides, dilations, paddings))


def _per_axis(name: str, value: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
  """Returns one integer per axis; raises ValueError if their number is not `rank`."""
  values = value if isinstance(value, tuple) else (value,) * rank
  if len(values) != rank:
    checks.fail(name, value, f"one integer >= 1, or {rank} of them")
  return values


def _plain(value: Any) -> Any:
  """Converts arrays, NumPy scalars, lists and ranges to Python numbers and nested tuples of them."""
  if isinstance(value, np.generic | np.ndarray | jax.Array) and not checks.is_traced(value):
    value = np.asarray(value).tolist()
  if isinstance(value, Sequence) and not isinstance(value, str | bytes):
    return tuple(map(_plain, value))
  return value
