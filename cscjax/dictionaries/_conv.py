"""Convolutional dictionaries with stride and dilation."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cscjax import checks, ops
from cscjax.dictionaries._abstract import AbstractDictionary
from cscjax.dictionaries._atoms import Entries, Representatives
from cscjax.dictionaries._conv_atoms import (
  conv_atom_entries,
  conv_atom_norms,
  conv_coherence,
  conv_representatives,
)
from cscjax.dictionaries._conv_embedding import conv_embedding
from cscjax.dictionaries._embedding import CirculantEmbedding
from cscjax.dictionaries._lipschitz_constant import is_small
from cscjax.dictionaries._local_sums import patch_sums, stripe_sums
from cscjax.dictionaries._symbol import has_whole_strides, symbol_bound, symbol_constant


class ConvDictionary(AbstractDictionary):
  """A convolutional dictionary, whose atoms are the shifts of its filters.

  `analysis` is a cross-correlation with the filters, as in a CNN, and `synthesis` is its exact adjoint
  for every stride, dilation, padding and size. Signals have one, two or three spatial axes, as many as
  `filters`: [L, C], images [H, W, C], or volumes and videos [D, H, W, C], which all functions treat
  alike.

  Attributes:
    filters: Filters of shape [kh, kw, C, m] (HWIO), [k, C, m] for one-dimensional signals, or
      [kd, kh, kw, C, m] for volumes. A signal has C channels and a code has m. Nested lists are
      converted.
    stride: Step between the positions of an atom, at least 1: one integer, or one per spatial axis.
    dilation: Step between the taps of a filter (s in the paper), at least 1: one integer, or one per
      spatial axis.
    padding: "SAME" (zeros), "CIRCULAR" (the signal wraps around, as in the circulant matrices of the
      paper), "VALID" (none), or pairs (low, high) of numbers of zeros, one per spatial axis.

  Raises:
    ValueError: On construction, if the stride, the dilation or the padding is invalid (NumPy integers,
      arrays and lists are converted). On use, if they do not fit the filters.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> filters = jax.random.normal(jax.random.key(0), (3, 3, 1, 8))
    >>> dictionary = cscjax.ConvDictionary(filters, stride=2)
    >>> code = dictionary.analysis(jnp.ones((5, 32, 32, 1)))
    >>> code.shape, dictionary.synthesis(code).shape
    ((5, 16, 16, 8), (5, 32, 32, 1))
  """

  filters: jax.Array
  stride: int | tuple[int, ...] = struct.field(pytree_node=False, default=1)
  dilation: int | tuple[int, ...] = struct.field(pytree_node=False, default=1)
  padding: ops.Padding = struct.field(pytree_node=False, default="SAME")

  def __post_init__(self) -> None:
    # Static fields are part of the cache key of `jax.jit`, so they must be hashable.
    object.__setattr__(self, "stride", ops.integers_per_axis("stride", self.stride))
    object.__setattr__(self, "dilation", ops.integers_per_axis("dilation", self.dilation))
    object.__setattr__(self, "padding", ops.as_padding(self.padding))
    object.__setattr__(self, "filters", checks.list_as_array("filters", self.filters))

  @property
  def signal_ndim(self) -> int:
    """Number of axes of a signal: 3 for [H, W, C], 2 for [L, C], 4 for [D, H, W, C]."""
    return self.filters.ndim - 1

  @property
  def geometry(self) -> dict[str, Any]:
    """Stride, dilation and padding, as keyword arguments of the functions of `cscjax.ops`."""
    return {"stride": self.stride, "dilation": self.dilation, "padding": self.padding}

  @property
  def axes(self) -> tuple[ops.Axis, ...]:
    """The spatial axes, each with its number of taps, stride, dilation and padding.

    Raises:
      ValueError: If the stride, the dilation or the padding does not fit the filters, or if `filters` is
        not an array of real numbers of a valid shape.
    """
    return ops.as_axes(self.filters, **self.geometry)

  def analysis(self, x: jax.Array) -> jax.Array:
    """Computes D^T x, the convolution of a CNN.

    Args:
      x: Signal of shape [..., H, W, C] or [..., L, C].

    Returns:
      The code of shape [..., H', W', m] or [..., L', m].

    Raises:
      ValueError: If `x` is not an array of real numbers of this shape, or if the filters do not fit into
        the padded signal.
    """
    return ops.conv(x, self.filters, **self.geometry)

  def synthesis(self, code: jax.Array, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Computes D code, the exact adjoint of `analysis`.

    Args:
      code: Code of shape [..., H', W', m] or [..., L', m].
      signal_shape: Shape (..., H, W, C) or (..., L, C) of the signal, such as `x.shape`. Batch axes are
        ignored. By default the size of the signal is stride times the size of the code for "SAME" and
        "CIRCULAR", and else the smallest one with such a code.

    Returns:
      The signal of shape [..., H, W, C] or [..., L, C].

    Raises:
      ValueError: If `code` is not an array of real numbers of this shape, or if signals of
        `signal_shape` do not have codes of this shape.
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

  def compute_lipschitz(
    self, shape: tuple[int, ...], tolerance: float | None, key: jax.Array | None
  ) -> jax.Array:
    if self.padding == "CIRCULAR":
      has_symbol = has_whole_strides(self, shape[:-1])  # which gives L exactly
    else:
      has_symbol = tolerance is None and not is_small(self, shape)
    return (
      symbol_constant(self, shape) if has_symbol else super().compute_lipschitz(shape, tolerance, key)
    )

  def compute_lipschitz_bound(self, shape: tuple[int, ...]) -> jax.Array:
    return symbol_bound(self, shape)

  def compute_atom_norms(self, shape: tuple[int, ...]) -> jax.Array:
    return conv_atom_norms(self, shape)

  def atom_entries(self, indices: np.ndarray, signal_shape: Sequence[int]) -> Entries:
    return conv_atom_entries(self, indices, signal_shape)

  def representative_atoms(self, signal_shape: tuple[int, ...] | None) -> Representatives:
    return conv_representatives(self, signal_shape)

  def compute_coherence(self, shape: tuple[int, ...] | None) -> jax.Array:
    return conv_coherence(self, shape)

  def circulant_embedding(
    self, signal_shape: Sequence[int], margins: Sequence[tuple[int, int]] | None = None
  ) -> CirculantEmbedding:
    return conv_embedding(self, tuple(signal_shape), margins)

  def stripe_sums(self, values: jax.Array, signal_shape: Sequence[int]) -> jax.Array:
    sums = stripe_sums(self, jnp.sum(values, axis=-1), tuple(signal_shape)[:-1])
    return jax.lax.collapse(sums, values.ndim - self.signal_ndim)

  def patch_sums(self, values: jax.Array) -> jax.Array:
    sums = patch_sums(self, jnp.sum(values, axis=-1))
    return jax.lax.collapse(sums, values.ndim - self.signal_ndim)
