"""The layers of a network in its input domain: effective atoms, reconstructions and sparsity.

The layers are those that the method `pursuit_layers` of a network returns, starting with the first one.
All arrays have the batch axis first. The signal of a layer is the code of the previous layer with its
parts joined, or the max-pooling of that; their sizes tell which. (In MSD-CSC the code is a pair (a, z):
z forms the last channels of the signal, and a the others.) The parts of a network that are not
dictionaries are ignored: the scale of batch normalization, and what a block of Res-CSC adds to
its second layer.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries._protocol import Code, Dictionary, check_dictionary, join, split
from cscjax.ops import expand_rank, highest_precision, max_pool


class CodedLayer(NamedTuple):
  """One layer of a pursuit: a dictionary, a signal, and the code of this signal.

  Attributes:
    dictionary: The dictionary of the layer.
    signal: Input of the layer, with the batch axes first.
    code: Code of the signal, with the batch axes first.
  """

  dictionary: Dictionary
  signal: jax.Array
  code: Code

  @property
  def new_code(self) -> jax.Array:
    """The coefficients that the layer adds: z for a pair (a, z) of MSD-CSC, else the whole code."""
    return jax.tree.leaves(self.code)[-1]


class ScaledFit(NamedTuple):
  """The best scale of a reconstruction, and its error.

  Attributes:
    scale: The factor s that minimizes ||x - s reconstruction||, in float64; 0 for a reconstruction of
      zeros.
    error: The relative error ||x - s reconstruction|| / ||x|| in [0, 1]; 0 for a signal of zeros.
  """

  scale: np.ndarray
  error: np.ndarray


def nonzero_fraction(layers: Sequence[CodedLayer]) -> jax.Array:
  """Computes the fraction of nonzero coefficients in the code of each layer.

  Only the coefficients that a layer adds (`CodedLayer.new_code`) are counted.

  Args:
    layers: Layers of a network.

  Returns:
    An array of shape [layers] with values in [0, 1], averaged over the batch.

  Raises:
    ValueError: If there are no layers.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import CodedLayer, nonzero_fraction
    >>> layer = CodedLayer(cscjax.MatrixDictionary(jnp.eye(4)), jnp.ones((1, 4)), jnp.eye(4)[:1])
    >>> nonzero_fraction([layer]).tolist()
    [0.25]
  """
  if not layers:
    checks.fail("layers", layers, "a sequence of at least one CodedLayer")
  return jnp.stack([jnp.mean(layer.new_code != 0, dtype=float) for layer in layers])


@highest_precision
def effective_atoms(layers: Sequence[CodedLayer], channels: Sequence[int] | None = None) -> np.ndarray:
  """Computes the effective atoms D_1 D_2 ... D_k e_j of the last layer in the input domain.

  An effective atom is the signal that a single coefficient 1 of the last code represents. The
  coefficients are new ones (`CodedLayer.new_code`) in the middle of the signal, where borders cut the
  atoms least. The atoms at other positions are copies, shifted by multiples of the product of all
  strides and pooling factors. Max-pooling is nonlinear and has no adjoint, so the adjoint of
  mean-pooling is used in its place: it divides a value evenly among the positions of its window.

  Args:
    layers: The first k layers of a network. Only the shapes of their signals and codes are used.
    channels: Indices of the new channels of the last code; all if None.

  Returns:
    The atoms in float64, of shape [kh, kw, C, m] or [k, C, m] like the filters of a `ConvDictionary`,
    cropped to the smallest box that contains all of them. For dense dictionaries, of shape [n, m].

  Raises:
    ValueError: If `layers` is not a nonempty sequence of `CodedLayer` in which each signal is the code
      of the previous layer or its pooling, or if `channels` is empty or contains an invalid index.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import CodedLayer, effective_atoms
    >>> dictionary, signal = cscjax.ConvDictionary(jnp.ones((3, 1, 1))), jnp.ones((1, 9, 1))
    >>> layer = CodedLayer(dictionary, signal, dictionary.analysis(signal))
    >>> effective_atoms([layer, layer])[:, 0, 0].round(3).tolist()
    [1.0, 2.0, 3.0, 2.0, 1.0]
  """
  check_coded_layers(layers)
  dictionary, signal, code = layers[-1]
  batch_ndim = signal.ndim - dictionary.signal_ndim
  *spatial, count = layers[-1].new_code.shape[batch_ndim:]
  indices = _as_channels(channels, count)
  rows = jax.tree.map(lambda part: jnp.zeros((len(indices), *part.shape[batch_ndim:])), code)
  middle = (n // 2 for n in spatial)
  *kept, units = jax.tree.leaves(rows)
  units = units.at[(np.arange(len(indices)), *middle, np.asarray(indices))].set(1)
  rows = jax.tree.unflatten(jax.tree.structure(code), [*kept, units])
  scale = np.ones(len(indices))
  for i in reversed(range(len(layers))):
    dictionary, signal, code = layers[i]
    if i < len(layers) - 1:
      if _is_pooled(layers, i):
        rows = _unpool_mean(rows, layers[i].new_code.shape[-dictionary.signal_ndim : -1])
      rows = split(rows, code)
    rows, scale = _normalized(dictionary.synthesis(rows, signal.shape), scale)
  return np.moveaxis(_cropped(_rescaled(rows, scale)), 0, -1)


@highest_precision
def layer_reconstructions(layers: Sequence[CodedLayer]) -> np.ndarray:
  """Reconstructs the first signal from the code of each layer: D_1 D_2 ... D_k code_k for every k.

  Max-pooling is inverted with the switches of Zeiler & Fergus (2014): a value returns to the position of
  the maximum in the previous code, and the rest of its window becomes zero. For fixed positions the
  reconstruction is linear in code_k.

  Args:
    layers: All layers of a network, starting with the first one.

  Returns:
    The reconstructions in float64, of shape [layers, N, H, W, C] or [layers, N, L, C]. Their scale
    differs from that of the signal, because the batch normalization of the network is ignored;
    `scaled_fit` does not depend on it.

  Raises:
    ValueError: If `layers` is not a nonempty sequence of `CodedLayer` in which each signal is the code
      of the previous layer or its pooling.

  References:
    Zeiler, M. D., Fergus, R.: Visualizing and understanding convolutional networks. ECCV 2014.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import CodedLayer, layer_reconstructions
    >>> double, x = cscjax.ConvDictionary(jnp.full((1, 1, 1), 2.0)), jnp.arange(8.0).reshape(1, 8, 1)
    >>> layers = [CodedLayer(double, x, x / 2), CodedLayer(double, x / 2, x / 4)]
    >>> found = layer_reconstructions(layers)
    >>> found.shape, bool(jnp.allclose(jnp.asarray(found), x[None]))
    ((2, 1, 8, 1), True)
  """
  check_coded_layers(layers)
  rows, scale = None, np.ones(len(layers))
  for i in reversed(range(len(layers))):
    dictionary, signal, code = layers[i]
    if rows is None:
      rows = jax.tree.map(lambda part: jnp.zeros((len(layers), *part.shape)), code)
    else:
      rows = split(_unpool_max(rows, join(code)) if _is_pooled(layers, i) else rows, code)
    # The array has one row per layer from the start: rows of earlier layers are still zero. So its shape
    # does not depend on the layer, and fewer programs are compiled.
    rows = jax.tree.map(lambda row, part, i=i: row.at[i].set(part.astype(row.dtype)), rows, code)
    rows, scale = _normalized(dictionary.synthesis(rows, signal.shape), scale)
  return _rescaled(rows, scale)


def scaled_fit(x: ArrayLike, reconstruction: ArrayLike) -> ScaledFit:
  """Fits the scale of reconstructions to signals by least squares.

  Args:
    x: Signals of shape [N, H, W, C], [N, L, C] or [N, n].
    reconstruction: Reconstructions of shape [..., *x.shape], such as those of `layer_reconstructions`.

  Returns:
    A `ScaledFit` with a scale and a relative error for each reconstruction, both of shape [..., N].

  Raises:
    ValueError: If `x` has no batch axis, or if `reconstruction` does not end with the shape of `x`.

  Example:
    >>> import numpy as np
    >>> from cscjax.dictionaries import scaled_fit
    >>> fit = scaled_fit(np.array([[3.0, 4.0]]), np.array([[6.0, 0.0]]))
    >>> fit.scale.round(3).tolist(), fit.error.round(3).tolist()
    ([0.5], [0.8])
  """
  x, reconstruction = np.asarray(x, np.float64), np.asarray(reconstruction, np.float64)
  if x.ndim < 2 or reconstruction.shape[reconstruction.ndim - x.ndim :] != x.shape:
    checks.fail("reconstruction", reconstruction.shape, f"(..., signals of the shape {x.shape})")
  axes, size_of_signal = tuple(range(1 - x.ndim, 0)), math.prod(x.shape[1:])
  size = np.max(np.abs(reconstruction), axis=axes, keepdims=True, initial=0)
  size = np.where(size > 0, size, 1)  # after many layers, the squares of small values would underflow
  reconstruction = reconstruction / size
  energy = np.sum(reconstruction**2, axis=axes, keepdims=True)
  scale = np.sum(x * reconstruction, axis=axes, keepdims=True) / np.where(energy > 0, energy, 1)
  missing = np.linalg.norm(
    (x - scale * reconstruction).reshape(*reconstruction.shape[: 1 - x.ndim], size_of_signal), axis=-1
  )
  norm = np.linalg.norm(x.reshape(len(x), size_of_signal), axis=-1)
  return ScaledFit(np.squeeze(scale / size, axes), missing / np.where(norm > 0, norm, 1))


def _as_channels(channels: Sequence[int] | None, count: int) -> list[int]:
  """Returns the indices of channels as a list; raises ValueError if they are invalid."""
  if channels is None:
    return list(range(count))
  array = np.asarray(channels)
  if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
    checks.fail("channels", channels, "a sequence of at least one integer")
  if array.min() < 0 or array.max() >= count:
    checks.fail("channels", channels, f"integers in 0..{count - 1}")
  return array.tolist()


def check_coded_layers(layers: Any) -> None:
  """Checks that an argument is a sequence of layers that fit together.

  Args:
    layers: The argument.

  Raises:
    ValueError: If `layers` is not a nonempty sequence of `CodedLayer`, or if a signal is neither the
      code of the previous layer nor its pooling by 2.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import CodedLayer, check_coded_layers
    >>> dictionary, x = cscjax.ConvDictionary(jnp.ones((3, 1, 1))), jnp.ones((1, 8, 1))
    >>> check_coded_layers([CodedLayer(dictionary, x, x), CodedLayer(dictionary, x[:, :4], x[:, :4])])
    >>> check_coded_layers([CodedLayer(dictionary, x, x), CodedLayer(dictionary, x[:, :5], x[:, :5])])
    Traceback (most recent call last):
      ...
    ValueError: layers[1]: expected a signal of the shape (8, 1), or its pooling by 2, got (5, 1)
  """
  if not isinstance(layers, Sequence) or not layers:
    checks.fail("layers", layers, "a sequence of at least one CodedLayer")
  for i, layer in enumerate(layers):
    if not isinstance(layer, CodedLayer):
      checks.fail(f"layers[{i}]", type(layer).__name__, "a CodedLayer(dictionary, signal, code)")
    check_dictionary(layer.dictionary)
  for i in range(len(layers) - 1):
    _is_pooled(layers, i)


def _is_pooled(layers: Sequence[CodedLayer], i: int) -> bool:
  """Whether the code of layer i is pooled to give the next signal; ValueError if they do not fit."""
  ndim = layers[i].dictionary.signal_ndim
  code = jax.eval_shape(join, layers[i].code)
  below, above = code.shape[-ndim:], layers[i + 1].signal.shape[-ndim:]
  if above == below:
    return False
  if above != (*(-(-n // 2) for n in below[:-1]), below[-1]):
    checks.fail(f"layers[{i + 1}]", above, f"a signal of the shape {below}, or its pooling by 2")
  return True


def _unpool_mean(rows: jax.Array, spatial: Sequence[int]) -> jax.Array:
  """Applies the adjoint of mean-pooling with windows of size 2, or 1 at the border of an odd size."""
  for axis, size in enumerate(spatial, start=rows.ndim - 1 - len(spatial)):
    window = np.minimum(2, size - 2 * np.arange(rows.shape[axis]))
    sizes = window.reshape(-1, *[1] * (rows.ndim - axis - 1))
    rows = rows / expand_rank(sizes.astype(rows.dtype), rows.ndim)
    rows = jnp.repeat(rows, window, axis=axis, total_repeat_length=size)
  return rows


def _unpool_max(rows: jax.Array, code: jax.Array) -> jax.Array:
  """Moves each value to the maximum of the code in its window, as the VJP of max-pooling does."""
  _, vjp = jax.vjp(max_pool, code.astype(rows.dtype))
  return jax.vmap(lambda row: vjp(row)[0])(rows)


def _normalized(rows: jax.Array, scale: np.ndarray) -> tuple[jax.Array, np.ndarray]:
  """Scales rows to a largest magnitude of 1, and updates their scales.

  Without this, float32 overflows or underflows in networks of many layers.
  """
  largest = np.max(np.abs(np.asarray(rows)), axis=tuple(range(1, rows.ndim)))
  largest = np.where(largest > 0, largest, 1)
  return rows / np.expand_dims(largest, tuple(range(1, rows.ndim))), scale * largest


def _rescaled(rows: Any, scale: np.ndarray) -> np.ndarray:
  """Multiplies normalized rows by their scales, in float64."""
  return np.asarray(rows, np.float64) * np.expand_dims(scale, tuple(range(1, rows.ndim)))


def _cropped(rows: np.ndarray) -> np.ndarray:
  """Crops the spatial axes to the smallest box that contains all nonzero values, if there are any."""
  used = np.any(rows != 0, axis=(0, -1))
  if not used.ndim or not used.any():
    return rows
  return rows[(slice(None), *(slice(places.min(), places.max() + 1) for places in np.nonzero(used)))]
