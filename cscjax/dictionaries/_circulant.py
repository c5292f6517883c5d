"""Circular convolutions of stride 1, which the Fourier transform turns into small blocks."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cscjax.dictionaries._conv import ConvDictionary
from cscjax.ops import highest_precision, vary_alike

BLOCK = 2**18  # complex numbers that are held for a block of frequencies


def codes_are_smaller(conv: ConvDictionary) -> bool:
  """Whether D^T D has the smaller blocks, [m, m], not D D^T, [C, C]; they share eigenvalues > 0."""
  channels, count = conv.filters.shape[-2:]
  return count < channels


def inverse_blocks(conv: ConvDictionary, sizes: Sequence[int], ridge: jax.Array) -> jax.Array:
  """The inverse of ridge I + D D^T, or of ridge I + D^T D where codes are smaller, block by block.

  Args:
    conv: A circular convolution of stride 1.
    sizes: (H, W) or (L,) of a signal.
    ridge: > 0, a scalar.

  Returns:
    [H, W // 2 + 1, s, s], or [L // 2 + 1, s, s], s = min(C, m): a row of a spectrum times its block.
  """

  def inverse(block):
    return jnp.linalg.inv(block + ridge.astype(block.dtype) * jnp.eye(len(block), dtype=block.dtype))

  blocks = _map_frequencies(conv, sizes, inverse)
  return blocks.reshape(*sizes[:-1], -1, *blocks.shape[1:])


def largest_gram_eigenvalue(conv: ConvDictionary, sizes: Sequence[int]) -> jax.Array:
  """lambda_max(D^T D) of a circular convolution of stride 1 on signals of spatial shape `sizes`."""
  constant = jax.tree.map(lax.stop_gradient, conv)
  tops = _map_frequencies(constant, sizes, lambda block: jnp.linalg.eigvalsh(block)[-1])
  return largest_eigenvalue(_gram_block(conv, sizes, jnp.argmax(tops)))


@jax.custom_jvp
def largest_eigenvalue(matrix: jax.Array) -> jax.Array:
  """lambda_max of a Hermitian matrix [n, n], with the derivative v^* dA v for one of its eigenvectors v.

  Where the eigenvalue is repeated that is a subgradient; the derivative of `eigvalsh` is NaN there.
  """
  return jnp.linalg.eigvalsh(matrix)[-1]


@largest_eigenvalue.defjvp
@highest_precision
def _(primals, tangents):
  (matrix,), (change,) = primals, tangents
  values, vectors = jnp.linalg.eigh(matrix)
  vector = vectors[:, -1]
  return values[-1], jnp.real(jnp.vdot(vector, change @ vector))


def _map_frequencies(
  conv: ConvDictionary, sizes: Sequence[int], function: Callable[[jax.Array], jax.Array]
) -> jax.Array:
  """function(block) at each frequency of a real Fourier transform, stacked."""
  count = math.prod(sizes[:-1]) * (sizes[-1] // 2 + 1)
  channels, atoms = conv.filters.shape[-2:]
  held = math.prod(conv.filters.shape[:-2]) + channels * atoms + min(channels, atoms) ** 2
  batch = min(count, max(1, BLOCK // held))
  at = jax.vmap(lambda index: function(_gram_block(conv, sizes, index)))

  def body(values, start):
    # Written in place, the last block over a part of the one before: no second copy of them all.
    block = at(start + jnp.arange(batch))
    return lax.dynamic_update_slice_in_dim(values, block, start, axis=0), None

  one = jax.eval_shape(at, jnp.arange(1))
  values = vary_alike(jnp.zeros((count, *one.shape[1:]), one.dtype), conv)
  return lax.scan(body, values, jnp.minimum(jnp.arange(0, count, batch), count - batch))[0]


def _gram_block(conv, sizes, index):
  """At one frequency, by its place in a real Fourier transform: [C, C] of D D^T, or [m, m] of D^T D."""
  channels, count = conv.filters.shape[-2:]
  phases = lax.complex(jnp.ones((), conv.filters.dtype), jnp.zeros((), conv.filters.dtype))
  places = jnp.unravel_index(index, (*sizes[:-1], sizes[-1] // 2 + 1))
  for place, n, axis in zip(places, sizes, conv.axes, strict=True):
    turns = _product_modulo(place, np.arange(axis.taps) * axis.dilation % n, n)
    angles = (-2 * np.pi / n) * turns.astype(conv.filters.dtype)
    phases = jnp.outer(phases, lax.complex(jnp.cos(angles), jnp.sin(angles))).reshape(-1)
  taps = conv.filters.reshape(-1, channels * count)
  spectra = lax.complex(phases.real @ taps, phases.imag @ taps)
  spectra = spectra.reshape(channels, count)
  if codes_are_smaller(conv):
    return spectra.T @ spectra.conj()
  return spectra.conj() @ spectra.T


def _product_modulo(a, b, n):
  """(a b) mod n for a scalar a and a constant vector b, both in 0..n-1, within 32 bits."""
  digit = 31 - (n - 1).bit_length()
  total = jnp.zeros(b.shape, jnp.uint32)
  a = a.astype(jnp.uint32)
  for shift in reversed(range(0, max(1, int(b.max()).bit_length()), digit)):
    part = (b >> shift & (2**digit - 1)).astype(np.uint32)
    total = ((total << digit) % n + a * part % n) % n
  return total
