"""The analysis convolution of a dictionary and its exact adjoint, in one or two dimensions.

Arrays are [..., spatial..., channels], filters [kernel..., C, m] (HWIO in two dimensions); the number
of kernel axes tells the number of spatial axes, all axes before them are batch.
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
  """Analysis D^T x: the convolution of a CNN (a cross-correlation), dilated and strided.

  In float32 it has the precision that `jax.default_matmul_precision` asks for around the call, and so
  have its derivatives.

  Args:
    x: Signal [..., H, W, C], or [..., L, C] for one-dimensional filters.
    filters: [kh, kw, C, m], or [k, C, m].
    stride: Step between outputs, one for all axes or one an axis, >= 1.
    dilation: Step between the taps of a filter, likewise.
    padding: See `Padding`. "CIRCULAR" gives the circulant matrices of the paper: output p looks at
      the taps around sample p * stride, as "SAME" does at stride 1. At other strides "SAME" spreads the
      zeros evenly over both borders (TensorFlow's rule), which moves its taps with the signal's size.

  Returns:
    [..., H', W', m].

  Raises:
    ValueError: If the ranks, the channels, the stride, the dilation or the padding do not fit, or no
      output is left.
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
  """Synthesis D code: the exact adjoint of `conv` on signals of the given size.

  Args:
    code: [..., H', W', m].
    filters: [kh, kw, C, m], or [k, C, m].
    signal_shape: The spatial shape (H, W) of the signal; several of them can give the same (H', W')
      when the stride is not 1.
    stride: As in `conv`.
    dilation: As in `conv`.
    padding: As in `conv`.

  Returns:
    [..., H, W, C] with <conv(x), code> = <x, conv_adjoint(code)> for every x.

  Raises:
    ValueError: As `conv`, and if `signal_shape` does not give the shape of `code`.
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

  def adjoint(code, filters):
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
  """Spatial shape of `conv`'s result for a signal of spatial shape `signal_shape`."""
  return _analysis_shape(filters, signal_shape, as_axes(filters, stride, dilation, padding))


def synthesis_shape(
  filters: jax.Array,
  code_shape: Sequence[int],
  *,
  stride: int | Sequence[int] = 1,
  dilation: int | Sequence[int] = 1,
  padding: Padding = "SAME",
) -> tuple[int, ...]:
  """Smallest common signal size for a code: stride * H' where padded to size, else what fits exactly."""
  axes = as_axes(filters, stride, dilation, padding)
  if len(code_shape) != len(axes):
    checks.fail("code_shape", tuple(code_shape), f"{len(axes)} spatial sizes")
  return tuple(axis.signal_size(n) for axis, n in zip(axes, code_shape, strict=True))


def _conv(x: jax.Array, filters: jax.Array, axes: tuple[Axis, ...]) -> jax.Array:
  """`conv` for checked arguments."""
  rank = len(axes)
  batch, spatial = x.shape[: x.ndim - rank - 1], x.shape[x.ndim - rank - 1 : -1]
  _analysis_shape(filters, spatial, axes)  # raises where nothing is left
  dtype = common_float(x, filters)
  x = x.astype(dtype).reshape(math.prod(batch), *spatial, x.shape[-1])
  pads = tuple(axis.pads(n) for axis, n in zip(axes, spatial, strict=True))
  if axes[0].padding == "CIRCULAR":
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)], mode="wrap")
    pads = ((0, 0),) * rank
  strides, dilations = tuple(a.stride for a in axes), tuple(a.dilation for a in axes)
  out = _conv_primitives.conv(x, filters.astype(dtype), strides=strides, dilations=dilations, pads=pads)
  return out.reshape(*batch, *out.shape[1:])


def _analysis_shape(filters, signal_shape, axes):
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


def _check_channels(name, array, filters, axis):
  checks.all_real(name, array)
  rank = filters.ndim - 2
  if array.ndim < rank + 1 or array.shape[-1] != filters.shape[axis]:
    spatial = "H, W" if rank == 2 else "L"
    checks.fail(
      name,
      tuple(array.shape),
      f"[..., {spatial}, {filters.shape[axis]}] for filters {filters.shape}",
    )
