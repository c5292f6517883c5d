"""The three maps of a convolution in forms that are fast on XLA's CPU backend, also inside a loop.

XLA has a fast CPU convolution for one layout only, [N, H, W, C] with filters [kh, kw, C, m], and inside
a loop it does not convert other layouts to this one. The input transpose is therefore written as a
convolution in this layout. With few filters, a filter is applied to several adjacent pixels at once
(`_with_shifted_filters`). Three cases are slow even then and are computed as matrix products here:

- The filter transpose: in this layout its channels would be the images of the batch, which takes 2 to 5
  times as long.
- Few output channels, as in the synthesis of an image (`_shift_add`): XLA reaches about 6 GFLOP/s per
  channel only.
- Filters with more taps than the signal has pixels, such as 3x3 filters on 2x2 pixels (`_patches`): XLA
  exchanges the signal and the filters, and takes 20 to 80 times as long.

Adjacent pixels are computed together, and filters are padded with zeros for this. Because 0 * inf and
0 * NaN are NaN, a value that is not finite can make up to 15 more pixels of its row NaN than those that
depend on it. Other rows and other images do not change.

The arguments are those of `_conv_primitives`, without groups.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cscjax.ops._geometry import LAYOUTS, Pads, Sizes
from cscjax.ops._precision import at_least_float32

_FEW_CHANNELS = 8  # largest number of channels for which `_shift_add` is used
_TILE = 2**19  # largest number of values in a tile of `_shift_add`: 2 MB, which fits into the cache
_PRODUCT = 2**22  # largest number of values in the shifted copies for one product of `filter_transpose`
_FEW_PIXELS = 2**10  # fewer outputs are not worth the preparation of `_with_shifted_filters`
_VECTOR = 16  # number of float32 that XLA's convolution computes at once
_UNROLLED = 32  # largest number of taps with one operation per tap; more would compile for minutes


def conv(
  x: jax.Array,
  w: jax.Array,
  *,
  strides: Sequence[int],
  dilations: Sequence[int],
  pads: Pads,
  sizes: Sizes,
) -> jax.Array:
  """Convolves x [N, H, W, C] with w [kh, kw, C, m] to y [N, H', W', m]."""
  del sizes
  return _convolve(x, w, strides, pads, (1,) * len(strides), dilations)


def input_transpose(
  y: jax.Array,
  w: jax.Array,
  *,
  strides: Sequence[int],
  dilations: Sequence[int],
  pads: Pads,
  sizes: Sizes,
) -> jax.Array:
  """Maps y [N, H', W', m] and w [kh, kw, C, m] to x [N, H, W, C], the transpose of `conv` in x."""
  if w.shape[-2] <= _FEW_CHANNELS and y.size:
    return _shift_add(y, w, strides=strides, dilations=dilations, pads=pads, sizes=sizes)
  rank = y.ndim - 2
  new_pads = []
  for h, k, n, s, d, (low, _) in zip(*sizes, y.shape[1:-1], strides, dilations, pads, strict=True):
    before = (k - 1) * d - low
    new_pads.append((before, h + (k - 1) * d - ((n - 1) * s + 1) - before))
  flipped = jnp.swapaxes(jnp.flip(w, range(rank)), -1, -2)
  return _convolve(y, flipped, (1,) * rank, new_pads, strides, dilations)


def filter_transpose(
  x: jax.Array,
  y: jax.Array,
  *,
  strides: Sequence[int],
  dilations: Sequence[int],
  pads: Pads,
  sizes: Sizes,
) -> jax.Array:
  """Maps x [N, H, W, C] and y [N, H', W', m] to w [kh, kw, C, m], the transpose of `conv` in w.

  A tap is a shift of x relative to y, so all taps together are one matrix product over the pixels of
  shifted copies of x and y. Along the axes before `split` the copies are those of y (which requires
  stride 1), along the other axes those of x, one per tap. The split with the fewest copies is used.
  """
  rank, kernel = x.ndim - 2, sizes[1]
  if not x.size or not y.size:
    return jnp.zeros((*kernel, x.shape[-1], y.shape[-1]), x.dtype)

  def taps(split: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the numbers of copies of x and of y along each axis."""
    return (1,) * split + kernel[split:], kernel[:split] + (1,) * (rank - split)

  def copies(split: int) -> list[int]:
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

  def product(x: jax.Array, y: jax.Array) -> jax.Array:
    left = _patches(x, x_taps, grid, strides, x_pads, ones, dilations)
    right = _patches(y, y_taps, grid, ones, y_pads, ones, dilations)
    return jnp.matmul(left, right.T, preferred_element_type=dtype)

  dtype = at_least_float32(x.dtype)
  images = x.shape[0]
  if isinstance(images, int):  # a symbolic number of images (`jax.export`) is one product
    images = _divisor(images, _PRODUCT // (math.prod(grid) * sum(copies(split))))
  xs, ys = (a.reshape(-1, images, *a.shape[1:]) for a in (x, y))
  if len(xs) == 1:
    total = product(x, y)
  else:
    start = jnp.zeros_like(x, dtype, shape=copies(split))
    total = lax.fori_loop(0, len(xs), lambda i, total: total + product(xs[i], ys[i]), start)
  total = total.astype(x.dtype).reshape(*x_taps, x.shape[-1], *y_taps, y.shape[-1])
  pairs = [axis for i in range(rank) for axis in (i, rank + 1 + i)]  # one axis of each pair has size 1
  total = total.transpose(*pairs, rank, 2 * rank + 1)
  # Shifting y by a tap equals shifting x in the opposite direction, so these taps are in reverse order.
  return jnp.flip(total.reshape(*kernel, x.shape[-1], y.shape[-1]), range(split))


def _convolve(
  x: jax.Array,
  w: jax.Array,
  strides: Sequence[int],
  pads: Pads,
  upsampling: Sequence[int],
  dilations: Sequence[int],
) -> jax.Array:
  """Computes `lax.conv_general_dilated` of x with upsampling - 1 zeros between its pixels."""
  taps = w.shape[:-2]
  shape = tuple(
    ((h - 1) * u + 1 + low + high - ((k - 1) * d + 1)) // s + 1
    for h, u, (low, high), k, d, s in zip(
      x.shape[1:-1], upsampling, pads, taps, dilations, strides, strict=True
    )
  )
  if math.prod(taps) <= math.prod(x.shape[1:-1]):
    shifts = 1
    is_dense = strides[-1] == dilations[-1] == upsampling[-1] == 1
    known = [n for n in (x.shape[0], *shape) if isinstance(n, int)]  # others are symbolic (`jax.export`)
    is_large = shape[-1] in known and math.prod(known) >= _FEW_PIXELS
    if is_dense and is_large and w.size and x.dtype.itemsize <= 4:
      shifts = _number_of_shifts(w.shape, shape[-1], math.prod(x.shape[1:-1]))
    if shifts > 1:
      w, strides, pads = _with_shifted_filters(w, strides, pads, shifts, shape[-1])
    if len(taps) == 2 and math.prod(taps) > 1 and w.shape[-2] > 1:
      x, w, pads = _without_slow_cases(x, w, pads, upsampling)
    y = lax.conv_general_dilated(
      x, w, strides, pads, upsampling, dilations, dimension_numbers=LAYOUTS[x.ndim - 2]
    )
    if shifts > 1:
      y = y.reshape(*y.shape[:-2], -1, y.shape[-1] // shifts)[..., : shape[-1], :]
    return y
  patches = _patches(x, taps, shape, strides, pads, upsampling, dilations)
  return _matmul(patches.T, w.reshape(-1, w.shape[-1])).reshape(x.shape[0], *shape, w.shape[-1])


def _number_of_shifts(shape: tuple[int, ...], outputs: int, pixels: int) -> int:
  """Returns how many shifts of each filter make a convolution fastest, by an estimate of its time.

  XLA's library computes a vector of filters at a time. With few values per row of a patch it needs two
  vectors to be fast, and with an odd number of channels and two vectors, `_without_slow_cases` adds a
  channel. With many channels, loading a value takes as long as two vectors that it is multiplied with.

  Args:
    shape: The shape of the filters.
    outputs: Number of outputs along the last axis.
    pixels: Number of pixels of the signal.
  """
  *others, taps, channels, filters = shape
  has_many = channels > _VECTOR
  if has_many and others:  # no rule was found there
    return 1

  def time(shifts: int) -> float:
    vectors = -(-shifts * filters // _VECTOR)
    cost = -(-outputs // shifts) * (taps + shifts - 1) * (vectors + 2 * has_many)
    if vectors == 1 and taps * channels <= _VECTOR:
      cost *= 2
    if len(others) == 1 and vectors == 2 and channels % 2 and channels > 1:
      cost *= (channels + 1) / channels
    return cost if outputs % shifts == 0 else 1.25 * cost  # the outputs are copied

  most = _VECTOR * (5 if has_many else 2) // filters
  options = [
    s for s in (1, 2, 3, 4, 8, 16) if s <= most and math.prod(others) * (taps + s - 1) <= pixels
  ]
  best = min(options, key=time, default=1)
  return best if time(best) < 0.8 * time(1) else 1


def _with_shifted_filters(
  w: jax.Array, strides: Sequence[int], pads: Sequence[tuple[int, int]], shifts: int, outputs: int
) -> tuple[jax.Array, Sequence[int], Sequence[tuple[int, int]]]:
  """Returns (w, strides, pads) of a convolution that computes `shifts` adjacent outputs as channels.

  Its filters are the given ones, shifted by 0, 1, ... pixels along the last axis.
  """
  *taps, channels, filters = w.shape
  edges = [(0, 0)] * (len(taps) - 1)
  copies = [jnp.pad(w, [*edges, (t, shifts - 1 - t), (0, 0), (0, 0)]) for t in range(shifts)]
  w = jnp.stack(copies, axis=-2).reshape(*taps[:-1], taps[-1] + shifts - 1, channels, shifts * filters)
  low, high = pads[-1]
  return w, (*strides[:-1], shifts), [*pads[:-1], (low, high + -outputs % shifts)]


def _without_slow_cases(
  x: jax.Array, w: jax.Array, pads: Sequence[tuple[int, int]], upsampling: Sequence[int]
) -> tuple[jax.Array, jax.Array, Sequence[tuple[int, int]]]:
  """Returns (x, w, pads) of an equal convolution, which YNNPACK, the library that XLA calls, does fast.

  Without padding, it writes the patches of the whole x to memory, and takes up to 6 times as long. With
  an odd number of channels and 17 to 32 filters, it takes up to 19 times as long.
  """
  if not any(map(any, pads)):
    x = jnp.concatenate([x, x[:, :1]], axis=1)  # XLA would turn a row of zeros into padding
    pads = [(0, -upsampling[0]), (0, 0)]  # removes the row
  if w.shape[-2] % 2 and 16 < w.shape[-1] <= 32:
    x = jnp.pad(x, [(0, 0), (0, 0), (0, 0), (0, 1)])
    w = jnp.pad(w, [(0, 0), (0, 0), (0, 1), (0, 0)])
  return x, w, pads


def _divisor(n: int, limit: int) -> int:
  """Returns the largest divisor of n that does not exceed `limit`, and at least 1."""
  return max(d for d in range(1, n + 1) if n % d == 0 and d <= max(limit, 1))


def _patches(
  x: jax.Array,
  taps: tuple[int, ...],
  shape: tuple[int, ...],
  strides: Sequence[int],
  pads: Pads,
  upsampling: Sequence[int],
  dilations: Sequence[int],
) -> jax.Array:
  """Returns the patch of x for each output (im2col), [kh kw C, N H' W'], where (H', W') = shape."""
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


def _gathered_patches(
  x: jax.Array,
  taps: tuple[int, ...],
  shape: tuple[int, ...],
  strides: Sequence[int],
  dilations: Sequence[int],
) -> jax.Array:
  """Computes `_patches` of a padded x with one gather, whatever the number of taps.

  Each axis is split into cells of `stride` pixels. A tap reads the same pixel of successive cells.
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


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes a @ b with sums in at least float32."""
  return jnp.matmul(a, b, preferred_element_type=at_least_float32(a.dtype)).astype(a.dtype)


def _shift_add(
  y: jax.Array,
  w: jax.Array,
  *,
  strides: Sequence[int],
  dilations: Sequence[int],
  pads: Pads,
  sizes: Sizes,
) -> jax.Array:
  """Computes the input transpose for few channels, as sums of shifted images."""
  *others, taps, channels, filters = w.shape
  phases = _number_of_phases(taps, filters) if strides[-1] == dilations[-1] == 1 else 1
  if phases == 1:
    x = _sum_of_shifts(y, w, strides, dilations)
  else:
    # The polyphase form: adjacent pixels of y and of x are channels, and have fewer taps.
    groups = -(-(taps + phases - 1) // phases)
    edges, axis = [(0, 0)] * len(others), y.ndim - 2
    copies = [
      jnp.pad(w, [*edges, (t, groups * phases - taps - t), (0, 0), (0, 0)]) for t in range(phases)
    ]
    w = jnp.stack(copies, axis=-2)
    w = w.reshape(*others, groups, phases * channels, phases * filters)
    y = jnp.pad(y, [(0, 0)] * axis + [(0, -y.shape[axis] % phases), (0, 0)])
    y = y.reshape(*y.shape[:axis], y.shape[axis] // phases, phases * filters)
    x = _sum_of_shifts(y, w, strides, dilations)
    x = x.reshape(*x.shape[:axis], x.shape[axis] * phases, channels)
  edges = [
    (-low, size + low - span, 0)
    for size, span, (low, _) in zip(sizes[0], x.shape[1:-1], pads, strict=True)
  ]
  return lax.pad(x.astype(y.dtype), jnp.zeros((), y.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def _number_of_phases(taps: int, filters: int) -> int:
  """Returns how many adjacent pixels are fastest as channels, by an estimate of the time.

  The arguments are those of the last axis. Each value that a matrix product writes, and that is summed,
  takes about as long as 30 of its multiplications.
  """

  def time(phases: int) -> int:
    return -(-(taps + phases - 1) // phases) * (phases * filters + 30)

  best = min((1, 2, 4, 8), key=time)
  return best if time(best) < 0.8 * time(1) else 1


def _sum_of_shifts(
  y: jax.Array, w: jax.Array, strides: Sequence[int], dilations: Sequence[int]
) -> jax.Array:
  """Computes the input transpose without padding.

  One matrix product gives an image per tap, and the shifted images are summed. The images together are
  kh kw C / m times as large as y, so they are computed for a tile of some rows of y at a time.
  """
  (n, *spatial, m), (*kernel, channels, _) = y.shape, w.shape
  rank, (height, *others) = len(spatial), spatial
  dtype = at_least_float32(y.dtype)
  images = n if isinstance(n, int) else 1  # a symbolic number (`jax.export`) is not known here
  tiles = min(height, -(-math.prod(kernel) * channels * images * math.prod(spatial) // _TILE))
  rows = -(-height // tiles)
  filters = w.reshape(-1, m)

  def synthesis(tile: jax.Array) -> jax.Array:
    """Maps a tile [n, rows, ..., m] to its contribution to the unpadded signal."""
    products = (((1,), (1,)), ((), ()))
    images = lax.dot_general(filters, tile.reshape(-1, m), products, preferred_element_type=dtype)
    images = images.reshape(*kernel, channels, n, rows, *others)
    for axis in reversed(range(rank)):  # sums over the taps along this axis
      images = jnp.moveaxis(images, axis, 0)
      images = _shifted_sum(images, 2 * axis + 2, strides[axis], dilations[axis])
    return jnp.moveaxis(images, 0, -1)

  def add_tile(t: jax.Array, x: jax.Array) -> jax.Array:
    start = jnp.minimum(t * rows, height - rows)  # the last tile may overlap the one before it
    tile = lax.dynamic_slice_in_dim(y, start, rows, axis=1)
    new = jnp.expand_dims(start + jnp.arange(rows) >= t * rows, tuple(range(1, rank + 1)))
    part = synthesis(jnp.where(new, tile, 0))
    start = start * strides[0]
    old = lax.dynamic_slice_in_dim(x, start, part.shape[1], axis=1)
    return lax.dynamic_update_slice_in_dim(x, old + part, start, axis=1)

  spans = [
    (size - 1) * s + (k - 1) * d + 1
    for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True)
  ]
  if tiles == 1:
    return synthesis(y)
  return lax.fori_loop(0, tiles, add_tile, jnp.zeros_like(y, dtype, shape=(n, *spans, channels)))


def _shifted_sum(images: jax.Array, axis: int, stride: int, dilation: int) -> jax.Array:
  """Sums all images[i], upsampled by `stride` along `axis` and shifted by i * dilation."""
  taps, size = images.shape[0], (images.shape[axis + 1] - 1) * stride + 1
  length = size + (taps - 1) * dilation
  if taps > _UNROLLED:  # sum groups of this many images first, then the groups
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
