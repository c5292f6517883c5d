"""The Lasso that the one-layer solvers solve, with all of its data in one floating type."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, as_signal
from cscjax.ops import (
  at_least_float32,
  expand_rank,
  highest_precision,
  nonnegative_soft_threshold,
  norm,
  soft_threshold,
)
from cscjax.solvers._arguments import list_as_code
from cscjax.solvers._penalty import RelativePenalty, as_penalty
from cscjax.solvers._pytree import PyTree
from cscjax.solvers._warnings import warn_about_signals


class Lasso(PyTree):
  """The Lasso: the problem min_code 1/2 sum mask (x - D code)^2 + sum beta |code|.

  The one-layer solvers take this object: `cscjax.fista(dictionary, x, beta)` is
  `cscjax.solvers.FISTA().run(cscjax.Lasso(dictionary, x, beta))`. Its methods are what an iteration
  needs. The object is immutable and a pytree, and so it can be an argument of a function under
  `jax.jit`, `jax.vmap` or `jax.grad`. Its attributes are the arguments as arrays of one floating-point
  type: `x` is zero where the mask is zero, and `beta` has an array for each part of the code.

  Args:
    dictionary: The dictionary D.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., n] for a dense dictionary).
    beta: Penalty, nonnegative: a scalar, one value per channel [m], or an array that broadcasts against
      the code. A code of several parts takes one value for all parts, or one for each part.
      `cscjax.relative(0.1)` is a tenth of `beta_max` for each signal.
    nonnegative: Whether the code is constrained to be nonnegative.
    mask: Weights of the squared errors, in 0..1, that broadcast against `x`, or against `x` without its
      last axis, such as [H, W] for all channels of an image; 1 if None. Where the weight is zero, the
      value of `x` is ignored, even if it is NaN.

  Attributes:
    unit: A power of two near the largest magnitude of each signal, [batch...]. Squares are computed in
      this unit, because those of a signal of 1e-30 or 1e30 are outside the range of float32.

  Raises:
    ValueError: If shapes do not fit, or an argument is out of range.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.eye(2))
    >>> problem = cscjax.Lasso(dictionary, jnp.array([1.0, 0.1]), beta=0.25)
    >>> code = problem.zero_code()
    >>> gradient = problem.gradient(problem.dictionary.synthesis(code))
    >>> code = problem.prox(code - gradient, step=1)  # this step solves the problem, because D = I
    >>> code.tolist(), float(problem.objective(code))
    ([0.75, 0.0], 0.22...)
  """

  unit: jax.Array
  dictionary: Dictionary
  x: jax.Array
  beta: Any
  nonnegative: bool = struct.field(pytree_node=False)
  mask: jax.Array | None

  def __init__(
    self,
    dictionary: Dictionary,
    x: ArrayLike,
    beta: Any,
    *,
    nonnegative: bool = False,
    mask: ArrayLike | None = None,
  ):
    given, x = x, as_signal(dictionary, x)
    checks.all_at_least("beta", beta, 0)
    checks.boolean("nonnegative", nonnegative)
    warn_about_signals(given, beta, dictionary.signal_ndim)
    if mask is not None:
      mask = _as_mask(mask, x, has_channels=dictionary.signal_ndim > 1)
      x = jnp.where(mask > 0, x, 0)  # a missing pixel may be NaN
    batch_ndim = x.ndim - dictionary.signal_ndim
    code = jax.eval_shape(dictionary.analysis, x)
    if isinstance(beta, RelativePenalty):
      code = dictionary.analysis(x if mask is None else mask * x)
    beta = as_penalty("beta", beta, code, batch_ndim, nonnegative)
    fields = (unit_of(x, batch_ndim), dictionary, x, beta, nonnegative, mask)
    for field, value in zip(dataclasses.fields(self), fields, strict=True):
      object.__setattr__(self, field.name, value)

  @property
  def batch_ndim(self) -> int:
    """Number of leading axes of `x` that are batch axes."""
    return self.x.ndim - self.dictionary.signal_ndim

  def zero_code(self) -> Code:
    """Returns the zero code.

    Returns:
      A code of the shape of `dictionary.analysis(x)`.
    """
    return jax.tree.map(jnp.zeros_like, self.dictionary.analysis(self.x))

  def as_code(self, init: Code, name: str = "init") -> Code:
    """Converts a code to the type of the problem.

    Args:
      init: The code.
      name: The name of the argument, for errors.

    Returns:
      The code as arrays.

    Raises:
      ValueError: If the shape of the code does not fit.
    """
    code = jax.eval_shape(self.dictionary.analysis, self.x)
    init = list_as_code(name, init, code)
    got, expected = jax.tree.structure(init), jax.tree.structure(code)
    if got != expected:
      checks.fail(name, got, f"a code of structure {expected}")
    for part, zeros in zip(jax.tree.leaves(init), jax.tree.leaves(code), strict=True):
      shape = checks.real_array(name, part).shape
      if shape != zeros.shape:
        checks.fail(name, shape, f"a code of shape {zeros.shape}")
    return jax.tree.map(lambda part, zeros: jnp.asarray(part, zeros.dtype), init, code)

  def gradient(self, reconstruction: jax.Array) -> Code:
    """Returns the gradient of the data term, D^T mask (D code - x).

    Args:
      reconstruction: D code, of the shape of `x`.

    Returns:
      The gradient, of the shape of the code.
    """
    return self.dictionary.analysis(self.residual(reconstruction))

  def residual(self, reconstruction: jax.Array) -> jax.Array:
    """Returns mask (D code - x), the gradient of the data term with respect to D code.

    Args:
      reconstruction: D code, of the shape of `x`.

    Returns:
      An array of the shape of `x`.
    """
    return self.weigh(reconstruction - self.x)

  def weigh(self, signal: jax.Array) -> jax.Array:
    """Returns the mask times a signal.

    Args:
      signal: An array of the shape of `x`.

    Returns:
      An array of the shape of `x`.
    """
    return signal if self.mask is None else self.mask * signal

  def prox(self, point: Code, step: ArrayLike) -> Code:
    """Returns the proximal operator of the penalty: argmin_g 1/2 ||g - point||^2 + step sum beta |g|.

    Args:
      point: The code from which the minimizer must not be far.
      step: A positive scalar, or one value per signal, [batch...].

    Returns:
      The minimizer g, nonnegative if the problem is.
    """
    shrink = nonnegative_soft_threshold if self.nonnegative else soft_threshold
    return jax.tree.map(lambda p, b: shrink(p, b * per_signal(step, p)), point, self.beta)

  def correlation(self) -> Code:
    """Returns D^T mask x, the negative gradient of the data term at the zero code.

    Returns:
      An array, or a pytree of arrays, of the shape of the code.
    """
    return self.dictionary.analysis(self.weigh(self.x))

  def is_solved_by_zero(self) -> jax.Array:
    """Returns whether the zero code is a solution.

    Returns:
      One boolean per signal, [batch...].
    """
    fits = jax.tree.map(
      lambda c, b: jnp.all(self.magnitude(c) <= b, axis=tuple(range(self.batch_ndim, c.ndim))),
      *(self.correlation(), self.beta),
    )
    return functools.reduce(jnp.logical_and, jax.tree.leaves(fits))

  def magnitude(self, correlation: jax.Array) -> jax.Array:
    """Returns what `beta` is compared with: |correlation|, or its positive part if `nonnegative`.

    Args:
      correlation: A part of D^T mask (x - D code).

    Returns:
      An array of the same shape.
    """
    return jnp.maximum(correlation, 0) if self.nonnegative else jnp.abs(correlation)

  @highest_precision
  def objective(self, code: Code) -> jax.Array:
    """Returns the objective of a code, 1/2 sum mask (x - D code)^2 + sum beta |code|.

    Args:
      code: The code, nonnegative if the problem is.

    Returns:
      One value per signal, [batch...], in the type of `x`.
    """
    reconstruction = self.dictionary.synthesis(code, self.x.shape)
    return self.in_squared_scale(self.scaled_objective(code, reconstruction)).astype(self.x.dtype)

  def scaled_objective(self, code: Code, reconstruction: jax.Array) -> jax.Array:
    """Returns the objective of a code in unit^2.

    Args:
      code: The code.
      reconstruction: D code.

    Returns:
      One value per signal, [batch...], in float32 or wider.
    """

    def penalty(code: jax.Array, beta: jax.Array) -> jax.Array:
      return sum_signals(beta * jnp.abs(self.in_units(code)), self.batch_ndim)

    penalties = jax.tree.leaves(jax.tree.map(penalty, code, self.beta))
    return 0.5 * self.energy(self.x - reconstruction) + sum(penalties) / self.unit.astype(
      penalties[0].dtype
    )

  def energy(self, signal: jax.Array) -> jax.Array:
    """Returns sum mask signal^2 in unit^2.

    Args:
      signal: An array of the shape of `x`.

    Returns:
      One value per signal, [batch...], in float32 or wider.
    """
    return sum_signals(self.weigh(jnp.square(self.in_units(signal))), self.batch_ndim)

  def norm(self, code: Code) -> jax.Array:
    """Returns the Euclidean norm in units.

    Args:
      code: A code, or an array of the shape of `x`.

    Returns:
      One value per signal, [batch...], in float32 or wider.
    """
    # The unit does not bring these squares into range: D^T x and the code also depend on the scale of D.
    norms = [
      norm(leaf.astype(at_least_float32(leaf.dtype)), tuple(range(self.batch_ndim, leaf.ndim)))
      for leaf in jax.tree.leaves(code)
    ]
    total = norms[0] if len(norms) == 1 else norm(jnp.stack(norms), axis=0)
    return total / self.unit.astype(total.dtype)

  def inner(self, a: Code, b: Code) -> jax.Array:
    """Returns inner products in unit^2.

    Args:
      a: A code, or an array of the shape of `x`.
      b: Another one.

    Returns:
      One value per signal, [batch...], in float32 or wider.
    """
    products = jax.tree.map(
      lambda u, v: sum_signals(self.in_units(u) * self.in_units(v), self.batch_ndim), a, b
    )
    return functools.reduce(jnp.add, jax.tree.leaves(products))

  def in_units(self, array: jax.Array) -> jax.Array:
    """Divides an array by the unit of each signal.

    Args:
      array: A part of a code, or an array of the shape of `x`.

    Returns:
      An array of the same shape.
    """
    return array * per_signal(1 / self.unit, array)

  def in_squared_scale(self, value: jax.Array) -> jax.Array:
    """Converts values in unit^2 to the scale of the signals.

    Args:
      value: One value per signal, [batch...].

    Returns:
      An array of the same shape.
    """
    unit = self.unit.astype(value.dtype)
    return value * unit * unit


def sum_signals(array: jax.Array, batch_ndim: int) -> jax.Array:
  """Returns the sum over all axes but the first `batch_ndim`, in float32 or wider."""
  precise = at_least_float32(array.dtype)
  return jnp.sum(array, axis=tuple(range(batch_ndim, array.ndim)), dtype=precise)


def per_signal(value: ArrayLike, array: jax.Array) -> jax.Array:
  """Returns a scalar, or one value per signal [batch...], in the type and rank of `array`."""
  value = jnp.asarray(value, array.dtype)
  return value.reshape(value.shape + (1,) * (array.ndim - value.ndim) * bool(value.ndim))


def _as_mask(mask: ArrayLike, x: jax.Array, has_channels: bool) -> jax.Array:
  """Checks a mask and gives it the rank of `x`.

  If the last axis of `x` contains channels, a mask without this axis is the same for all channels.
  """
  mask = checks.real_array("mask", mask)
  if not checks.is_traced(mask):
    values = np.asarray(mask, np.float64)
    if not np.all((values >= 0) & (values <= 1)):
      checks.fail("mask", f"values from {values.min():g} to {values.max():g}", "weights in 0..1")
  mask = jnp.asarray(mask, x.dtype)
  if _broadcasts_to(mask.shape, x.shape):
    return expand_rank(mask, x.ndim)
  if has_channels and _broadcasts_to((*mask.shape, 1), x.shape):
    return expand_rank(mask[..., None], x.ndim)
  checks.fail("mask", mask.shape, f"a shape that broadcasts to the signal's shape {x.shape}")


def _broadcasts_to(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
  try:
    return jnp.broadcast_shapes(shape, wanted) == wanted
  except ValueError:
    return False


def unit_of(x: jax.Array, batch_ndim: int) -> jax.Array:
  """Returns a power of two near the largest magnitude of each signal: [batch...].

  It is 1 if that magnitude is zero or not finite.
  """
  largest = jnp.max(jnp.abs(lax.stop_gradient(x)), axis=tuple(range(batch_ndim, x.ndim)), initial=0)
  _, exponent = jnp.frexp(largest.astype(at_least_float32(x.dtype)))
  bound = -int(jnp.finfo(x.dtype).minexp)  # 1 / unit must be in range, too
  unit = jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, -bound, bound))
  return jnp.where((largest > 0) & (largest < jnp.inf), unit, 1)
