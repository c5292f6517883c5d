"""A dictionary followed by a mask on its signals."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cscjax import checks, ops
from cscjax.dictionaries._abstract import AbstractDictionary, with_methods
from cscjax.dictionaries._embedding import CirculantEmbedding
from cscjax.dictionaries._lipschitz_constant import is_small
from cscjax.dictionaries._protocol import Code, Dictionary, check_part


class MaskedDictionary(AbstractDictionary):
  """The dictionary diag(mask) D of masked signals.

  The least-squares term ||x - diag(mask) D code||^2 ignores the entries of x where the mask is zero only
  if x is zero there. The argument `mask` of the solvers does this for any x, and works with `admm`; use
  this class where the dictionary itself is studied, such as its coherence or its norms.

  Attributes:
    dictionary: The dictionary D, any dictionary.
    mask: Real weights that broadcast against one signal. A list is converted.

  Raises:
    ValueError: On construction, if `dictionary` is an array. On use, if the shape of the mask does not
      fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> atoms = cscjax.MatrixDictionary(jnp.ones((3, 2)))
    >>> masked = cscjax.MaskedDictionary(atoms, mask=jnp.array([1.0, 0.0, 1.0]))
    >>> masked.synthesis(jnp.array([1.0, 2.0])).tolist()
    [3.0, 0.0, 3.0]
  """

  dictionary: Dictionary
  mask: Any

  def __post_init__(self) -> None:
    check_part("dictionary", self.dictionary)
    object.__setattr__(self, "mask", checks.list_as_array("mask", self.mask))

  @property
  def signal_ndim(self) -> int:
    """Number of trailing axes that form one signal."""
    return self.dictionary.signal_ndim

  def analysis(self, x: jax.Array) -> Code:
    """Computes D^T (mask x).

    Args:
      x: Signal of D, with any number of leading batch axes.

    Returns:
      The code, of the shape of the codes of D.
    """
    return self.dictionary.analysis(self._masked(x))

  def synthesis(self, code: Code, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Computes mask (D code).

    Args:
      code: Code of D, with any number of leading batch axes.
      signal_shape: Shape of the signal, if D needs it.

    Returns:
      The signal, with the batch axes of the code.
    """
    return self._masked(self.dictionary.synthesis(code, signal_shape))

  def compute_lipschitz(
    self, shape: tuple[int, ...], tolerance: float | None, key: jax.Array | None
  ) -> jax.Array:
    if tolerance is not None or is_small(self, shape):
      return super().compute_lipschitz(shape, tolerance, key)
    largest = jnp.max(jnp.abs(jnp.asarray(self.mask)))
    return largest**2 * with_methods(self.dictionary).compute_lipschitz(shape, tolerance, key)

  def circulant_embedding(
    self, signal_shape: Sequence[int], margins: Sequence[tuple[int, int]] | None = None
  ) -> CirculantEmbedding:
    checks.fail("dictionary", self.name, "the dictionary without its mask; pass the mask to the solver")

  def stripe_sums(self, values: Code, signal_shape: Sequence[int]) -> jax.Array:
    return with_methods(self.dictionary).stripe_sums(values, signal_shape)

  def patch_sums(self, values: jax.Array) -> jax.Array:
    return with_methods(self.dictionary).patch_sums(values)

  def _masked(self, x: jax.Array) -> jax.Array:
    signal = x.shape[x.ndim - self.signal_ndim :]
    if checks.broadcast_shape("mask", jnp.shape(self.mask), signal) != signal:
      checks.fail("mask", jnp.shape(self.mask), f"a shape that broadcasts to that of a signal, {signal}")
    dtype = ops.common_float(x, self.mask)
    return ops.expand_rank(jnp.asarray(self.mask, dtype), x.ndim) * x.astype(dtype)
