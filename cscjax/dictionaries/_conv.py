"""Convolutional dictionaries, strided and dilated."""

from collections.abc import Sequence

import jax
from flax import struct

from cscjax import checks, ops


class ConvDictionary(struct.PyTreeNode):
  """All shifts of some filters; its analysis is the convolution of a CNN.

  `analysis` is a cross-correlation with the filters, `synthesis` its adjoint, exact for every stride,
  dilation, padding and size. One- or two-dimensional after the rank of `filters`.

  Attributes:
    filters: [kh, kw, C, m] (HWIO), or [k, C, m] for one-dimensional signals; C channels of the
      signal, m of the code.
    stride: Step between the positions of an atom, one for all axes or one an axis.
    dilation: Step between the taps of a filter (the paper's s), likewise.
    padding: "SAME" (zeros), "CIRCULAR" (the paper's circulant matrices), "VALID", or explicit
      pairs (low, high), one an axis.

  Raises:
    ValueError: When made, if stride, dilation or padding are not of these kinds (NumPy integers, arrays
      and lists of integers are converted); when used, if they do not fit the filters.
  """

  filters: jax.Array
  stride: int | tuple[int, ...] = struct.field(pytree_node=False, default=1)
  dilation: int | tuple[int, ...] = struct.field(pytree_node=False, default=1)
  padding: ops.Padding = struct.field(pytree_node=False, default="SAME")

  def __post_init__(self):
    # Static fields are keys of jit's cache: one that cannot be hashed or compared would spoil it.
    object.__setattr__(self, "stride", ops.integers_per_axis("stride", self.stride))
    object.__setattr__(self, "dilation", ops.integers_per_axis("dilation", self.dilation))
    object.__setattr__(self, "padding", ops.as_padding(self.padding))
    object.__setattr__(self, "filters", checks.list_as_array("filters", self.filters))

  @property
  def signal_ndim(self) -> int:
    """A signal is [H, W, C] or [L, C]."""
    return self.filters.ndim - 1

  @property
  def geometry(self) -> dict:
    """Stride, dilation and padding, as the functions of `cscjax.ops` take them."""
    return {"stride": self.stride, "dilation": self.dilation, "padding": self.padding}

  @property
  def axes(self) -> tuple[ops.Axis, ...]:
    """The spatial axes, each with its taps, stride, dilation and padding."""
    return ops.as_axes(self.filters, **self.geometry)

  def analysis(self, x: jax.Array) -> jax.Array:
    """D^T x: [..., H, W, C] -> [..., H', W', m]."""
    return ops.conv(x, self.filters, **self.geometry)

  def synthesis(self, code: jax.Array, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """D code: [..., H', W', m] -> [..., H, W, C].

    Args:
      code: The code.
      signal_shape: (..., H, W, C) of the signal, as `x.shape`. Without it the size that fits the
        code exactly: stride * H' for "SAME" and "CIRCULAR".
    """
    checks.all_real("filters", self.filters)
    checks.all_real("code", code)
    rank, channels = self.filters.ndim - 2, self.filters.shape[-2]
    if signal_shape is None:
      if code.ndim <= rank:
        checks.fail("code", tuple(code.shape), f"at least {rank + 1} axes")
      spatial = ops.synthesis_shape(self.filters, code.shape[-rank - 1 : -1], **self.geometry)
    else:
      if len(signal_shape) <= rank or signal_shape[-1] != channels:
        checks.fail("signal_shape", tuple(signal_shape), f"(..., spatial sizes, {channels})")
      spatial = tuple(signal_shape)[-rank - 1 : -1]
    return ops.conv_adjoint(code, self.filters, spatial, **self.geometry)

  def residual(self, code: jax.Array, x: jax.Array) -> jax.Array:
    """D code - x: [..., H, W, C]."""
    return self.synthesis(code, x.shape) - x
