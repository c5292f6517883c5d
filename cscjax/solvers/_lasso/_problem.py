"""The Lasso that the one-layer solvers solve, with all of its data in one floating type."""

import functools
from typing import Any, Self

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
  nonnegative_soft_threshold,
  norm,
  soft_threshold,
)
from cscjax.solvers._arguments import list_as_code
from cscjax.solvers._penalty import RelativePenalty, as_penalty
from cscjax.solvers._warnings import warn_about_signals


class Lasso(struct.PyTreeNode):
  """The problem min 1/2 sum mask (x - D code)^2 + sum beta |code|, with code >= 0 if `nonnegative`.

  Attributes:
    dictionary: The dictionary D.
    x: Signals, batch axes first; zero where the mask is zero.
    beta: Penalty: for each part of the code an array that broadcasts against it.
    mask: Weights in 0..1 that broadcast against `x`; None if all are 1.
    unit: A power of two near the largest magnitude of each signal, [batch...]. Squares are computed in
      this unit, because those of a signal of 1e-30 or 1e30 are outside the range of float32.
    nonnegative: Whether the code is constrained to be nonnegative.
  """

  dictionary: Dictionary
  x: jax.Array
  beta: Any
  mask: jax.Array | None
  unit: jax.Array
  nonnegative: bool = struct.field(pytree_node=False)

  @classmethod
  def make(
    cls, dictionary: Dictionary, x: ArrayLike, beta: Any, mask: ArrayLike | None, nonnegative: bool
  ) -> Self:
    """Checks the arguments of a solver, and raises ValueError if they do not fit."""
    given, x = x, as_signal(dictionary, x)
    checks.all_at_least("beta", beta, 0)
    checks.boolean("nonnegative", nonnegative)
    warn_about_signals(given, beta, dictionary.signal_ndim)
    if mask is not None:
      mask = as_mask(mask, x, has_channels=dictionary.signal_ndim > 1)
      x = jnp.where(mask > 0, x, 0)  # a missing pixel may be NaN
    batch_ndim = x.ndim - dictionary.signal_ndim
    problem = cls(dictionary, x, None, mask, unit_of(x, batch_ndim), nonnegative)
    is_relative = isinstance(beta, RelativePenalty)
    code = problem.correlation() if is_relative else jax.eval_shape(dictionary.analysis, x)
    return problem.replace(beta=as_penalty("beta", beta, code, batch_ndim, nonnegative))

  @property
  def batch_ndim(self) -> int:
    """Number of leading axes of `x` that are batch axes."""
    return self.x.ndim - self.dictionary.signal_ndim

  def zero_code(self) -> Code:
    """Returns the zero code."""
    return jax.tree.map(jnp.zeros_like, self.dictionary.analysis(self.x))

  def as_code(self, init: Code, name: str = "init") -> Code:
    """Converts a code to the type of the problem; raises ValueError about `name` if it does not fit."""
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

  def residual(self, reconstruction: jax.Array) -> jax.Array:
    """Returns mask (D code - x), the gradient of the data term with respect to D code."""
    return self.weigh(reconstruction - self.x)

  def weigh(self, signal: jax.Array) -> jax.Array:
    """Returns the mask times a signal."""
    return signal if self.mask is None else self.mask * signal

  def prox(self, point: Code, step: jax.Array) -> Code:
    """Returns argmin_g 1/2 ||g - point||^2 + step sum beta |g|; `step` is a scalar or one per signal."""
    shrink = nonnegative_soft_threshold if self.nonnegative else soft_threshold
    return jax.tree.map(lambda p, b: shrink(p, b * per_signal(step, p)), point, self.beta)

  def correlation(self) -> Code:
    """Returns D^T mask x, the negative gradient of the data term at the zero code."""
    return self.dictionary.analysis(self.weigh(self.x))

  def is_solved_by_zero(self) -> jax.Array:
    """Returns whether the zero code is a solution, for each signal: [batch...]."""
    fits = jax.tree.map(
      lambda c, b: jnp.all(self.magnitude(c) <= b, axis=tuple(range(self.batch_ndim, c.ndim))),
      *(self.correlation(), self.beta),
    )
    return functools.reduce(jnp.logical_and, jax.tree.leaves(fits))

  def magnitude(self, correlation: jax.Array) -> jax.Array:
    """Returns what `beta` is compared with: |correlation|, or its positive part if `nonnegative`."""
    return jnp.maximum(correlation, 0) if self.nonnegative else jnp.abs(correlation)

  def objective(self, code: Code, reconstruction: jax.Array) -> jax.Array:
    """Returns the objective of `code`, given D code: [batch...], in unit^2, in float32 or wider."""

    def penalty(code: jax.Array, beta: jax.Array) -> jax.Array:
      return sum_signals(beta * jnp.abs(self.in_units(code)), self.batch_ndim)

    penalties = jax.tree.leaves(jax.tree.map(penalty, code, self.beta))
    return 0.5 * self.energy(self.x - reconstruction) + sum(penalties) / self.unit.astype(
      penalties[0].dtype
    )

  def energy(self, signal: jax.Array) -> jax.Array:
    """Returns sum mask signal^2 for each signal: [batch...], in unit^2."""
    return sum_signals(self.weigh(jnp.square(self.in_units(signal))), self.batch_ndim)

  def norm(self, code: Code) -> jax.Array:
    """Returns the Euclidean norm of the code of each signal, or of each signal: [batch...], in units."""
    # The unit does not bring these squares into range: D^T x and the code also depend on the scale of D.
    norms = [
      norm(leaf.astype(at_least_float32(leaf.dtype)), tuple(range(self.batch_ndim, leaf.ndim)))
      for leaf in jax.tree.leaves(code)
    ]
    total = norms[0] if len(norms) == 1 else norm(jnp.stack(norms), axis=0)
    return total / self.unit.astype(total.dtype)

  def inner(self, a: Code, b: Code) -> jax.Array:
    """Returns the inner products of codes or signals: [batch...], in unit^2, in float32 or wider."""
    products = jax.tree.map(
      lambda u, v: sum_signals(self.in_units(u) * self.in_units(v), self.batch_ndim), a, b
    )
    return functools.reduce(jnp.add, jax.tree.leaves(products))

  def in_units(self, array: jax.Array) -> jax.Array:
    """Divides the array of a code or a signal by the unit of each signal."""
    return array * per_signal(1 / self.unit, array)


