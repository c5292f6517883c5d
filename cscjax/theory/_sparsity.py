"""Global and local sparsity of a code or a signal (Papyan, Sulam & Elad 2017)."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import (
  Code,
  Dictionary,
  check_dictionary,
  check_signal_shape,
  with_methods,
)
from cscjax.ops import common_float, power_of_two


def support_size(dictionary: Dictionary, code: Code) -> jax.Array:
  """Counts the nonzeros of a code, ||code||_0, over all of its parts.

  Args:
    dictionary: The dictionary of the code, which determines the batch axes.
    code: The codes, batch axes first: an array, or the pair (a, z) of an `IdentityAugmented`.

  Returns:
    The counts, int32 of shape [batch...].

  Raises:
    ValueError: If the shape of the code does not match the dictionary.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> D = cscjax.ConvDictionary(jnp.ones((3, 1, 2)))
    >>> code = jnp.zeros((20, 2)).at[jnp.array([2, 9, 10]), 0].set(1.0)
    >>> int(cscjax.theory.support_size(D, code))
    3
  """
  check_dictionary(dictionary)
  code = _as_code(code)
  shape = _signal_shape(dictionary, code, None)  # raises if the shapes do not match
  return nonzeros(code, _single_code(dictionary, shape))


def nonzeros(code: Code, single: Code) -> jax.Array:
  """Counts the nonzeros of each code; `single` is any code without batch axes."""
  counts = jax.tree.map(
    lambda part, one: jnp.sum(_nonzero(part), axis=tuple(range(part.ndim - one.ndim, part.ndim))),
    code,
    single,
  )
  return functools.reduce(jnp.add, jax.tree.leaves(counts))


def stripe_sparsity(
  dictionary: Dictionary, code: Code, signal_shape: Sequence[int] | None = None
) -> jax.Array:
  """Counts the nonzeros in the densest stripe of a code, ||code||^S_{0,inf}.

  The stripe of an atom holds the coefficients of all atoms that overlap it. An atom covers the sites
  from its first tap to its last, so a dilated dictionary has the stripes of its zero-filled filters.
  Stripes wrap around with circular padding and end at the border otherwise.

  For `IdentityAugmented`, the stripe of an atom of F holds the coefficients z of the atoms of F that
  overlap it and the coefficients a of the sites that it covers. Only these stripes are counted: the
  stripe of an atom of the identity is contained in that of every atom of F that covers its site. A
  dictionary of any other kind has one stripe, the whole code, unless it overrides
  `AbstractDictionary.stripe_sums`.

  Args:
    dictionary: Any dictionary.
    code: The codes, batch axes first.
    signal_shape: Shape of one signal without batch axes: (L, C) or (H, W, C). By default the shape of
      `dictionary.synthesis(code)`, which can differ from that of the signal at strides above 1.

  Returns:
    The counts, int32 of shape [batch...].

  Raises:
    ValueError: If `dictionary` is not a dictionary, or if the shapes do not match.

  References:
    Papyan, Sulam & Elad, Working locally thinking globally: theoretical guarantees for convolutional
    sparse coding, IEEE Transactions on Signal Processing 2017.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> D = cscjax.ConvDictionary(jnp.ones((3, 1, 2)))
    >>> code = jnp.zeros((20, 2)).at[jnp.array([2, 9, 10]), 0].set(1.0)
    >>> int(cscjax.stripe_sparsity(D, code))  # positions 9 and 10 share a stripe, 2 does not
    2
  """
  check_dictionary(dictionary)
  code = _as_code(code)
  shape = _signal_shape(dictionary, code, signal_shape)
  return jnp.max(with_methods(dictionary).stripe_sums(jax.tree.map(_nonzero, code), shape), axis=-1)


def patch_sparsity(dictionary: Dictionary, signal: ArrayLike) -> jax.Array:
  """Counts the nonzeros in the densest patch of a signal, ||signal||^P_{0,inf}.

  A patch holds the sites that one atom covers, from its first tap to its last. The signal of layer i + 1
  is the code of layer i, so pass the dictionary of layer i + 1 to measure a code of layer i. A
  dictionary that is no convolution has one patch, the whole signal, unless it overrides
  `AbstractDictionary.patch_sums`.

  Args:
    dictionary: Any dictionary.
    signal: The signals, batch axes first: [..., n], [..., L, C] or [..., H, W, C].

  Returns:
    The counts, int32 of shape [batch...].

  Raises:
    ValueError: If `dictionary` is not a dictionary, or if the shape of the signal does not match it.

  References:
    Papyan, Romano & Elad, Convolutional neural networks analyzed via convolutional sparse coding,
    JMLR 2017.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> D = cscjax.ConvDictionary(jnp.ones((3, 1, 2)))
    >>> signal = jnp.zeros((20, 1)).at[jnp.array([2, 9, 11])].set(1.0)
    >>> int(cscjax.theory.patch_sparsity(D, signal))
    2
  """
  return _patches(dictionary, _nonzero(checks.real_array("signal", signal)))


def patch_norm(dictionary: Dictionary, signal: ArrayLike) -> jax.Array:
  """Computes the largest Euclidean norm of a patch of a signal, ||signal||^P_{2,inf}.

  The stability bounds measure noise in this norm. A patch holds the sites that one atom covers, from its
  first tap to its last; a dictionary that is no convolution has one patch, the whole signal.

  Args:
    dictionary: Any dictionary.
    signal: The signals, batch axes first: [..., n], [..., L, C] or [..., H, W, C].

  Returns:
    The norms, of shape [batch...]. Signals are scaled before squaring, so very small and very large
    values neither underflow nor overflow.

  Raises:
    ValueError: If `dictionary` is not a dictionary, or if the shape of the signal does not match it.

  References:
    Papyan, Romano & Elad, Convolutional neural networks analyzed via convolutional sparse coding,
    JMLR 2017.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> D = cscjax.ConvDictionary(jnp.ones((3, 1, 2)))
    >>> signal = jnp.zeros((20, 1)).at[jnp.array([2, 9, 11]), 0].set(jnp.array([1.0, 3.0, 4.0]))
    >>> round(float(cscjax.theory.patch_norm(D, signal)), 3)
    5.0
  """
  check_dictionary(dictionary)
  signal = checks.real_array("signal", signal).astype(float)
  axes = tuple(range(signal.ndim - dictionary.signal_ndim, signal.ndim))
  power = power_of_two(signal, axes)
  norms = jnp.sqrt(_patches(dictionary, jnp.square(signal / power)))
  return norms * power.reshape(norms.shape)


def _patches(dictionary: Dictionary, values: jax.Array) -> jax.Array:
  """Sums values over each patch of a signal and returns the largest sum."""
  check_dictionary(dictionary)
  check_signal_shape(dictionary, values.shape[-dictionary.signal_ndim :])
  return jnp.max(with_methods(dictionary).patch_sums(values), axis=-1)


def _as_code(code: Any) -> Code:
  """Returns the code with real arrays as leaves; raises ValueError for other leaves."""
  return jax.tree.map(lambda part: checks.real_array("code", part), code, is_leaf=lambda c: c is None)


def _signal_shape(
  dictionary: Dictionary, code: Code, signal_shape: Sequence[int] | None
) -> tuple[int, ...]:
  """Returns the given or default shape of one signal and checks that the code matches it."""
  check_dictionary(dictionary)
  if signal_shape is None:
    signal = jax.eval_shape(dictionary.synthesis, code)
    return signal.shape[-dictionary.signal_ndim :]
  shape = check_signal_shape(dictionary, signal_shape)
  part, one = jax.tree.leaves(code)[0], jax.tree.leaves(_single_code(dictionary, shape))[0]
  batch = part.shape[: part.ndim - one.ndim]
  jax.eval_shape(lambda c: dictionary.synthesis(c, (*batch, *shape)), code)
  return shape


def _single_code(dictionary: Dictionary, shape: tuple[int, ...]) -> Any:
  """Returns the shapes of the parts of the code of one signal."""
  dtype = common_float(*jax.tree.leaves(dictionary))
  return jax.eval_shape(dictionary.analysis, jax.ShapeDtypeStruct(shape, dtype))


def _nonzero(array: jax.Array) -> jax.Array:
  return (array != 0).astype(jnp.int32)
