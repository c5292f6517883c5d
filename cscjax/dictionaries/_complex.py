"""Complex dictionaries, for complex signals, as real ones."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cscjax import checks
from cscjax.dictionaries._abstract import AbstractDictionary, with_methods
from cscjax.dictionaries._atoms import Entries, code_shapes
from cscjax.dictionaries._protocol import Code, Dictionary, check_part


class ComplexDictionary(AbstractDictionary):
  """A complex dictionary D = A + i B, made of two real ones, for complex signals (MRI, radar).

  A complex signal is a real array with a new axis of size 2 before the axes of the signal, which holds
  the real and the imaginary part: [..., 2, H, W, C], by `jnp.stack([x.real, x.imag], axis=-4)`. A code
  has the same axis, [..., 2, H, W, m]. Pass it as `joint_axes` to a solver: -4 for images, -3 in one
  dimension, -2 for dense dictionaries. The penalty is then beta times the sum of the moduli |code|,
  which does not depend on phases, and `omp` picks complex coefficients. Without `joint_axes`, the real
  and the imaginary part of a coefficient count as two. `analysis` computes D^H x, with the conjugate
  transpose.

  Attributes:
    real: The dictionary A, such as a `ConvDictionary` of the real parts of complex filters.
    imag: The dictionary B, with codes of the same shape; None if D is real.

  Raises:
    ValueError: On construction, if one of them is an array. On use, if their codes differ in shape.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> atoms = jnp.array([[1.0, 1.0], [1.0j, -1.0j]]) / 2**0.5
    >>> parts = [cscjax.MatrixDictionary(part) for part in (atoms.real, atoms.imag)]
    >>> dictionary = cscjax.dictionaries.ComplexDictionary(*parts)
    >>> x = 3j * atoms[:, 0] + 0.1 * atoms[:, 1]
    >>> signal = jnp.stack([x.real, x.imag])
    >>> code = cscjax.fista(dictionary, signal, beta=1.0, joint_axes=-2, tolerance=1e-5).code
    >>> [[round(abs(value), 3) for value in part] for part in code.tolist()]
    [[0.0, 0.0], [2.0, 0.0]]
  """

  real: Dictionary
  imag: Dictionary | None = None

  def __post_init__(self) -> None:
    check_part("real", self.real)
    check_part("imag", self.imag)

  @property
  def signal_ndim(self) -> int:
    """Number of axes of a signal: one more than those of A."""
    return self.real.signal_ndim + 1

  def analysis(self, x: jax.Array) -> Code:
    """Computes D^H x.

    Args:
      x: Signal of shape [..., 2, *signal], real and imaginary part.

    Returns:
      The code, whose parts have the shape [..., 2, *code].

    Raises:
      ValueError: If the shape does not fit.
    """
    self._check(x)
    code = self.real.analysis(x)
    if self.imag is None:
      return code
    other, batch = self.imag.analysis(x), x.ndim - self.signal_ndim
    shapes, others = (jax.tree.map(jnp.shape, parts) for parts in (code, other))
    if others != shapes:
      checks.fail("imag", f"codes of shape {others}", f"codes of the shape of those of real, {shapes}")
    return jax.tree.map(lambda a, b: _combine(a, -b, batch), code, other)

  def synthesis(self, code: Code, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Computes D code.

    Args:
      code: Code whose parts have the shape [..., 2, *code], real and imaginary part.
      signal_shape: Shape of the signal, for dictionaries in which the code does not determine it.

    Returns:
      The signal of shape [..., 2, *signal].
    """
    signal = self.real.synthesis(code, signal_shape)
    if self.imag is None:
      return signal
    return _combine(signal, self.imag.synthesis(code, signal_shape), signal.ndim - self.signal_ndim)

  def compute_atom_norms(self, shape: tuple[int, ...]) -> Code:
    norms = with_methods(self.real).compute_atom_norms(shape[1:])
    if self.imag is not None:
      norms = jax.tree.map(jnp.hypot, norms, with_methods(self.imag).compute_atom_norms(shape[1:]))
    return jax.tree.map(lambda part: jnp.stack([part, part]), norms)

  def atom_entries(self, indices: np.ndarray, signal_shape: Sequence[int]) -> Entries:
    shape = tuple(signal_shape[1:])
    samples = math.prod(shape)
    sizes = [math.prod(part.shape) for part in jax.tree.leaves(code_shapes(self.real, shape))]
    starts = np.cumsum([0, *sizes])
    parts = np.searchsorted(2 * starts[1:], indices, side="right")
    places = indices - 2 * starts[parts]
    imaginary = places >= np.asarray(sizes)[parts]  # the coefficient, not the atom
    places = places - np.where(imaginary, np.asarray(sizes)[parts], 0) + starts[parts]
    # A real coefficient adds (A, B), an imaginary one i (A + i B) = (-B, A).
    values, rows, columns = with_methods(self.real).atom_entries(places, shape)
    entries = [(values, rows + samples * imaginary[columns], columns)]
    if self.imag is not None:
      values, rows, columns = with_methods(self.imag).atom_entries(places, shape)
      turned = imaginary[columns]
      entries.append((np.where(turned, -values, values), rows + samples * ~turned, columns))
    values, rows, columns = (np.concatenate(arrays) for arrays in zip(*entries, strict=True))
    return values, rows, columns

  def _check(self, x: jax.Array) -> None:
    """Raises ValueError if there is no axis for the real and the imaginary part."""
    if x.ndim < self.signal_ndim or x.shape[-self.signal_ndim] != 2:
      checks.fail("x", tuple(x.shape), f"real and imaginary part along axis {-self.signal_ndim}")


def _combine(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
  """Returns (A + i B) z from A z and B z, in which an axis holds the real and the imaginary part."""
  (a_real, a_imag), (b_real, b_imag) = (jnp.moveaxis(product, axis, 0) for product in (a, b))
  return jnp.stack([a_real - b_imag, a_imag + b_real], axis)