def sum_signals(array: jax.Array, batch_ndim: int) -> jax.Array:
  """Returns the sum over all axes but the first `batch_ndim`, in float32 or wider."""
  precise = at_least_float32(array.dtype)
  return jnp.sum(array, axis=tuple(range(batch_ndim, array.ndim)), dtype=precise)


def per_signal(value: jax.Array, array: jax.Array) -> jax.Array:
  """Returns a scalar, or one value per signal [batch...], in the type and rank of `array`."""
  return value.astype(array.dtype).reshape(
    value.shape + (1,) * (array.ndim - value.ndim) * bool(value.ndim)
  )


def safe_sqrt(square: jax.Array) -> jax.Array:
  """Returns the square root, with derivative 0 at 0 instead of infinity."""
  return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def as_mask(mask: ArrayLike, x: jax.Array, has_channels: bool = True) -> jax.Array:
  """Checks a mask, and converts it to the type and rank of the signals.

  Args:
    mask: Weights in 0..1 that broadcast against `x`.
    x: The signals; only their shape and type are used.
    has_channels: Whether the last axis of `x` contains channels. If so, a mask without this axis is the
      same for all channels.

  Returns:
    The mask, with as many axes as `x`.

  Raises:
    ValueError: If the mask does not broadcast against `x`, or if values are outside 0..1.

  Example:
    >>> import jax.numpy as jnp
    >>> from cscjax import solvers
    >>> solvers.as_mask(jnp.ones((8, 8)), jnp.ones((5, 8, 8, 3))).shape
    (1, 8, 8, 1)
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
