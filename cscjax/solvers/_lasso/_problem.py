"""The Lasso that the one-layer solvers solve, with all of its data in one floating type."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, as_signal
from cscjax.ops import PyTree, at_least_float32, highest_precision, norm
from cscjax.solvers._arguments import list_as_code
from cscjax.solvers._lasso._regularizer import Regularizer, as_regularizer, regularizers_of
from cscjax.solvers._lasso._signals import as_mask, per_signal, sum_signals, unit_of, weighted_sum
from cscjax.solvers._penalty import RelativePenalty, as_penalty, largest_of_signals, per_coefficient
from cscjax.solvers._warnings import warn_about_signals


class Lasso(PyTree):
  """The Lasso: the problem min_code 1/2 sum mask (x - D code)^2 + R(code), R(code) = sum beta |code|.

  The one-layer solvers take this object: `cscjax.fista(dictionary, x, beta)` is
  `cscjax.solvers.FISTA().run(cscjax.Lasso(dictionary, x, beta))`. Its methods are what an iteration
  needs. The object is immutable and a pytree, and so it can be an argument of a function under
  `jax.jit`, `jax.vmap` or `jax.grad`. Its arrays have one floating-point type, and `x` is zero where the
  mask is zero.

  The regularizer R has variants, which can be combined: the elastic net (`ridge`), joint sparsity
  (`joint_axes`) and constraints (`nonnegative`).

  Args:
    dictionary: The dictionary D.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    beta: Penalty, nonnegative: a scalar, one value per channel [m], or an array that broadcasts against
      the code. A code of several parts takes one value for all parts, or one for each part.
      `cscjax.relative(0.1)` is a tenth of `beta_max` for each signal.
    nonnegative: Whether the code is constrained to be nonnegative: a bool, or an array of bools, one per
      channel [m] or of any shape that broadcasts against the code. A code of several parts takes one
      value for all parts, or one for each part.
    mask: Weights of the squared errors, in 0..1, that broadcast against `x`, or against `x` without its
      last axis, such as [H, W] for all channels of an image; 1 if None. Where the weight is zero, the
      value of `x` is ignored, even if it is NaN.
    ridge: Penalty of the squares mu, which adds mu/2 ||code||^2 to the objective (the elastic net):
      nonnegative, in any of the shapes of `beta`; no such term if None.
    joint_axes: Axis or axes of the code, negative, along which coefficients are zero only jointly (joint
      sparsity): the penalty is beta times the Euclidean norm along these axes, in which `beta` and
      `ridge` have size 1. None for the absolute value of each coefficient.

  Attributes:
    unit: A power of two near the largest magnitude of each signal, [batch...]. Squares are computed in
      this unit, because those of a signal of 1e-30 or 1e30 are outside the range of float32.
    regularizer: For each part of the code a pytree with the arrays `beta`, `ridge` and `nonnegative`.

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
  regularizer: Any
  mask: jax.Array | None

  def __init__(
    self,
    dictionary: Dictionary,
    x: ArrayLike,
    beta: Any,
    *,
    nonnegative: Any = False,
    mask: ArrayLike | None = None,
    ridge: Any = None,
    joint_axes: int | Sequence[int] | None = None,
  ):
    given, x = x, as_signal(dictionary, x)
    warn_about_signals(given, beta, dictionary.signal_ndim)
    if mask is not None:
      mask = as_mask(mask, x, has_channels=dictionary.signal_ndim > 1)
      x = jnp.where(mask > 0, x, 0)  # a missing pixel may be NaN
    batch_ndim = x.ndim - dictionary.signal_ndim
    code = jax.eval_shape(dictionary.analysis, x)
    regularizer = as_regularizer(code, nonnegative, ridge, joint_axes, batch_ndim)
    fields = (unit_of(x, batch_ndim), dictionary, x, regularizer, mask)
    for field, value in zip(dataclasses.fields(self), fields, strict=True):
      object.__setattr__(self, field.name, value)
    object.__setattr__(self, "regularizer", self.with_beta(beta).regularizer)

  @property
  def batch_ndim(self) -> int:
    """Number of leading axes of `x` that are batch axes."""
    return self.x.ndim - self.dictionary.signal_ndim

  @property
  def has_ridge(self) -> bool:
    """Whether the squares of the code have a penalty."""
    return any(r.ridge is not None for r in regularizers_of(self.regularizer))

  @property
  def has_dual_bound(self) -> bool:
    """Whether each coefficient has a positive penalty, as far as values are known.

    Otherwise the dual feasible set has no interior, and the duality gap is useless.
    """
    return all(r.is_positive() for r in regularizers_of(self.regularizer))

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
    """Returns the proximal operator of the regularizer: argmin_g 1/2 ||g - point||^2 + step R(g).

    Args:
      point: The code at which the operator is evaluated.
      step: A positive scalar, or one value per signal, [batch...].

    Returns:
      The minimizer g, nonnegative where the problem is.
    """
    return jax.tree.map(lambda p, r: r.prox(p, per_signal(step, p)), point, self.regularizer)

  def project(self, code: Code) -> Code:
    """Returns the nearest code that satisfies the constraint `nonnegative`.

    Args:
      code: The code.

    Returns:
      A code whose constrained coefficients are nonnegative.
    """
    return jax.tree.map(lambda c, r: r.project(c), code, self.regularizer)

  def violates_constraint(self, code: Code) -> jax.Array:
    """Returns whether a code has negative coefficients that are constrained to be nonnegative.

    Args:
      code: The code.

    Returns:
      One boolean per signal, [batch...].
    """
    below = jax.tree.map(
      lambda c, p: jnp.any(c < p, axis=tuple(range(self.batch_ndim, c.ndim))), code, self.project(code)
    )
    return functools.reduce(jnp.logical_or, jax.tree.leaves(below))

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
    # Not by `dual_norms`: XLA would store the absolute values, which it also needs for the norm.
    fits = jax.tree.map(
      lambda c, r: jnp.all(r.dual_projection(c) == c, axis=tuple(range(self.batch_ndim, c.ndim))),
      *(self.correlation(), self.regularizer),
    )
    return functools.reduce(jnp.logical_and, jax.tree.leaves(fits))

  def dual_norms(self, correlation: Code) -> Code:
    """Returns what `beta` is compared with: |correlation|, or its positive part where `nonnegative`.

    Args:
      correlation: D^T mask (x - D code).

    Returns:
      A code; with `joint_axes`, the Euclidean norm along them, which have size 1.
    """
    return jax.tree.map(lambda c, r: r.dual_norm(c), correlation, self.regularizer)

  def largest_factor(self) -> jax.Array:
    """Returns the smallest factor of the penalty for which the zero code is a solution.

    Returns:
      One value per signal, [batch...].
    """
    ratios = jax.tree.map(lambda n, r: n / r.beta, self.dual_norms(self.correlation()), self.regularizer)
    return largest_of_signals(ratios, self.batch_ndim)

  def with_beta(self, beta: Any, name: str = "beta") -> Self:
    """Returns the problem with another penalty.

    Args:
      beta: The penalty, in any form that the constructor takes.
      name: The name of the argument, for errors.

    Returns:
      The new problem.

    Raises:
      ValueError: If the shape of the penalty does not fit, or if it is negative or not finite.
    """
    checks.all_at_least(name, beta, 0)
    if isinstance(beta, RelativePenalty):
      magnitude = self.dual_norms(self.correlation())
    else:
      magnitude = jax.eval_shape(lambda x: self.dual_norms(self.dictionary.analysis(x)), self.x)
    beta = as_penalty(name, beta, magnitude, self.batch_ndim)
    return self._with_betas(beta)

  def scale_beta(self, factor: jax.Array) -> Self:
    """Multiplies the penalty by a factor.

    Args:
      factor: One value per signal, [batch...].

    Returns:
      The new problem.
    """
    code = jax.eval_shape(self.dictionary.analysis, self.x)
    factors = per_coefficient(factor.astype(self.x.dtype), code)
    return self._with_betas(jax.tree.map(lambda _, f, r: f * r.beta, code, factors, self.regularizer))

  def _with_betas(self, beta: Any) -> Self:
    """Returns the problem with other arrays `beta`, one for each part of the code."""
    regularizer = jax.tree.map(lambda b, r: r.replace(beta=b), beta, self.regularizer)
    return self.replace(regularizer=regularizer)

  @highest_precision
  def objective(self, code: Code) -> jax.Array:
    """Returns the objective of a code, 1/2 sum mask (x - D code)^2 + R(code).

    Args:
      code: The code.

    Returns:
      One value per signal, [batch...], in the type of `x`; infinite if the code violates the constraint
      `nonnegative`.

    Raises:
      ValueError: If the shape of the code does not fit.
    """
    code = self.as_code(code, "code")
    reconstruction = self.dictionary.synthesis(code, self.x.shape)
    value = self.in_squared_scale(self.scaled_objective(code, reconstruction)).astype(self.x.dtype)
    return jnp.where(self.violates_constraint(code), jnp.inf, value)

  def scaled_objective(self, code: Code, reconstruction: jax.Array) -> jax.Array:
    """Returns the objective of a code in unit^2.

    Args:
      code: The code, nonnegative where the problem is.
      reconstruction: D code.

    Returns:
      One value per signal, [batch...], in float32 or wider.
    """

    def term(code: jax.Array, regularizer: Regularizer) -> jax.Array:
      norms = weighted_sum(regularizer.beta, regularizer.norm(code), self.unit)
      squares = sum_signals(regularizer.squares(self.in_units(code)), self.batch_ndim)
      return norms / self.unit.astype(norms.dtype) + squares

    terms = jax.tree.leaves(jax.tree.map(term, code, self.regularizer))
    return 0.5 * self.energy(self.x - reconstruction) + sum(terms)

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
