"""Stability of layered pursuits under noise (Papyan, Romano & Elad 2017, JMLR 18).

All bounds are stated for atoms of unit norm: the coefficient of atom d_j is ||d_j|| code_j.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import (
  Code,
  CodedLayer,
  Dictionary,
  as_signal,
  atom_norms,
  check_coded_layers,
  check_one_per_dictionary,
  join,
  mutual_coherence,
)
from cscjax.ops import common_float, expand_rank, highest_precision
from cscjax.theory._sparsity import nonzeros, patch_norm, stripe_sparsity

SOLVERS = ("thresholding", "bp")
ZERO_ATOMS = "zero atoms in use <= 0"
"""The condition that a code uses no zero atom."""


class Condition(NamedTuple):
  """An inequality that a theorem requires, as arrays of broadcast shape.

  Attributes:
    left: The left side.
    right: The right side.
    holds: Whether the inequality holds; False if a side is NaN.
  """

  left: jax.Array
  right: jax.Array
  holds: jax.Array


class Recovery(NamedTuple):
  """The conclusion of a theorem for one layer, as arrays of broadcast shape.

  Attributes:
    holds: Whether all conditions of the theorem hold.
    beta: The threshold or penalty.
    error: Upper bound on the error of a coefficient; inf if a condition fails.
    conditions: The conditions, keyed by their text, such as "3 noise <= beta".
  """

  holds: jax.Array
  beta: jax.Array
  error: jax.Array
  conditions: dict[str, Condition]


class LayerStability(NamedTuple):
  """The stability of one layer, as returned by `layered_stability`.

  All arrays have shape [batch...] except the coherence.

  Attributes:
    coherence: The mutual coherence mu(D) for the size of the layer's signal, a scalar.
    sparsity: The number of nonzeros in the densest stripe of the code.
    misfit: ||signal - D code||^P_{2,inf}, the part of the signal that the code does not explain.
    noise: eps_{i-1}, the error of the previous layer, plus the misfit.
    recovery: The recovery of the layer's code from a signal with that noise.
    error: eps_i, the upper bound on the error of the code. It bounds the norm ||.||^P_{2,inf} over the
      patches of the next layer's atoms; for the last layer, the norm ||.||_2 of the whole code.
  """

  coherence: jax.Array
  sparsity: jax.Array
  misfit: jax.Array
  noise: jax.Array
  recovery: Recovery
  error: jax.Array


def thresholding_recovery(
  coherence: ArrayLike,
  sparsity: ArrayLike,
  smallest: ArrayLike,
  largest: ArrayLike,
  noise: ArrayLike,
  beta: ArrayLike | None = None,
) -> Recovery:
  """Bounds the error of one soft-thresholding step, S_beta(D^T (D code + E)).

  Let mu be the coherence, s the sparsity and eps the noise. The inner products of the atoms with the
  signal deviate from the code by at most (s - 1) mu |code|_max + eps on the support, and they do not
  exceed s mu |code|_max + eps off the support. If

      s mu |code|_max + eps <= beta < |code|_min - (s - 1) mu |code|_max - eps,

  the result therefore has the support of the code, and no coefficient is off by more than
  (s - 1) mu |code|_max + eps + beta. Such a beta exists if and only if
  s < (1 + |code|_min / (mu |code|_max)) / 2 - eps / (mu |code|_max). The statement also holds for
  nonnegative codes and nonnegative soft thresholding.

  All arguments are scalars or arrays that broadcast against each other. Magnitudes refer to atoms of
  unit norm.

  Args:
    coherence: The mutual coherence mu(D), >= 0.
    sparsity: The stripe sparsity s of the code, >= 0, as `stripe_sparsity` returns it.
    smallest: |code|_min > 0, the smallest magnitude of a nonzero coefficient; inf for a code of zeros.
    largest: |code|_max, the largest magnitude of a coefficient.
    noise: An upper bound eps >= ||E||^P_{2,inf}. If it is negative or infinite, no bound holds.
    beta: The threshold. By default the smallest value that the inequality allows.

  Returns:
    A `Recovery`. If a condition fails, its `holds` is False and its `error` is inf.

  Raises:
    ValueError: If the coherence or the sparsity is negative or not finite, or if an argument is not an
      array of real numbers that broadcasts against the others.

  References:
    Theorem 10 (layered soft thresholding with noise) of Papyan, Romano & Elad, Convolutional neural
    networks analyzed via convolutional sparse coding, JMLR 2017.

  Example:
    >>> import cscjax
    >>> found = cscjax.theory.thresholding_recovery(
    ...   coherence=0.1, sparsity=2, smallest=1.0, largest=2.0, noise=0.1
    ... )
    >>> bool(found.holds), round(float(found.beta), 3), round(float(found.error), 3)
    (True, 0.5, 0.8)
  """
  _check_numbers(
    coherence=coherence, sparsity=sparsity, smallest=smallest, largest=largest, noise=noise, beta=beta
  )
  mu, s, least, most, eps, threshold = _as_common_float(
    coherence, sparsity, smallest, largest, noise, beta
  )
  leak = mu * most
  low = s * leak + eps
  others = jnp.maximum(s - 1, 0) * leak + eps
  high = least - others
  threshold = low if threshold is None else threshold
  conditions = {
    "s mu |code|_max + noise <= beta": Condition(low, threshold, low <= threshold),
    "beta < |code|_min - (s - 1) mu |code|_max - noise": Condition(threshold, high, threshold < high),
  }
  return _recovery(conditions, eps, threshold, others + threshold)


def bp_recovery(
  coherence: ArrayLike, sparsity: ArrayLike, noise: ArrayLike, beta: ArrayLike | None = None
) -> Recovery:
  """Bounds the error of the Lasso solution (basis pursuit) for a noisy signal D code + E.

  Let mu be the coherence, s the sparsity and eps the noise. If s < (1 + 1 / mu) / 3 and
  beta = 4 eps > 0, the solution is unique, its support is contained in that of the code, and no
  coefficient is off by more than 7.5 eps. The proof (after Tropp 2006) requires only beta >= 3 eps and
  beta > 0, and yields the bound 1.5 (beta + eps), which this function returns.

  At beta = 0 nothing holds, even without noise, because every code with D code = x is then a solution.
  The statement is about signed codes; under the constraint code >= 0 the solution is a different one.

  All arguments are scalars or arrays that broadcast against each other. Coefficients refer to atoms of
  unit norm.

  Args:
    coherence: The mutual coherence mu(D), >= 0.
    sparsity: The stripe sparsity s of the code, >= 0, as `stripe_sparsity` returns it.
    noise: An upper bound eps >= ||E||^P_{2,inf}. If it is negative or infinite, no bound holds.
    beta: The penalty. By default 4 eps.

  Returns:
    A `Recovery`. If a condition fails, its `holds` is False and its `error` is inf.

  Raises:
    ValueError: If the coherence or the sparsity is negative or not finite, or if an argument is not an
      array of real numbers that broadcasts against the others.

  References:
    Theorem 12 (layered basis pursuit with noise) of Papyan, Romano & Elad, Convolutional neural networks
    analyzed via convolutional sparse coding, JMLR 2017.
    Tropp, Just relax: convex programming methods for identifying sparse signals in noise, IEEE
    Transactions on Information Theory 2006.

  Example:
    >>> import cscjax
    >>> found = cscjax.theory.bp_recovery(coherence=0.15, sparsity=2, noise=0.1)
    >>> bool(found.holds), round(float(found.beta), 3), round(float(found.error), 3)
    (True, 0.4, 0.75)
    >>> float(cscjax.theory.bp_recovery(coherence=0.15, sparsity=3, noise=0.1).error)
    inf
  """
  _check_numbers(coherence=coherence, sparsity=sparsity, noise=noise, beta=beta)
  mu, s, eps, penalty = _as_common_float(coherence, sparsity, noise, beta)
  penalty = 4 * eps if penalty is None else penalty
  spread, limit = 3 * s * mu, 1 + mu
  conditions = {
    "3 s mu < 1 + mu": Condition(spread, limit, spread < limit),
    "3 noise <= beta": Condition(3 * eps, penalty, 3 * eps <= penalty),
    "0 < beta": Condition(jnp.zeros_like(penalty), penalty, penalty > 0),
  }
  return _recovery(conditions, eps, penalty, 1.5 * (penalty + eps))


def _check_numbers(**values: Any) -> None:
  """Raises ValueError unless the values are real arrays that broadcast; None is allowed for beta."""
  shape = ()
  for name, value in values.items():
    if name in ("coherence", "sparsity"):
      checks.all_at_least(name, value, 0)
    if value is not None or name != "beta":
      shape = checks.broadcast_shape(name, checks.real_array(name, value).shape, shape)


def _recovery(
  conditions: dict[str, Condition], noise: jax.Array, beta: jax.Array, error: jax.Array
) -> Recovery:
  """Combines the conditions of a theorem, and finite noise, into its conclusion."""
  known = Condition(noise, jnp.full_like(noise, jnp.inf), (noise >= 0) & (noise < jnp.inf))
  conditions = {"noise < inf": known, **conditions}  # the noise is infinite without a previous bound
  holds = functools.reduce(jnp.logical_and, [condition.holds for condition in conditions.values()])
  return Recovery(holds, beta, jnp.where(holds, error, jnp.inf), conditions)


@highest_precision
def layered_stability(
  layers: Sequence[CodedLayer],
  noise: ArrayLike,
  *,
  betas: Sequence[ArrayLike] | None = None,
  coherences: Sequence[ArrayLike] | None = None,
  solver: str = "thresholding",
) -> list[LayerStability]:
  """Bounds the errors of layered thresholding or layered BP, layer by layer, for known codes.

  Consider codes such that x = D_1 code_1, code_1 = D_2 code_2, ... and a pursuit from x + E with
  ||E||^P_{2,inf} <= noise. If the conditions of a layer hold, the pursuit's code of this layer has the
  support of the known code (for BP: a support contained in it) and differs from it by at most
  `recovery.error` / ||d_j|| in the coefficient of atom d_j. For atoms of unit norm the error in a patch
  is then at most eps_i = sqrt(||code_i||^P_{0,inf}) recovery.error, the noise of the next layer.
  If one of the equations does not hold exactly, its misfit also counts as noise.

  The pursuit runs over atoms of unit norm: with D = D' diag(||d_j||), it finds ||d_j|| code_j over D'.
  Filters of unit norm give atoms of unit norm, except for atoms cut by a border. A code that uses an
  atom that is zero cannot be recovered, so no bound holds for it.

  Args:
    layers: The layers in order, each a `CodedLayer`. The signal of each layer after the first must be
      the previous code with its parts joined, or the max-pooling of that code.
    noise: eps_0 >= 0, a scalar or an array [batch...].
    betas: For each layer the threshold or penalty for coefficients of unit atoms, a scalar or an array
      [batch...]. By default the values that the theorems choose.
    coherences: The mutual coherence of each layer. By default `mutual_coherence` for the signal's size.
    solver: The pursuit that the bounds are for: "thresholding" (Theorem 10) or "bp" (Theorem 12).

  Returns:
    A `LayerStability` for each layer.

  Raises:
    ValueError: If the layers do not fit together, if `solver` is unknown, if the number or the shape of
      `betas` or `coherences` is wrong, or if a value is negative or not finite.

  References:
    Theorems 10 and 12 of Papyan, Romano & Elad, Convolutional neural networks analyzed via convolutional
    sparse coding, JMLR 2017.
    Zhang & Zhang, National Science Review 2020, who note that the bounds also apply to Res-CSC and
    MSD-CSC.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> D = cscjax.MatrixDictionary(jnp.eye(3))
    >>> code = jnp.array([0.0, 2.0, 0.0])
    >>> layers = [cscjax.CodedLayer(D, D.synthesis(code), code)]
    >>> (layer,) = cscjax.theory.layered_stability(layers, noise=0.1, solver="bp")
    >>> round(float(layer.error), 3)  # 7.5 times the noise
    0.75
  """
  check_coded_layers(layers)
  checks.one_of("solver", solver, SOLVERS)
  checks.all_at_least("noise", noise, 0)
  for name, values in (("betas", betas), ("coherences", coherences)):
    if values is not None:
      check_one_per_dictionary([layer.dictionary for layer in layers], **{name: values})
      checks.all_at_least(name, list(values), 0)
  found, noise = [], jnp.asarray(noise, float)
  for i, (dictionary, signal, code) in enumerate(layers):
    signal = as_signal(dictionary, signal)
    ndim = signal.ndim - dictionary.signal_ndim
    batch, shape = signal.shape[:ndim], signal.shape[ndim:]
    norms = atom_norms(dictionary, shape)
    coherence = mutual_coherence(dictionary, shape) if coherences is None else coherences[i]
    coherence = per_signal("coherences", coherence, ())
    sparsity = stripe_sparsity(dictionary, code, shape)
    if sparsity.shape != batch:
      checks.fail("codes", sparsity.shape, f"codes with the batch shape {batch} of their signals")
    misfit = patch_norm(dictionary, dictionary.residual(code, signal))
    noise = per_signal("noise", noise, batch) + misfit
    beta = None if betas is None else per_signal("betas", betas[i], batch)
    if solver == "bp":
      recovery = bp_recovery(coherence, sparsity, noise, beta)
    else:
      smallest, largest = _magnitudes(code, norms, ndim)
      recovery = thresholding_recovery(coherence, sparsity, smallest, largest, noise, beta)
    recovery = _without_zero_atoms(recovery, code, norms)
    scale = jax.tree.map(_inverse_where_used, code, norms)
    following = layers[i + 1] if i + 1 < len(layers) else None
    factor = _error_factor(dictionary, code, scale, following, ndim)
    error = jnp.where(recovery.holds, recovery.error * factor, jnp.inf)
    found.append(LayerStability(coherence, sparsity, misfit, noise, recovery, error))
    noise = error
  return found


def per_signal(name: str, value: ArrayLike, batch: tuple[int, ...]) -> jax.Array:
  """Returns the value of a layer as an array; raises ValueError unless it is a scalar or [batch...]."""
  value = checks.real_array(name, value)
  if value.shape not in ((), batch):
    or_signal = f", or one per signal, of shape {batch}" if batch else ""
    checks.fail(name, value.shape, f"one number per layer{or_signal}")
  return value


def _without_zero_atoms(recovery: Recovery, code: Code, norms: Code) -> Recovery:
  """Adds the condition that the code uses no zero atom."""
  lost = jax.tree.map(lambda c, n: jnp.where(n > 0, 0, c), code, norms)
  used = nonzeros(lost, norms)
  none = Condition(used, jnp.zeros_like(used), used <= 0)
  holds = recovery.holds & none.holds
  conditions = {**recovery.conditions, ZERO_ATOMS: none}
  return recovery._replace(
    holds=holds, error=jnp.where(holds, recovery.error, jnp.inf), conditions=conditions
  )


def _as_common_float(*values: Any) -> list[Any]:
  """Returns the values as arrays of their common floating type; None stays None."""
  dtype = common_float(*(value for value in values if value is not None))
  return [None if value is None else jnp.asarray(value, dtype) for value in values]


def _inverse_where_used(code: jax.Array, norms: jax.Array) -> jax.Array:
  """Returns 1 / norm for the atoms that a code uses and zero for the others."""
  norms = expand_rank(norms, code.ndim)
  return jnp.where((code != 0) & (norms > 0), 1 / norms, 0)


def _magnitudes(code: Code, norms: Code, batch_ndim: int) -> tuple[jax.Array, jax.Array]:
  """Smallest nonzero and largest magnitude of the coefficients of unit atoms, [batch...] each."""
  sizes = jax.tree.map(lambda c, n: jnp.abs(c) * expand_rank(n, c.ndim), code, norms)
  flat = jnp.concatenate([jax.lax.collapse(s, batch_ndim) for s in jax.tree.leaves(sizes)], axis=-1)
  return jnp.min(jnp.where(flat > 0, flat, jnp.inf), axis=-1), jnp.max(flat, axis=-1)


def _error_factor(
  dictionary: Dictionary, code: Code, scale: Code, following: CodedLayer | None, batch_ndim: int
) -> jax.Array:
  """Norm of the code's error in a patch of the next layer, per unit of error of a coefficient.

  Args:
    dictionary: The dictionary of this layer.
    code: Its code.
    scale: 1 / ||d_j|| on the support of the code and zero elsewhere.
    following: The next layer; None after the last layer, where the norm is that of the whole error.
    batch_ndim: Number of batch axes of the code.
  """
  scale = join(scale)
  if following is None:
    return jnp.sqrt(jnp.sum(jnp.square(scale), axis=tuple(range(batch_ndim, scale.ndim))))
  if following.signal.shape == scale.shape:
    return patch_norm(following.dictionary, scale)
  # Max-pooling does not increase errors, and it keeps zeros unless a negative coefficient changes sign.
  occupied = (following.signal != 0) | _reduce_signal(jnp.any, join(code) < 0, dictionary.signal_ndim)
  return patch_norm(
    following.dictionary, jnp.where(occupied, _reduce_signal(jnp.max, scale, dictionary.signal_ndim), 0)
  )


def _reduce_signal(reduce: Callable[..., jax.Array], array: jax.Array, ndim: int) -> jax.Array:
  """Reduces the last `ndim` axes to size 1."""
  return reduce(array, axis=tuple(range(array.ndim - ndim, array.ndim)), keepdims=True)
