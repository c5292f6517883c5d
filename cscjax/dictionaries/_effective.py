"""The layers of a network seen in its input: effective atoms, reconstructions, how sparse codes are.

The layers are those that `pursuit_layers` of a network returns, from the first on, batch axis first. A
layer's signal is the code below, its parts joined (in MSD-CSC its last channels are the z of the code
below, the others its a), or the max-pooling of that, as its size shows. What a network has beside its
dictionaries is left out: batch norm's scale, and what a block of Res-CSC adds.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries._base import Code, Dictionary, check_dictionary, join, split
from cscjax.ops import expand_rank, highest_precision, max_pool


class CodedLayer(NamedTuple):
  """A layer of a pursuit: a dictionary, its signal, and the code of that.

  Attributes:
    dictionary: The dictionary.
    signal: Its input, batch axes first.
    code: The code of the signal, batch axes first.
  """

  dictionary: Dictionary
  signal: jax.Array
  code: Code

  @property
  def new_code(self) -> jax.Array:
    """The coefficients that the layer adds: z of the pair (a, z) of MSD-CSC, else the whole code."""
    return jax.tree.leaves(self.code)[-1]


class ScaledFit(NamedTuple):
  """How well a multiple of something is a signal.

  Attributes:
    scale: The best factor s, float64.
    error: ||x - s reconstruction|| / ||x||, in 0..1; 0 for a signal of zeros.
  """

  scale: np.ndarray
  error: np.ndarray


def nonzero_fraction(layers: Sequence[CodedLayer]) -> jax.Array:
  """Fraction of each layer's new coefficients that are not 0, over the batch: [layers], in 0..1."""
  return jnp.stack([jnp.mean(layer.new_code != 0, dtype=float) for layer in layers])


