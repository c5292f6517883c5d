"""Embeddings of dictionaries in circular ones, whose ridge inverses `admm` needs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from cscjax import checks
from cscjax.dictionaries._protocol import Code, Dictionary
from cscjax.ops import at_least_float32, common_float, expand_rank

Margins = tuple[tuple[int, int], ...]
RidgeInverse = Callable[[jax.Array], Partial]

_SMALL_BLOCK = 16  # largest block [C, C] whose products with spectra are faster as sums than as products


def same(array: Any) -> Any:
  """Returns its argument."""
  return array


class CirculantEmbedding(NamedTuple):
  """The embedding of a dictionary D in a dictionary on larger signals that has a fast ridge inverse.

  It satisfies `D code = crop_signal(dictionary.synthesis(embed_code(code)))`. For a convolution the
  larger dictionary is circular, and the Fourier transform block-diagonalizes it. A circular or dense
  dictionary is its own embedding. The first four fields are enough for a dictionary of your own that is
  its own embedding, such as an orthonormal transform; see the example of `circulant_embedding`.

  Attributes:
    dictionary: The larger dictionary E.
    signal_shape: Shape of a signal of E, without batch axes.
    ridge_inverse: A function of a positive scalar `ridge`. It returns a function that maps signals x of
      shape [..., *signal_shape] to the pair of (ridge I + E E^T)^-1 x and E^T (ridge I + E E^T)^-1 x,
      in the type of x. The returned function is a `jax.tree_util.Partial`, a pytree which contains the
      inverse, so that it can be part of a solver's state.
    squared_norm: The mean of ||d||^2 over the atoms d, not cut by a border; a scalar. It scales the
      parameters of ADMM.
    embed_signal: Pads a signal with zeros to one of E.
    crop_signal: The adjoint of `embed_signal`, which crops a signal.
    embed_code: Pads a code with zeros to one of E.
    crop_code: The adjoint of `embed_code`, which crops a code.
    margins: Numbers of zeros (low, high) that `embed_signal` adds along each spatial axis.
    frame: A function that returns E E^T: the matrix, or its blocks [..., C, C] at the frequencies of
      `jax.numpy.fft.rfftn` over the spatial axes. `StackedDictionary` needs it; None otherwise.
  """

  dictionary: Dictionary
  signal_shape: tuple[int, ...]
  ridge_inverse: RidgeInverse
  squared_norm: jax.Array | float
  embed_signal: Callable[[jax.Array], jax.Array] = same
  crop_signal: Callable[[jax.Array], jax.Array] = same
  embed_code: Callable[[Code], Code] = same
  crop_code: Callable[[Code], Code] = same
  margins: Margins = ()
  frame: Callable[[], jax.Array] | None = None

  def frame_blocks(self) -> jax.Array:
    """Returns the result of `frame`.

    Returns:
      E E^T as an array.

    Raises:
      ValueError: If `frame` is None.
    """
    if self.frame is None:
      checks.fail("frame", None, "a function, which StackedDictionary needs")
    return self.frame()


def in_precision(dictionary: Any) -> Any:
  """Returns a dictionary whose floating-point leaves have one type of at least float32."""
  precise = at_least_float32(common_float(*jax.tree.leaves(dictionary)))
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, precise), dictionary)


def pair_of(dictionary: Any, blocks: jax.Array, ridge: jax.Array, *, on_codes: bool) -> Partial:
  """Returns the function of `CirculantEmbedding.ridge_inverse` for an inverse on signals or codes.

  The inverse on codes gives D^T (ridge I + D D^T)^-1 = (ridge I + D^T D)^-1 D^T. With many channels and
  few atoms, as for arrays of sensors, it takes far less memory than the inverse on signals.

  Args:
    dictionary: The dictionary, in at least float32.
    blocks: The inverse of ridge I + D^T D if `on_codes`, else of ridge I + D D^T: a matrix, or blocks at
      each frequency.
    ridge: A positive scalar.
    on_codes: Whether the inverse is one on codes.
  """
  return Partial(_solve_on_codes if on_codes else _solve_on_signals, dictionary, blocks, ridge)


def _solve_on_codes(
  dictionary: Any, blocks: jax.Array, ridge: jax.Array, x: jax.Array
) -> tuple[jax.Array, Code]:
  signal = x.astype(common_float(*jax.tree.leaves(dictionary)))
  code = _product(blocks, dictionary.analysis(signal))
  signal = (signal - dictionary.synthesis(code, signal.shape)) / ridge
  return signal.astype(x.dtype), code.astype(x.dtype)


def _solve_on_signals(
  dictionary: Any, blocks: jax.Array, ridge: jax.Array, x: jax.Array
) -> tuple[jax.Array, Code]:
  signal = _product(blocks, x.astype(common_float(*jax.tree.leaves(dictionary))))
  code = dictionary.analysis(signal)
  return signal.astype(x.dtype), jax.tree.map(lambda part: part.astype(x.dtype), code)


def _product(blocks: jax.Array, array: jax.Array) -> jax.Array:
  """Multiplies arrays [..., n] by a matrix, or the spectra of arrays [..., spatial, C] by blocks."""
  if blocks.ndim == 2:
    return array @ blocks
  axes = tuple(range(-blocks.ndim + 1, -1))
  sizes = [array.shape[axis] for axis in axes]
  spectrum = jnp.fft.rfftn(array, axes=axes)
  if blocks.shape[-1] <= _SMALL_BLOCK:
    product = jnp.sum(spectrum[..., None] * expand_rank(blocks, spectrum.ndim + 1), axis=-2)
  else:
    product = jnp.einsum("...c,...cd->...d", spectrum, blocks)
  return jnp.fft.irfftn(product, s=sizes, axes=axes)


def dense_embedding(dictionary: Any, shape: tuple[int, ...]) -> CirculantEmbedding:
  """Returns the embedding of a `MatrixDictionary`, which is its own."""
  atoms = dictionary.atoms

  def ridge_inverse(ridge: jax.Array) -> Partial:
    precise = in_precision(dictionary)
    on_codes = atoms.shape[1] < atoms.shape[0]
    gram = gram_matrix(precise.atoms.T if on_codes else precise.atoms)
    inverse = jnp.linalg.inv(gram + ridge * jnp.eye(len(gram), dtype=gram.dtype))
    return pair_of(precise, inverse, ridge, on_codes=on_codes)

  def frame() -> jax.Array:
    return gram_matrix(in_precision(dictionary).atoms)

  return CirculantEmbedding(dictionary, shape, ridge_inverse, mean_squared_norm(atoms), frame=frame)


def gram_matrix(matrix: jax.Array) -> jax.Array:
  """Computes A A^T. Without the barrier, XLA's compiler would compute it for a constant, in a minute."""
  matrix = lax.optimization_barrier(matrix)
  return matrix @ matrix.T


def mean_squared_norm(atoms: jax.Array) -> jax.Array:
  """Returns the mean ||d||^2 of atoms [..., m]."""
  return jnp.sum(jnp.square(atoms)) / atoms.shape[-1]
