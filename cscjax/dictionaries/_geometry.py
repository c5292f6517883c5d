"""The geometry of a convolutional dictionary, axis by axis."""

from typing import NamedTuple

from cscjax.dictionaries._conv import ConvDictionary


class Axis(NamedTuple):
  """One spatial axis.

  Attributes:
    taps: Of a filter.
    stride: Between the positions of an atom.
    dilation: Between the taps.
  """

  taps: int
  stride: int
  dilation: int

  @property
  def extent(self) -> int:
    """Sites from a filter's first tap to its last."""
    return (self.taps - 1) * self.dilation + 1


def axes(conv: ConvDictionary) -> list[Axis]:
  """The spatial axes in order."""
  kernel = conv.filters.shape[:-2]

  def per_axis(value):
    return tuple(value) if isinstance(value, tuple) else (value,) * len(kernel)

  return [
    Axis(*axis) for axis in zip(kernel, per_axis(conv.stride), per_axis(conv.dilation), strict=True)
  ]


def meets_itself(conv: ConvDictionary, signal_shape: tuple[int, ...]) -> bool:
  """Whether a filter goes around a circular signal and back onto itself."""
  sizes = zip(axes(conv), signal_shape[:-1], strict=True)
  return conv.padding == "CIRCULAR" and any(axis.extent > n for axis, n in sizes)