@highest_precision
def effective_atoms(layers: Sequence[CodedLayer], channels: Sequence[int] | None = None) -> np.ndarray:
  """What unit coefficients of the last layer's code are in the first signal: D_1 D_2 ... D_k e_j.

  They are new coefficients (`CodedLayer.new_code`) in the middle of the signal, where borders cut them
  least; those at other positions are its copies, shifted by multiples of all strides and poolings
  between. Max-pooling has no adjoint: in its place stands that of the mean, by which a value goes to all
  positions of its window, divided by their number.

  Args:
    layers: The first k layers of a network; of signals and codes shapes alone are used.
    channels: Which new coefficients of the last code; all if None.

  Returns:
    [kh, kw, C, m] or [k, C, m], float64, like the filters of a ConvDictionary: the smallest box that
    holds all of them. [n, m] of dense dictionaries.

  Raises:
    ValueError: If a channel is not there, or a signal is not the code below or its pooling.
  """
  check_coded_layers(layers)
  dictionary, _, code = layers[-1]
  *spatial, count = layers[-1].new_code.shape[-dictionary.signal_ndim :]
  indices = _as_channels(channels, count)
  rows = jax.tree.map(
    lambda part: jnp.zeros((len(indices), *part.shape[-dictionary.signal_ndim :])), code
  )
  middle = (n // 2 for n in spatial)
  *kept, units = jax.tree.leaves(rows)
  units = units.at[(np.arange(len(indices)), *middle, np.asarray(indices))].set(1)
  rows = jax.tree.unflatten(jax.tree.structure(code), [*kept, units])
  scale = np.ones(len(indices))
  for i in reversed(range(len(layers))):
    dictionary, signal, code = layers[i]
    if i < len(layers) - 1:
      if _is_pooled(layers, i):
        rows = _spread(rows, layers[i].new_code.shape[-dictionary.signal_ndim : -1])
      rows = split(rows, code)
    rows, scale = _balanced(dictionary.synthesis(rows, signal.shape), scale)
  return np.moveaxis(_cropped(_unbalanced(rows, scale)), 0, -1)


@highest_precision
def layer_reconstructions(layers: Sequence[CodedLayer]) -> np.ndarray:
  """What each layer's code says of the first signal: D_1 D_2 ... D_k code_k.

  A value that max-pooling took goes back to where it was largest in the code below, and zeros to the
  rest of its window (the switches of Zeiler & Fergus 2014). With these positions kept it is linear in
  code_k.

  Args:
    layers: Of a network.

  Returns:
    [layers, N, H, W, C] or [layers, N, L, C], float64. Each has the scale that the dictionaries give it,
    of which `scaled_fit` is independent: the network's batch norm is in none of them.

  Raises:
    ValueError: If a signal is not the code below or its pooling.
  """
  check_coded_layers(layers)
  rows, scale = None, np.ones(len(layers))
  for i in reversed(range(len(layers))):
    dictionary, signal, code = layers[i]
    if rows is None:
      rows = jax.tree.map(lambda part: jnp.zeros((len(layers), *part.shape)), code)
    else:
      rows = split(_to_maxima(rows, join(code)) if _is_pooled(layers, i) else rows, code)
    # Rows of the layers below stay 0 until it is their turn: one shape for all, so few programs.
    rows = jax.tree.map(lambda row, part, i=i: row.at[i].set(part.astype(row.dtype)), rows, code)
    rows, scale = _balanced(dictionary.synthesis(rows, signal.shape), scale)
  return _unbalanced(rows, scale)


def scaled_fit(x: ArrayLike, reconstruction: ArrayLike) -> ScaledFit:
  """The factor by which `reconstruction` comes closest to x, and how close that is.

  Args:
    x: Signals [N, H, W, C] or [N, L, C].
    reconstruction: [..., N, H, W, C] or [..., N, L, C], as `layer_reconstructions` returns.

  Returns:
    A factor and an error for each, [..., N].

  Raises:
    ValueError: If the shapes do not fit.
  """
  x, reconstruction = np.asarray(x, np.float64), np.asarray(reconstruction, np.float64)
  if x.ndim < 2 or reconstruction.shape[reconstruction.ndim - x.ndim :] != x.shape:
    checks.fail("reconstruction", reconstruction.shape, f"(..., signals of the shape {x.shape})")
  axes = tuple(range(1 - x.ndim, 0))
  size = np.max(np.abs(reconstruction), axis=axes, keepdims=True)
  size = np.where(size > 0, size, 1)  # squares of what many layers made small would be 0
  reconstruction = reconstruction / size
  energy = np.sum(reconstruction**2, axis=axes, keepdims=True)
  scale = np.sum(x * reconstruction, axis=axes, keepdims=True) / np.where(energy > 0, energy, 1)
  missing = np.linalg.norm(
    (x - scale * reconstruction).reshape(*reconstruction.shape[: 1 - x.ndim], -1), axis=-1
  )
  norm = np.linalg.norm(x.reshape(len(x), -1), axis=-1)
  return ScaledFit(np.squeeze(scale / size, axes), missing / np.where(norm > 0, norm, 1))


def _as_channels(channels: Sequence[int] | None, count: int) -> list[int]:
  if channels is None:
    return list(range(count))
  array = np.asarray(channels)
  if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
    checks.fail("channels", channels, "a sequence of at least one integer")
  if array.min() < 0 or array.max() >= count:
    checks.fail("channels", channels, f"integers in 0..{count - 1}")
  return array.tolist()


def check_coded_layers(layers: Any) -> None:
  """Raises ValueError unless they are `CodedLayer`s, each code (or its pooling) the next signal."""
  if not isinstance(layers, Sequence) or not layers:
    checks.fail("layers", layers, "a sequence of at least one CodedLayer")
  for i, layer in enumerate(layers):
    if not isinstance(layer, CodedLayer):
      checks.fail(f"layers[{i}]", type(layer).__name__, "a CodedLayer(dictionary, signal, code)")
    check_dictionary(layer.dictionary)
  for i in range(len(layers) - 1):
    _is_pooled(layers, i)


def _is_pooled(layers, i):
  """Whether the code of layer i is pooled before it is the next signal."""
  ndim = layers[i].dictionary.signal_ndim
  code = jax.eval_shape(join, layers[i].code)
  below, above = code.shape[-ndim:], layers[i + 1].signal.shape[-ndim:]
  if above == below:
    return False
  if above != (*(-(-n // 2) for n in below[:-1]), below[-1]):
    checks.fail(f"layers[{i + 1}]", above, f"a signal of the shape {below}, or its pooling by 2")
  return True


def _spread(rows, spatial):
  """The adjoint of a mean over windows of 2 along each axis, of 1 at the border of an odd size."""
  for axis, size in enumerate(spatial, start=rows.ndim - 1 - len(spatial)):
    window = np.minimum(2, size - 2 * np.arange(rows.shape[axis]))
    sizes = window.reshape(-1, *[1] * (rows.ndim - axis - 1))
    rows = rows / expand_rank(sizes.astype(rows.dtype), rows.ndim)
    rows = jnp.repeat(rows, window, axis=axis, total_repeat_length=size)
  return rows


def _to_maxima(rows, code):
  """Each value to where the code is largest in its window: there goes the gradient of the pooling."""
  _, pullback = jax.vjp(max_pool, code.astype(rows.dtype))
  return jax.vmap(lambda row: pullback(row)[0])(rows)


def _balanced(rows, scale):
  """Rows with the largest magnitude 1, and their scales: over 200 layers float32 would not hold them."""
  largest = np.max(np.abs(np.asarray(rows)), axis=tuple(range(1, rows.ndim)))
  largest = np.where(largest > 0, largest, 1)
  return rows / np.expand_dims(largest, tuple(range(1, rows.ndim))), scale * largest


def _unbalanced(rows, scale):
  return np.asarray(rows, np.float64) * np.expand_dims(scale, tuple(range(1, rows.ndim)))


def _cropped(rows):
  """The smallest box of the spatial axes outside which all rows are 0; all of it where they are 0."""
  used = np.any(rows != 0, axis=(0, -1))
  if not used.ndim or not used.any():
    return rows
  return rows[(slice(None), *(slice(places.min(), places.max() + 1) for places in np.nonzero(used)))]
