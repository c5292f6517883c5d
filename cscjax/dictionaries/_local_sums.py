"""Sums over the patches of a signal and the stripes of a code, which the local theory is based on."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

if TYPE_CHECKING:
  from cscjax.dictionaries._conv import ConvDictionary


def patch_sums(conv: "ConvDictionary", sites: jax.Array) -> jax.Array:
  """Sums a signal over each atom's patch, the sites from the atom's first tap to its last.

  Args:
    conv: The dictionary of the atoms.
    sites: One value per site of the signal: [..., H, W] or [..., L].

  Returns:
    One sum per position of the code: [..., H', W'] or [..., L'].
  """
  for i, axis in enumerate(conv.axes):
    at = i - len(conv.filters.shape[:-2])
    pads, circular = axis.pads(sites.shape[at]), axis.padding == "CIRCULAR"
    sites = _window_sums(sites, at, axis.extent, axis.stride, pads, circular)
  return sites


def stripe_sums(conv: "ConvDictionary", positions: jax.Array, spatial: tuple[int, ...]) -> jax.Array:
  """Sums a code over each atom's stripe, the positions of all atoms that overlap the atom.

  An atom covers the sites from its first tap to its last.

  Args:
    conv: The dictionary of the atoms.
    positions: One value per position of the code: [..., H', W'] or [..., L'].
    spatial: The spatial shape of the signal, (H, W) or (L,).

  Returns:
    One sum per position, of the shape of `positions`.
  """
  circular = conv.padding == "CIRCULAR"
  for i, axis in enumerate(conv.axes):
    at, reach = i - len(conv.filters.shape[:-2]), axis.extent - 1
    # Two atoms overlap if their first taps are less than one extent apart on the signal's grid. Zeros
    # between the positions bring the code to that grid. With circular padding the zeros at the end
    # complete the circle, which the stride need not divide.
    size = (positions.shape[at] - 1) * axis.stride + 1
    pads = [(0, 0, 0)] * positions.ndim
    pads[at] = (0, spatial[i] - size if circular else 0, axis.stride - 1)
    sites = lax.pad(positions, jnp.zeros((), positions.dtype), pads)
    positions = _window_sums(sites, at, 2 * reach + 1, axis.stride, (reach, reach), circular)
  return positions


def _window_sums(
  values: jax.Array, axis: int, window: int, stride: int, pads: tuple[int, int], circular: bool
) -> jax.Array:
  """Sums over strided windows along one axis, after zero or circular padding."""
  size = values.shape[axis]
  if circular and window >= size:  # a window holds the whole circle and must count each site once
    whole = jnp.sum(values, axis=axis, keepdims=True)
    return jnp.repeat(whole, -(-size // stride), axis=axis)
  widths = [(0, 0)] * values.ndim
  widths[axis] = pads
  values = jnp.pad(values, widths, mode="wrap" if circular else "constant")
  sizes, strides = np.ones(values.ndim, int), np.ones(values.ndim, int)
  sizes[axis], strides[axis] = window, stride
  zero = np.zeros((), values.dtype)
  return lax.reduce_window(values, zero, lax.add, tuple(sizes), tuple(strides), "VALID")
