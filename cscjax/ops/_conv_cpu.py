"""The three maps of a convolution as XLA's CPU backend runs them fast, also inside a loop.

XLA has a fast CPU convolution for one layout alone, [N, H, W, C] with filters [kh, kw, C, m], and inside
a loop it does not bring others into it: the input transpose is written as a convolution in that layout.
Three kinds of convolution are slow even so, and are matrix products here:

- the filter transpose, whose images would have to take the channels' place: 2 to 5 times slower;
- few output channels, the synthesis of an image (`_shift_add`), which runs at about 6 GFLOP/s a channel;
- filters with more taps than the signal has pixels, such as 3x3 on 2x2 (`_patches`): XLA exchanges
  signal and filters there, and is 20 to 80 times slower.

Arguments are those of `_conv_primitives`.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cscjax.ops._precision import at_least_float32

_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}
_FEW_CHANNELS = 8  # signals of up to so many channels are synthesised by `_shift_add`
_TILE = 2**19  # numbers in a tile of `_shift_add`: 2 MB, which stays in the cache
_PRODUCT = 2**22  # numbers in the copies for one product of `filter_transpose`
_UNROLLED = 32  # taps up to which operations are written out one per tap; more would compile for minutes


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
  """[N, H, W, C], [N, H', W', m] -> [kh, kw, C, m].

  One matrix product over the pixels of shifted copies of x and of y: a tap is a shift of one of them
  against the other. Along the axes from `split` on it is x that is copied, once a tap, along those
  before it y (not possible with a stride); of the choices the one with the fewest copies is taken.
  """
  rank, kernel = x.ndim - 2, sizes[1]
  if not x.size or not y.size:
    return jnp.zeros((*kernel, x.shape[-1], y.shape[-1]), x.dtype)

  def taps(split):
    """Of x and of y along each axis."""
    return (1,) * split + kernel[split:], kernel[:split] + (1,) * (rank - split)

  def copies(split):
    return [math.prod(t) * a.shape[-1] for t, a in zip(taps(split), (x, y), strict=True)]

  first_strided = next((axis for axis, s in enumerate(strides) if s > 1), rank)
  split = min(range(first_strided + 1), key=lambda split: sum(copies(split)))
  (x_taps, y_taps), grid = taps(split), x.shape[1 : split + 1] + y.shape[split + 1 : -1]
  x_pads, y_pads = [(0, 0)] * rank, [(0, 0)] * rank
  for axis, (k, d, (low, _)) in enumerate(zip(kernel, dilations, pads, strict=True)):
    reach = (k - 1) * d
    if axis < split:
      y_pads[axis] = (reach - low, x.shape[axis + 1] + low - y.shape[axis + 1])
    else:
      span = (y.shape[axis + 1] - 1) * strides[axis] + 1
      x_pads[axis] = (low, span + reach - x.shape[axis + 1] - low)

  ones = (1,) * rank

  def product(x, y):
    left = _patches(x, x_taps, grid, strides, x_pads, ones, dilations)
    right = _patches(y, y_taps, grid, ones, y_pads, ones, dilations)
    return jnp.matmul(left, right.T, preferred_element_type=dtype)

  dtype = at_least_float32(x.dtype)
  images = _divisor(x.shape[0], _PRODUCT // (math.prod(grid) * sum(copies(split))))
  xs, ys = (a.reshape(-1, images, *a.shape[1:]) for a in (x, y))
  if len(xs) == 1:
    total = product(x, y)
  else:
    start = jnp.zeros_like(x, dtype, shape=copies(split))
    total = lax.fori_loop(0, len(xs), lambda i, total: total + product(xs[i], ys[i]), start)
  total = total.astype(x.dtype).reshape(*x_taps, x.shape[-1], *y_taps, y.shape[-1])
  pairs = [axis for i in range(rank) for axis in (i, rank + 1 + i)]  # of which one has size 1
  total = total.transpose(*pairs, rank, 2 * rank + 1)
  # y moved by a tap is x moved against it: its taps are in reverse order.
  return jnp.flip(total.reshape(*kernel, x.shape[-1], y.shape[-1]), range(split))


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
  return _matmul(patches.T, w.reshape(-1, w.shape[-1])).reshape(x.shape[0], *shape, w.shape[-1])


def _divisor(n, limit):
  """The largest divisor of n that is at most `limit`; 1 at least."""
  return max(d for d in range(1, n + 1) if n % d == 0 and d <= max(limit, 1))


def _patches(x, taps, shape, strides, pads, upsampling, dilations):
  """The part of x that each output sees (im2col): [kh kw C, N H' W'] for outputs of (H', W') = shape."""
  edges = [(low, high, u - 1) for (low, high), u in zip(pads, upsampling, strict=True)]
  x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
  if math.prod(taps) > _UNROLLED:
    return _gathered_patches(x, taps, shape, strides, dilations)
  spans = [(n - 1) * s + 1 for n, s in zip(shape, strides, strict=True)]
  columns = []
  for tap in itertools.product(*(range(0, k * d, d) for k, d in zip(taps, dilations, strict=True))):
    window = [slice(t, t + span, s) for t, span, s in zip(tap, spans, strides, strict=True)]
    columns.append(x[:, *window])
  patches = jnp.concatenate(columns, axis=-1)
  return patches.reshape(x.shape[0] * math.prod(shape), patches.shape[-1]).T


def _gathered_patches(x, taps, shape, strides, dilations):
  """`_patches` of a padded x by one gather, whatever the number of taps.

  Each axis is split into cells of `stride` pixels: a tap sees the same pixel of successive cells.
  """
  rank, images, channels = len(taps), x.shape[0], x.shape[-1]
  edges = [(0, -size % s, 0) for size, s in zip(x.shape[1:-1], strides, strict=True)]
  x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
  cells = [size // s for size, s in zip(x.shape[1:-1], strides, strict=True)]
  x = x.reshape(images, *itertools.chain(*zip(cells, strides, strict=True)), channels)
  x = x.transpose(*range(2, 2 * rank + 1, 2), 2 * rank + 1, 0, *range(1, 2 * rank + 1, 2))
  positions = np.indices(taps).reshape(rank, -1).T * dilations
  starts = np.zeros((len(positions), x.ndim), np.int32)
  starts[:, :rank], starts[:, -rank:] = positions % strides, positions // strides
  sizes = (*[1] * rank, channels, images, *shape)
  copies = jax.vmap(lambda start: lax.dynamic_slice(x, tuple(start), sizes))(jnp.asarray(starts))
  return copies.reshape(len(positions) * channels, images * math.prod(shape))


def _matmul(a, b):
  """a @ b, summed in float32 at least."""
  return jnp.matmul(a, b, preferred_element_type=at_least_float32(a.dtype)).astype(a.dtype)


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
  dtype = at_least_float32(y.dtype)
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
    x = lax.fori_loop(0, tiles, add_tile, jnp.zeros_like(y, dtype, shape=(n, *spans, channels)))
  edges = [
    (-low, size + low - span, 0) for size, span, (low, _) in zip(sizes[0], spans, pads, strict=True)
  ]
  return lax.pad(x.astype(y.dtype), jnp.zeros((), y.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def _shifted_sum(images, axis, stride, dilation):
  """sum_i of images[i] upsampled by `stride` along `axis` and moved by i * dilation."""
  taps, size = images.shape[0], (images.shape[axis + 1] - 1) * stride + 1
  length = size + (taps - 1) * dilation
  if taps > _UNROLLED:  # sums of so many first, then the sum of these
    images = jnp.pad(images, [(0, -taps % _UNROLLED)] + [(0, 0)] * (images.ndim - 1))
    groups = jnp.swapaxes(images.reshape(-1, _UNROLLED, *images.shape[1:]), 0, 1)
    sums = _shifted_sum(groups, axis + 1, stride, dilation)
    return lax.slice_in_dim(_shifted_sum(sums, axis, 1, _UNROLLED * dilation), 0, length, axis=axis)
  reach = length - size
  edges = [(0, 0, 0)] * images.ndim
  edges[axis + 1] = (reach, reach, stride - 1)
  images = lax.pad(images, jnp.zeros((), images.dtype), edges)
  starts = [reach - i * dilation for i in range(taps)]
  parts = [lax.slice_in_dim(images[i], s, s + length, axis=axis) for i, s in enumerate(starts)]
  return functools.reduce(jnp.add, parts)
