"""The product of two dictionaries."""

from collections.abc import Sequence

import jax

from cscjax import checks, ops
from cscjax.dictionaries._abstract import AbstractDictionary, with_methods
from cscjax.dictionaries._lipschitz_constant import is_small
from cscjax.dictionaries._protocol import Code, Dictionary, check_part


class ProductDictionary(AbstractDictionary):
  """The product D = D_1 D_2: the codes of D_1 are the signals of D_2.

  The columns of D are the effective atoms of two layers of a multi-layer model. With a fixed base
  dictionary D_1 and a sparse D_2, this is double sparsity (Rubinstein, Zibulevsky & Elad 2010).

  Attributes:
    first: The dictionary D_1 of the signals; its codes are single arrays.
    second: The dictionary D_2.

  Raises:
    ValueError: On construction, if one of them is an array. On use, if their shapes do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> first = cscjax.ConvDictionary(jnp.ones((3, 1, 4)))
    >>> second = cscjax.ConvDictionary(jnp.ones((5, 4, 8)))
    >>> product = cscjax.ProductDictionary(first, second)
    >>> product.analysis(jnp.ones((20, 1))).shape
    (20, 8)
  """

  first: Dictionary
  second: Dictionary

  def __post_init__(self) -> None:
    check_part("first", self.first)
    check_part("second", self.second)

  @property
  def signal_ndim(self) -> int:
    """Number of trailing axes that form one signal."""
    return self.first.signal_ndim

  def analysis(self, x: jax.Array) -> Code:
    """Computes D_2^T D_1^T x.

    Args:
      x: Signal of D_1, with any number of leading batch axes.

    Returns:
      The code of D_2.

    Raises:
      ValueError: If the codes of D_1 are not single arrays.
    """
    return self.second.analysis(_single(self.first.analysis(x)))

  def synthesis(self, code: Code, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Computes D_1 D_2 code.

    Args:
      code: Code of D_2, with any number of leading batch axes.
      signal_shape: Shape of the signal, if the code does not determine it.

    Returns:
      The signal, with the batch axes of the code.

    Raises:
      ValueError: If the codes of D_1 are not single arrays.
    """
    between = None if signal_shape is None else self._between(signal_shape)
    return self.first.synthesis(self.second.synthesis(code, between), signal_shape)

  def compute_lipschitz(
    self, shape: tuple[int, ...], tolerance: float | None, key: jax.Array | None
  ) -> jax.Array:
    if tolerance is not None or is_small(self, shape):
      return super().compute_lipschitz(shape, tolerance, key)
    first = with_methods(self.first).compute_lipschitz(shape, tolerance, key)
    return first * with_methods(self.second).compute_lipschitz(self._between(shape), tolerance, key)

  def _between(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of a code of D_1, with the batch axes of `signal_shape`."""
    signal = jax.ShapeDtypeStruct(tuple(signal_shape), ops.common_float(*jax.tree.leaves(self)))
    return _single(jax.eval_shape(self.first.analysis, signal)).shape


def _single(code: Code) -> jax.Array:
  """Returns the only part of a code."""
  if not jax.tree_util.treedef_is_leaf(jax.tree.structure(code)):
    checks.fail("first", type(code).__name__, "a dictionary whose codes are single arrays")
  return code
