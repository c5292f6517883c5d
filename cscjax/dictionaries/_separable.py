"""A convolutional dictionary of separable filters, computed by one-dimensional convolutions."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from cscjax import checks, ops
from cscjax.dictionaries._abstract import AbstractDictionary
from cscjax.dictionaries._atoms import Representatives
from cscjax.dictionaries._conv import ConvDictionary
from cscjax.dictionaries._embedding import CirculantEmbedding


class SeparableDictionary(AbstractDictionary):
  """A convolutional dictionary whose filters are outer products of one-dimensional filters.

  The entries of filter k are `vertical[i, k] * horizontal[j, k] * channels[c, k]` (separable or rank-1
  filters; Rigamonti, Sironi, Lepetit & Fua 2013). A coefficient costs kh + kw multiplications instead of
  kh kw.

  Attributes:
    factors: The one-dimensional filters, an array [taps, m] for each spatial axis: (vertical,
      horizontal) for images. Lists are converted.
    channels: Weights of the C channels of a signal, of shape [C, m]. None for signals of one channel.
    stride: Step between the positions of an atom: one integer, or one per spatial axis.
    dilation: Step between the taps of a filter: one integer, or one per spatial axis.
    padding: "SAME", "CIRCULAR", "VALID", or pairs (low, high), as for `ConvDictionary`.

  Raises:
    ValueError: On construction, if the stride, the dilation or the padding is invalid. On use, if the
      factors do not fit together.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> vertical, horizontal = jnp.ones((5, 8)), jnp.ones((3, 8))
    >>> separable = cscjax.SeparableDictionary((vertical, horizontal))
    >>> code = separable.analysis(jnp.ones((16, 16, 1)))
    >>> code.shape, float(code[8, 8, 0]), separable.expanded.filters.shape
    ((16, 16, 8), 15.0, (5, 3, 1, 8))
  """

  factors: tuple[jax.Array, ...]
  channels: jax.Array | None = None
  stride: int | tuple[int, ...] = struct.field(pytree_node=False, default=1)
  dilation: int | tuple[int, ...] = struct.field(pytree_node=False, default=1)
  padding: ops.Padding = struct.field(pytree_node=False, default="SAME")

  def __post_init__(self) -> None:
    object.__setattr__(self, "stride", ops.integers_per_axis("stride", self.stride))
    object.__setattr__(self, "dilation", ops.integers_per_axis("dilation", self.dilation))
    object.__setattr__(self, "padding", ops.as_padding(self.padding))
    if isinstance(self.factors, list | tuple):
      factors = tuple(checks.list_as_array("factors", factor) for factor in self.factors)
      object.__setattr__(self, "factors", factors)
    object.__setattr__(self, "channels", checks.list_as_array("channels", self.channels))

  @property
  def signal_ndim(self) -> int:
    """Number of axes of a signal: 3 for [H, W, C], 2 for [L, C], 4 for [D, H, W, C]."""
    return len(self.factors) + 1

  @property
  def expanded(self) -> ConvDictionary:
    """The same dictionary as a `ConvDictionary` with filters [kh, kw, C, m].

    Raises:
      ValueError: If `factors` and `channels` are not matrices [taps, m] and [C, m] with the same m.
    """
    parts = [*self.factors] if self.channels is None else [*self.factors, self.channels]
    if any(jnp.ndim(part) != 2 or part.shape[1] != parts[0].shape[1] for part in parts):
      checks.fail("factors", [jnp.shape(part) for part in parts], "matrices [taps, m] with the same m")
    dtype = ops.common_float(*parts)
    parts = [jnp.asarray(part, dtype) for part in parts]
    filters = functools.reduce(lambda a, b: a[..., None, :] * ops.expand_rank(b, a.ndim + 1), parts)
    filters = filters[..., None, :] if self.channels is None else filters
    return ConvDictionary(filters, self.stride, self.dilation, self.padding)

  def analysis(self, x: jax.Array) -> jax.Array:
    """Computes D^T x.

    Args:
      x: Signal of shape [..., H, W, C] or [..., L, C].

    Returns:
      The code of shape [..., H', W', m] or [..., L', m].

    Raises:
      ValueError: If `x` is not an array of real numbers of this shape, or if the factors do not fit
        together or into the padded signal.
    """
    conv = self.expanded
    jax.eval_shape(conv.analysis, x)  # raises if the shapes do not fit
    dtype = ops.common_float(x, conv.filters)
    code = x.astype(dtype)
    if self.channels is not None:
      code = code @ jnp.asarray(self.channels, dtype)
    first = len(x.shape) - self.signal_ndim
    for at, (axis, taps) in enumerate(zip(conv.axes, self.factors, strict=True), start=first):
      code = _correlation(code, jnp.asarray(taps, dtype), axis, at)
    return code

  def synthesis(self, code: jax.Array, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Computes D code, the exact adjoint of `analysis`.

    Args:
      code: Code of shape [..., H', W', m] or [..., L', m].
      signal_shape: Shape (..., H, W, C) or (..., L, C) of the signal, such as `x.shape`. Batch axes are
        ignored. By default the size is that of `ConvDictionary.synthesis`.

    Returns:
      The signal of shape [..., H, W, C] or [..., L, C].

    Raises:
      ValueError: If `code` is not an array of real numbers of this shape, or if signals of
        `signal_shape` do not have codes of this shape.
    """
    expanded = functools.partial(self.expanded.synthesis, signal_shape=signal_shape)
    signal = jax.eval_shape(expanded, code)  # raises if the shapes do not fit
    (found,) = jax.linear_transpose(self.analysis, signal)(code.astype(signal.dtype))
    return found

  def compute_lipschitz(
    self, shape: tuple[int, ...], tolerance: float | None, key: jax.Array | None
  ) -> jax.Array:
    return self.expanded.compute_lipschitz(shape, tolerance, key)

  def compute_lipschitz_bound(self, shape: tuple[int, ...]) -> jax.Array:
    return self.expanded.compute_lipschitz_bound(shape)

  def compute_atom_norms(self, shape: tuple[int, ...]) -> jax.Array:
    return self.expanded.compute_atom_norms(shape)

  def representative_atoms(self, signal_shape: tuple[int, ...] | None) -> Representatives:
    return self.expanded.representative_atoms(signal_shape)

  def compute_coherence(self, shape: tuple[int, ...] | None) -> jax.Array:
    return self.expanded.compute_coherence(shape)

  def circulant_embedding(
    self, signal_shape: Sequence[int], margins: Sequence[tuple[int, int]] | None = None
  ) -> CirculantEmbedding:
    embedding = self.expanded.circulant_embedding(signal_shape, margins)
    return embedding._replace(dictionary=self.replace(padding="CIRCULAR"))

  def stripe_sums(self, values: jax.Array, signal_shape: Sequence[int]) -> jax.Array:
    return self.expanded.stripe_sums(values, signal_shape)

  def patch_sums(self, values: jax.Array) -> jax.Array:
    return self.expanded.patch_sums(values)


def _correlation(x: jax.Array, taps: jax.Array, axis: ops.Axis, at: int) -> jax.Array:
  """Correlates each channel of x [..., m] with its own filter along one axis; taps [k, m]."""
  size = x.shape[at]
  pads = [(0, 0)] * x.ndim
  pads[at] = axis.pads(size)
  padded = jnp.pad(x, pads, mode="wrap" if axis.padding == "CIRCULAR" else "constant")
  last = (axis.code_size(size) - 1) * axis.stride + 1
  parts = []
  for i in range(axis.taps):
    start = i * axis.dilation
    part = lax.slice_in_dim(padded, start, start + last, axis.stride, at)
    parts.append(part * ops.expand_rank(taps[i], x.ndim))
  return functools.reduce(jnp.add, parts)
