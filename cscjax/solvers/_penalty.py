"""Penalties of the Lasso: an array for each part of a code, also relative to the largest useful one."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code
from cscjax.ops import PyTree
from cscjax.solvers._arguments import per_part


class RelativePenalty(PyTree):
  """A penalty relative to `beta_max`, made by `relative`.

  Attributes:
    fraction: The penalty as a fraction of `beta_max` of each signal.

  Example:
    >>> import cscjax
    >>> cscjax.relative(0.1)
    RelativePenalty(fraction=0.1)
  """

  fraction: Any


def relative(fraction: ArrayLike) -> RelativePenalty:
  """Returns a penalty that is a fraction of `beta_max`, the smallest penalty for which the code is zero.

  With `beta=relative(0.1)`, a solver uses the penalty `0.1 * beta_max(dictionary, x)`, with its own mask
  and constraint. In a batch, each signal has a penalty of its own, so that its code is the same as
  alone, and is multiplied by a number if the signal is.

  In `layered_thresholding` and `layered_bp`, the penalty of a layer is relative to `beta_max` for the
  code of the layer before. In `ml_bp`, `ml_ista` and `ml_fista`, it is relative to the largest magnitude
  in D_i^T ... D_1^T x; if any layer has a fraction of 1, zero codes solve the problem. In
  `learn_dictionary`, it is relative to `beta_max` for the atoms of each step.

  Derivatives of a code include those of `beta_max`.

  Args:
    fraction: The fraction, nonnegative; from 0 (no penalty) to 1 (the code is zero) in practice. A
      scalar, one value per channel [m], or an array that broadcasts against the code. For a code of
      several parts, one value for all parts, or one for each part.

  Returns:
    A `RelativePenalty`, to be passed in place of a penalty. It is a pytree, and so it can be an argument
    of a function under `jax.jit`.

  Raises:
    ValueError: If `fraction` is negative or not finite.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.ConvDictionary(jax.random.normal(jax.random.key(0), (5, 5, 1, 8)))
    >>> x = jax.random.normal(jax.random.key(1), (2, 16, 16, 1))  # two images
    >>> result = cscjax.fista(dictionary, x, beta=cscjax.relative(0.1))
    >>> penalty = 0.1 * cscjax.beta_max(dictionary, x)
    >>> bool(jnp.all(result.code == cscjax.fista(dictionary, x, penalty).code))
    True
  """
  checks.all_at_least("fraction", fraction, 0)
  return RelativePenalty(fraction)


def as_penalty(name: str, beta: Any, magnitude: Code, batch_ndim: int) -> Any:
  """Returns a penalty as an array for each part of a code, in the part's type.

  Args:
    name: The name of the argument, for errors.
    beta: The penalty: a `RelativePenalty`, one value for all parts, or values in the structure of the
      code.
    magnitude: What the penalty is compared with at the zero code, for each part of the code. Only its
      shapes are used if `beta` is not relative.
    batch_ndim: Number of batch axes of the code.
  """
  if not isinstance(beta, RelativePenalty):
    return per_part(name, beta, magnitude)
  largest = largest_of_signals(magnitude, batch_ndim)
  # If it is 0, the zero code is a solution for any penalty; a positive one keeps the duality gap finite.
  largest = per_coefficient(jnp.where(largest > 0, largest, 1), magnitude)
  return jax.tree.map(lambda f, m: f * m, per_part(name, beta.fraction, magnitude), largest)


def magnitudes(code: Code, nonnegative: bool) -> Code:
  """Returns |code|, or its positive part if the code to be found is nonnegative."""
  return jax.tree.map(jax.nn.relu if nonnegative else jnp.abs, code)


def largest_of_signals(values: Code, batch_ndim: int) -> jax.Array:
  """Returns the largest value of each signal, over all parts of a code: [batch...]."""
  parts = [jnp.max(v, axis=tuple(range(batch_ndim, v.ndim))) for v in jax.tree.leaves(values)]
  return jnp.stack(parts).max(axis=0)


def per_coefficient(values: jax.Array, code: Code) -> Any:
  """Returns values [batch...] as an array for each part of a code that broadcasts against it.

  A scalar stays a scalar.
  """
  return jax.tree.map(
    lambda c: jnp.expand_dims(values, tuple(range(values.ndim, c.ndim))) if values.ndim else values, code
  )


def broadcastable(values: jax.Array, code: Code) -> Any:
  """Returns values [batch...] as one array that broadcasts against all parts of a code.

  If the parts differ in their number of axes, it returns an array for each part.
  """
  parts = per_coefficient(values, code)
  leaves = jax.tree.leaves(parts)
  return leaves[0] if len({leaf.ndim for leaf in leaves}) == 1 else parts
