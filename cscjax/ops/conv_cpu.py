"""The three maps of a convolution as XLA's CPU backend runs them fast, also inside a loop.

XLA has a fast CPU convolution for one layout alone, [N, H, W, C] with filters [kh, kw, C, m], and inside
a loop it does not bring others into it: the transposes are written as convolutions in that layout. Two
kinds of convolution are slow even so, and are matrix products here:

- few output channels, the synthesis of an image (`_shift_add`), which runs at about 6 GFLOP/s a channel;
- filters with more taps than the signal has pixels, such as 3x3 on 2x2 (`_patches`): XLA exchanges
  signal and filters there, and is 20 to 80 times slower.

Arguments are those of `conv_primitives`.
"""

import itertools
import math

import jax.numpy as jnp
from jax import lax

_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}
_FEW_CHANNELS = 8  # signals of up to so many channels are synthesised by `_shift_add`
_TILE = 2**19  # numbers in a tile of `_shift_add`: 2 MB, which stays in the cache


def conv(x, w, *, strides, dilations, pads, sizes):
  """[N, H, W, C], [kh, kw, C, m] -> [N, H', W', m]."""
  del sizes
  return _convolve(x, w, strides, pads, (1,) * len(strides), dilations)


def input_transpose(y, w, *, strides, dilations, pads, sizes):
  """[N, H', W', m], [kh, kw, C, m] -> [N, H, W, C]."""
  if w.shape[-2] <= _FEW_CHANNELS and y.size:
    return _shift_add(y, w, strides=strides, dilations=dilations, pads=pads, sizes=sizes)
  rank = y.ndim - 2
  new_pads = []
  for h, k, n, s, d, (low, _) in zip(*sizes, y.shape[1:-1], strides, dilations, pads, strict=True):
    before = (k - 1) * d - low
    new_pads.append((before, h + (k - 1) * d - ((n - 1) * s + 1) - before))
  flipped = jnp.swapaxes(jnp.flip(w, range(rank)), -1, -2)
  return _convolve(y, flipped, (1,) * rank, new_pads, strides, dilations)


def filter_transpose(x, y, *, strides, dilations, pads, sizes):
  """[N, H, W, C], [N, H', W', m] -> [kh, kw, C, m]."""
  rank = x.ndim - 2
  ones = (1,) * rank
  if math.prod(y.shape[1:-1]) > math.prod(x.shape[1:-1]):  # the taps, as below, outnumber the pixels
    patches = _patches(x, sizes[1], y.shape[1:-1], strides, pads, ones, dilations)
    return _matmul(patches.T, y.reshape(-1, y.shape[-1])).reshape(*sizes[1], x.shape[-1], y.shape[-1])
  new_pads = []
  for h, k, n, s, d, (low, _) in zip(*sizes, y.shape[1:-1], strides, dilations, pads, strict=True):
    new_pads.append((low, (k - 1) * d + (n - 1) * s + 1 - h - low))
  # The batch is what is summed over: it takes the channels' place.
  grad = _convolve(jnp.swapaxes(x, 0, -1), jnp.moveaxis(y, 0, -2), dilations, new_pads, ones, strides)
  return jnp.moveaxis(grad, 0, -2)


def _convolve(x, w, strides, pads, upsampling, dilations):
  """`lax.conv_general_dilated`, of x with upsampling - 1 zeros between its pixels."""
  taps = w.shape[:-2]
  if math.prod(taps) <= math.prod(x.shape[1:-1]):
    return lax.conv_general_dilated(
      x, w, strides, pads, upsampling, dilations, dimension_numbers=_LAYOUTS[x.ndim - 2]
    )
  shape = tuple(
    ((h - 1) * u + 1 + low + high - ((k - 1) * d + 1)) // s + 1
    for h, u, (low, high), k, d, s in zip(
      x.shape[1:-1], upsampling, pads, taps, dilations, strides, strict=True
    )
  )
  patches = _patches(x, taps, shape, strides, pads, upsampling, dilations)
  return _matmul(patches, w.reshape(-1, w.shape[-1])).reshape(x.shape[0], *shape, w.shape[-1])


