"""The analysis convolution of a dictionary and its exact adjoint, in one, two or three dimensions.

Signals have the shape [..., H, W, C], [..., L, C] or [..., D, H, W, C], filters the shape
[kh, kw, C, m], [k, C, m] or [kd, kh, kw, C, m]. The rank of the filters tells the number of spatial
axes; the axes before them are batch axes.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cscjax import checks
from cscjax.ops import _conv_primitives
from cscjax.ops._geometry import Axis, Padding, as_axes
from cscjax.ops._meshes import shard_batch, vary_alike
from cscjax.ops._precision import common_float


def conv(
  x: jax.Array,
  filters: jax.Array,
  *,
  stride: int | Sequence[int] = 1,
  dilation: int | Sequence[int] = 1,
  padding: Padding = "SAME",
) -> jax.Array:
  """Computes the analysis D^T x: the strided and dilated convolution of a CNN.

  This is a cross-correlation: no filter is flipped. Float32 products have the precision that
  `jax.default_matmul_precision` sets around the call, and so do those of all derivatives.

  Args:
    x: Signal of shape [..., H, W, C], or [..., L, C] or [..., D, H, W, C] for one- or three-dimensional
      filters.
    filters: Filters of shape [kh, kw, C, m], [k, C, m] or [kd, kh, kw, C, m].
    stride: Step between outputs, at least 1: one integer, or one per spatial axis.
    dilation: Step between the taps of a filter, at least 1: one integer, or one per spatial axis.
    padding: "SAME" (zeros), "CIRCULAR" (the signal wraps around, as in the circulant matrices of the
      paper), "VALID" (none), or pairs (low, high) of numbers of zeros, one per spatial axis. "CIRCULAR"
      places the taps of output p around sample p * stride, at every stride. "SAME" does so at stride 1
      only; at other strides the position also depends on the size of the signal, because the zeros are
      divided evenly between both borders (TensorFlow's rule).

  Returns:
    The code of shape [..., H', W', m] or [..., L', m], in the common floating type of `x` and `filters`.

  Raises:
    ValueError: If `x` or `filters` is not an array of real numbers of these shapes, if the stride, the
      dilation or the padding is invalid, or if the filters do not fit into the padded signal.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> x = jnp.array([1.0, 10.0, 100.0])[:, None]
    >>> filters = jnp.array([1.0, 2.0]).reshape(2, 1, 1)
    >>> ops.conv(x, filters, padding="VALID")[:, 0].tolist()
    [21.0, 210.0]
  """
  axes = as_axes(filters, stride, dilation, padding)
  _check_channels("x", x, filters, axis=-2)
  batch_ndim = x.ndim - filters.ndim + 1
  return shard_batch(lambda x, w: _conv(x, w, axes), x, filters, batch_ndim=batch_ndim)


def conv_adjoint(
  code: jax.Array,
  filters: jax.Array,
  signal_shape: Sequence[int],
  *,
  stride: int | Sequence[int] = 1,
  dilation: int | Sequence[int] = 1,
  padding: Padding = "SAME",
) -> jax.Array:
  """Computes the synthesis D code, the exact adjoint of `conv` on signals of a given size.

  Float32 products have the precision that `jax.default_matmul_precision` sets around the call, and so do
  those of all derivatives.

  Args:
    code: Code of shape [..., H', W', m], or [..., L', m] or [..., D', H', W', m] for one- or
      three-dimensional filters.
    filters: Filters of shape [kh, kw, C, m], [k, C, m] or [kd, kh, kw, C, m].
    signal_shape: Spatial shape (H, W), (L,) or (D, H, W) of the signal. It is needed because at a stride
      above 1 signals of several sizes have codes of the same size.
    stride: Step between the positions of an atom, at least 1: one integer, or one per spatial axis.
    dilation: Step between the taps of a filter, at least 1: one integer, or one per spatial axis.
    padding: Padding of the analysis: "SAME", "CIRCULAR", "VALID", or pairs (low, high), one per spatial
      axis.

  Returns:
    The signal of shape [..., H, W, C] or [..., L, C], with `<conv(x), code> = <x, conv_adjoint(code)>`
    for every x.

  Raises:
    ValueError: If `code` or `filters` is not an array of real numbers of these shapes, if the stride,
      the dilation or the padding is invalid, or if signals of `signal_shape` do not have codes of this
      shape.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> code = jnp.array([1.0, 0.0, 10.0])[:, None]
    >>> filters = jnp.array([1.0, 2.0]).reshape(2, 1, 1)
    >>> ops.conv_adjoint(code, filters, (4,), padding="VALID")[:, 0].tolist()
    [1.0, 2.0, 10.0, 20.0]
  """
  axes = as_axes(filters, stride, dilation, padding)
  _check_channels("code", code, filters, axis=-1)
  rank = filters.ndim - 2
  batch = code.shape[: code.ndim - rank - 1]
  expected = _analysis_shape(filters, signal_shape, axes)
  if tuple(code.shape[-rank - 1 : -1]) != expected:
    checks.fail(
      "code", tuple(code.shape), f"spatial shape {expected} for a signal of {tuple(signal_shape)}"
    )

  def adjoint(code: jax.Array, filters: jax.Array) -> jax.Array:
    dtype = common_float(code, filters)
    code, filters = vary_alike((code.astype(dtype), filters.astype(dtype)))
    signal = jnp.zeros_like(code, shape=(*batch, *signal_shape, filters.shape[-2]))
    return jax.linear_transpose(lambda x: _conv(x, filters, axes), signal)(code)[0]

  return shard_batch(adjoint, code, filters, batch_ndim=len(batch))


def analysis_shape(
  filters: jax.Array,
  signal_shape: Sequence[int],
  *,
  stride: int | Sequence[int] = 1,
  dilation: int | Sequence[int] = 1,
  padding: Padding = "SAME",
) -> tuple[int, ...]:
  """Returns the spatial shape of the code that `conv` computes.

  Args:
    filters: Filters of shape [kh, kw, C, m], [k, C, m] or [kd, kh, kw, C, m].
    signal_shape: Spatial shape (H, W), (L,) or (D, H, W) of the signal.
    stride: Step between outputs, at least 1: one integer, or one per spatial axis.
    dilation: Step between the taps of a filter, at least 1: one integer, or one per spatial axis.
    padding: "SAME", "CIRCULAR", "VALID", or pairs (low, high), one per spatial axis.

  Returns:
    The spatial shape (H', W'), (L',) or (D', H', W').

  Raises:
    ValueError: If the shape of `filters`, the stride, the dilation or the padding is invalid, if
      `signal_shape` has the wrong number of sizes or one below 1, or if the filters do not fit into the
      padded signal.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> ops.analysis_shape(jnp.ones((3, 3, 1, 8)), (32, 31), stride=2)
    (16, 16)
  """
  return _analysis_shape(filters, signal_shape, as_axes(filters, stride, dilation, padding))


def synthesis_shape(
  filters: jax.Array,
  code_shape: Sequence[int],
  *,
  stride: int | Sequence[int] = 1,
  dilation: int | Sequence[int] = 1,
  padding: Padding = "SAME",
) -> tuple[int, ...]:
  """Returns the default spatial shape of a signal for a code of the given shape.

  At a stride above 1 signals of several sizes have codes of the same shape; this function picks one.

  Args:
    filters: Filters of shape [kh, kw, C, m], [k, C, m] or [kd, kh, kw, C, m].
    code_shape: Spatial shape (H', W'), (L',) or (D', H', W') of the code.
    stride: Step between the positions of an atom, at least 1: one integer, or one per spatial axis.
    dilation: Step between the taps of a filter, at least 1: one integer, or one per spatial axis.
    padding: "SAME", "CIRCULAR", "VALID", or pairs (low, high), one per spatial axis.

  Returns:
    Along each axis, stride * size for "SAME" and "CIRCULAR", else the smallest size with such a code.

  Raises:
    ValueError: If the shape of `filters`, the stride, the dilation or the padding is invalid, or if
      `code_shape` has the wrong number of sizes.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import ops
    >>> ops.synthesis_shape(jnp.ones((3, 3, 1, 8)), (16, 16), stride=2)
    (32, 32)
    >>> ops.synthesis_shape(jnp.ones((3, 3, 1, 8)), (16, 16), stride=2, padding="VALID")
    (33, 33)
  """
  axes = as_axes(filters, stride, dilation, padding)
  if len(code_shape) != len(axes):
    checks.fail("code_shape", tuple(code_shape), f"{len(axes)} spatial sizes")
  return tuple(axis.signal_size(n) for axis, n in zip(axes, code_shape, strict=True))


def _conv(x: jax.Array, filters: jax.Array, axes: tuple[Axis, ...]) -> jax.Array:
  """Computes `conv` for checked arguments."""
  rank = len(axes)
  batch, spatial = x.shape[: x.ndim - rank - 1], x.shape[x.ndim - rank - 1 : -1]
  _analysis_shape(filters, spatial, axes)  # raises if the filters do not fit
  dtype = common_float(x, filters)
  x = x.astype(dtype).reshape(math.prod(batch), *spatial, x.shape[-1])
  pads = tuple(axis.pads(n) for axis, n in zip(axes, spatial, strict=True))
  if axes[0].padding == "CIRCULAR":
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)], mode="wrap")
    pads = ((0, 0),) * rank
  strides, dilations = tuple(a.stride for a in axes), tuple(a.dilation for a in axes)
  out = _conv_primitives.conv(x, filters.astype(dtype), strides=strides, dilations=dilations, pads=pads)
  return out.reshape(*batch, *out.shape[1:])


def _analysis_shape(
  filters: jax.Array, signal_shape: Sequence[int], axes: tuple[Axis, ...]
) -> tuple[int, ...]:
  """Computes `analysis_shape` for checked axes."""
  if len(signal_shape) != len(axes):
    checks.fail("signal_shape", tuple(signal_shape), f"{len(axes)} spatial sizes")
  if min(signal_shape) < 1:
    checks.fail("signal_shape", tuple(signal_shape), "spatial sizes >= 1")
  shape = tuple(axis.code_size(n) for axis, n in zip(axes, signal_shape, strict=True))
  if min(shape) < 1:
    dilations = tuple(axis.dilation for axis in axes)
    checks.fail(
      "filters",
      tuple(filters.shape),
      f"a filter that fits a signal of {tuple(signal_shape)} at dilation {dilations}",
    )
  return shape


def _check_channels(name: str, array: jax.Array, filters: jax.Array, axis: int) -> None:
  """Raises ValueError if the last axis of `array` differs from the given axis of the filters."""
  checks.all_real(name, array)
  rank = filters.ndim - 2
  if array.ndim < rank + 1 or array.shape[-1] != filters.shape[axis]:
    spatial = ("L", "H, W", "D, H, W")[rank - 1]
    checks.fail(
      name,
      tuple(array.shape),
      f"[..., {spatial}, {filters.shape[axis]}] for filters {filters.shape}",
    )
