"""A dictionary times a factor, or times one factor for each atom."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from cscjax import checks, ops
from cscjax.dictionaries._abstract import AbstractDictionary, with_methods
from cscjax.dictionaries._embedding import CirculantEmbedding
from cscjax.dictionaries._lipschitz_constant import is_small
from cscjax.dictionaries._protocol import Code, Dictionary, check_part


class ScaledDictionary(AbstractDictionary):
  """The dictionary D diag(factor), whose atoms are those of D times a factor.

  Attributes:
    dictionary: The dictionary D, any dictionary.
    factor: A scalar, or an array that broadcasts against the code, such as one value per atom [m]. For a
      code of several parts also a pytree of these in the structure of the code.

  Raises:
    ValueError: On construction, if `dictionary` is an array. On use, if the shape of the factor does not
      fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> atoms = cscjax.MatrixDictionary(jnp.eye(2))
    >>> scaled = cscjax.ScaledDictionary(atoms, factor=jnp.array([1.0, 3.0]))
    >>> cscjax.to_matrix(scaled, (2,)).tolist()
    [[1.0, 0.0], [0.0, 3.0]]
  """

  dictionary: Dictionary
  factor: Any

  def __post_init__(self) -> None:
    check_part("dictionary", self.dictionary)

  @property
  def signal_ndim(self) -> int:
    """Number of trailing axes that form one signal."""
    return self.dictionary.signal_ndim

  def analysis(self, x: jax.Array) -> Code:
    """Computes factor D^T x.

    Args:
      x: Signal of D, with any number of leading batch axes.

    Returns:
      The code, of the shape of the codes of D.
    """
    return self._scaled(self.dictionary.analysis(x))

  def synthesis(self, code: Code, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Computes D (factor code).

    Args:
      code: Code of D, with any number of leading batch axes.
      signal_shape: Shape of the signal, if D needs it.

    Returns:
      The signal, with the batch axes of the code.
    """
    return self.dictionary.synthesis(self._scaled(code), signal_shape)

  def compute_lipschitz(
    self, shape: tuple[int, ...], tolerance: float | None, key: jax.Array | None
  ) -> jax.Array:
    if not self._is_scalar and (tolerance is not None or is_small(self, shape)):
      return super().compute_lipschitz(shape, tolerance, key)
    return self._largest**2 * with_methods(self.dictionary).compute_lipschitz(shape, tolerance, key)

  def compute_lipschitz_bound(self, shape: tuple[int, ...]) -> jax.Array:
    bound = with_methods(self.dictionary).compute_lipschitz_bound(shape)
    return jax.lax.stop_gradient(self._largest) ** 2 * bound * (1 + 4 * jnp.finfo(bound.dtype).eps)

  def compute_atom_norms(self, shape: tuple[int, ...]) -> Code:
    norms = with_methods(self.dictionary).compute_atom_norms(shape)
    return self.replace(factor=jax.tree.map(jnp.abs, self.factor))._scaled(norms)

  def compute_coherence(self, shape: tuple[int, ...] | None) -> jax.Array:
    if not self._is_scalar:
      return super().compute_coherence(shape)
    coherence = with_methods(self.dictionary).compute_coherence(shape)
    return jnp.where(self._largest > 0, coherence, 0)

  def circulant_embedding(
    self, signal_shape: Sequence[int], margins: Sequence[tuple[int, int]] | None = None
  ) -> CirculantEmbedding:
    if not self._is_scalar:
      checks.fail("factor", jax.tree.map(jnp.shape, self.factor), "a scalar; scale the atoms themselves")
    inner = with_methods(self.dictionary).circulant_embedding(signal_shape, margins)
    factor = jnp.asarray(self.factor, ops.common_float(self.factor))

    def ridge_inverse(ridge: jax.Array) -> Partial:
      square = jnp.square(factor).astype(ridge.dtype)
      ridge_of_inner = ridge / jnp.where(square > 0, square, 1)
      return Partial(_scaled, inner.ridge_inverse(ridge_of_inner), factor, ridge)

    def frame() -> jax.Array:
      blocks = inner.frame_blocks()
      return blocks * jnp.square(factor).astype(blocks.dtype)

    return inner._replace(
      dictionary=self.replace(dictionary=inner.dictionary),
      ridge_inverse=ridge_inverse,
      squared_norm=jnp.square(factor) * inner.squared_norm,
      frame=frame,
    )

  def stripe_sums(self, values: Code, signal_shape: Sequence[int]) -> jax.Array:
    return with_methods(self.dictionary).stripe_sums(values, signal_shape)

  def patch_sums(self, values: jax.Array) -> jax.Array:
    return with_methods(self.dictionary).patch_sums(values)

  @property
  def _is_scalar(self) -> bool:
    return [jnp.ndim(leaf) for leaf in jax.tree.leaves(self.factor)] == [0]

  @property
  def _largest(self) -> jax.Array:
    """The largest magnitude of the factors."""
    largest = [jnp.max(jnp.abs(jnp.asarray(leaf))) for leaf in jax.tree.leaves(self.factor)]
    return jnp.max(jnp.stack([leaf.astype(ops.common_float(*largest)) for leaf in largest]))

  def _scaled(self, code: Code) -> Code:
    """Multiplies a code by the factor, in their common floating-point type."""

    def times(factor: Any, part: jax.Array) -> jax.Array:
      if checks.broadcast_shape("factor", jnp.shape(factor), part.shape) != part.shape:
        checks.fail("factor", jnp.shape(factor), f"a shape that broadcasts to the code's, {part.shape}")
      dtype = ops.common_float(factor, part)
      return ops.expand_rank(jnp.asarray(factor, dtype), part.ndim) * part.astype(dtype)

    if jax.tree.structure(self.factor) == jax.tree.structure(code):
      return jax.tree.map(times, self.factor, code)
    factor = checks.list_as_array("factor", self.factor)
    return jax.tree.map(lambda part: times(factor, part), code)


def _scaled(
  inverse: Partial, factor: jax.Array, ridge: jax.Array, x: jax.Array
) -> tuple[jax.Array, Code]:
  """Applies the ridge inverse of a scaled dictionary, given that of D for ridge / factor^2.

  If the factor is 0, the inverse is 1 / ridge, and codes are 0.
  """
  signal, code = inverse(x)
  factor = factor.astype(x.dtype)
  is_zero = jnp.square(factor) == 0
  factor = jnp.where(is_zero, 1, factor)
  signal = jnp.where(is_zero, x / ridge.astype(x.dtype), signal / jnp.square(factor))
  return signal, jax.tree.map(lambda part: jnp.where(is_zero, 0, part / factor), code)
