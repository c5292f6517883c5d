"""Sums over patches of a signal and stripes of a code, the neighbourhoods of the local theory."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cscjax.dictionaries import ConvDictionary


def patch_sums(conv: ConvDictionary, sites: jax.Array) -> jax.Array:
  """Sums over the sites that each atom covers from its first tap to its last.

  Args:
    conv: Whose atoms.
    sites: [..., H, W] or [..., L] on the signal's grid.

  Returns:
    [..., H', W'] on the code's grid.
  """
  for i, axis in enumerate(conv.axes):
    at = i - len(conv.filters.shape[:-2])
    pads, circular = axis.pads(sites.shape[at]), axis.padding == "CIRCULAR"
    sites = _window_sums(sites, at, axis.extent, axis.stride, pads, circular)
  return sites


def stripe_sums(conv: ConvDictionary, positions: jax.Array, spatial: tuple[int, ...]) -> jax.Array:
  """Sums over the positions of all atoms whose extent overlaps that of the atom at each position.

  Args:
    conv: Whose atoms.
    positions: [..., H', W'] or [..., L'] on the code's grid.
    spatial: (H, W) or (L,) of the signal.

  Returns:
    Of the shape of `positions`.
  """
  circular = conv.padding == "CIRCULAR"
  for i, axis in enumerate(conv.axes):
    at, reach = i - len(conv.filters.shape[:-2]), axis.extent - 1
    # On the signal's grid atoms overlap where their first taps are less than an extent apart, also
    # around a circle that the stride does not divide.
    size = (positions.shape[at] - 1) * axis.stride + 1
    pads = [(0, 0, 0)] * positions.ndim
    pads[at] = (0, spatial[i] - size if circular else 0, axis.stride - 1)
    sites = lax.pad(positions, jnp.zeros((), positions.dtype), pads)
    positions = _window_sums(sites, at, 2 * reach + 1, axis.stride, (reach, reach), circular)
  return positions


def _window_sums(values, axis, window, stride, pads, circular):
  size = values.shape[axis]
  if circular and window >= size:  # every window is the whole circle, each site once
    whole = jnp.sum(values, axis=axis, keepdims=True)
    return jnp.repeat(whole, -(-size // stride), axis=axis)
  widths = [(0, 0)] * values.ndim
  widths[axis] = pads
  values = jnp.pad(values, widths, mode="wrap" if circular else "constant")
  sizes, strides = np.ones(values.ndim, int), np.ones(values.ndim, int)
  sizes[axis], strides[axis] = window, stride
  zero = np.zeros((), values.dtype)
  return lax.reduce_window(values, zero, lax.add, tuple(sizes), tuple(strides), "VALID")