def _patches(x, taps, shape, strides, pads, upsampling, dilations):
  """The part of x that each output sees (im2col): [N H' W', kh kw C] for outputs of (H', W') = shape."""
  edges = [(low, high, u - 1) for (low, high), u in zip(pads, upsampling, strict=True)]
  x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
  spans = [(n - 1) * s + 1 for n, s in zip(shape, strides, strict=True)]
  columns = []
  for tap in itertools.product(*(range(0, k * d, d) for k, d in zip(taps, dilations, strict=True))):
    window = [slice(t, t + span, s) for t, span, s in zip(tap, spans, strides, strict=True)]
    columns.append(x[:, *window])
  patches = jnp.concatenate(columns, axis=-1)
  return patches.reshape(x.shape[0] * math.prod(shape), patches.shape[-1])


def _matmul(a, b):
  """a @ b, summed in float32 at least."""
  return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32)).astype(a.dtype)


def _shift_add(y, w, *, strides, dilations, pads, sizes):
  """Input transpose for few channels: every tap's image by one matrix product, then their shifted sum.

  The taps' images are kh kw C / m times as large as y, so they are made for some rows of y at a time.
  """
  if y.ndim == 3:  # one-dimensional: as columns of width 1
    strides, dilations, pads = (*strides, 1), (*dilations, 1), (*pads, (0, 0))
    sizes = tuple((*size, 1) for size in sizes)
    y, w = y[:, :, None], w[:, None]
    return _shift_add(y, w, strides=strides, dilations=dilations, pads=pads, sizes=sizes)[:, :, 0]
  (n, height, width, m), (kh, kw, channels, _) = y.shape, w.shape
  dtype = jnp.promote_types(y.dtype, jnp.float32)
  tiles = min(height, -(-kh * kw * channels * n * height * width // _TILE))
  rows = -(-height // tiles)
  filters = w.reshape(-1, m)

  def synthesis(tile):
    """[n, rows, width, m] -> its part of the signal, unpadded."""
    products = (((1,), (1,)), ((), ()))
    images = lax.dot_general(filters, tile.reshape(-1, m), products, preferred_element_type=dtype)
    images = images.reshape(kh, kw, channels, n, rows, width)
    images = _shifted_sum(jnp.swapaxes(images, 0, 1), 4, strides[1], dilations[1])
    return jnp.moveaxis(_shifted_sum(images, 2, strides[0], dilations[0]), 0, -1)

  def add_tile(t, x):
    start = jnp.minimum(t * rows, height - rows)  # the last tile may begin in the one before it
    tile = lax.dynamic_slice_in_dim(y, start, rows, axis=1)
    new = (start + jnp.arange(rows) >= t * rows)[:, None, None]
    part = synthesis(jnp.where(new, tile, 0))
    start = start * strides[0]
    old = lax.dynamic_slice_in_dim(x, start, part.shape[1], axis=1)
    return lax.dynamic_update_slice_in_dim(x, old + part, start, axis=1)

  spans = [
    (size - 1) * s + (k - 1) * d + 1
    for size, k, s, d in zip((height, width), (kh, kw), strides, dilations, strict=True)
  ]
  if tiles == 1:
    x = synthesis(y)
  else:
    x = lax.fori_loop(0, tiles, add_tile, jnp.zeros((n, *spans, channels), dtype))
  edges = [
    (-low, size + low - span, 0) for size, span, (low, _) in zip(sizes[0], spans, pads, strict=True)
  ]
  return lax.pad(x.astype(y.dtype), jnp.zeros((), y.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def _shifted_sum(images, axis, stride, dilation):
  """sum_i of images[i] upsampled by `stride` along `axis` and moved by i * dilation."""
  taps, size = images.shape[0], images.shape[axis + 1]
  reach = (taps - 1) * dilation
  edges = [(0, 0, 0)] * images.ndim
  edges[axis + 1] = (reach, reach, stride - 1)
  images = lax.pad(images, jnp.zeros((), images.dtype), edges)
  size = (size - 1) * stride + 1 + reach
  starts = [reach - i * dilation for i in range(taps)]
  return sum(lax.slice_in_dim(images[i], s, s + size, axis=axis) for i, s in enumerate(starts))
