"""How far noise moves a layered pursuit (Papyan, Romano & Elad 2017, JMLR 18).

All bounds are for atoms of unit norm: coefficients stand for ||d_j|| code_j.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import (
  CodedLayer,
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
"""The condition that a code uses no atom that is zero."""


class Condition(NamedTuple):
  """An inequality that a theorem needs; arrays of broadcast shape.

  Attributes:
    left: Its left side.
    right: Its right side.
    holds: Whether it holds. False where a side is NaN.
  """

  left: jax.Array
  right: jax.Array
  holds: jax.Array


class Recovery(NamedTuple):
  """What a theorem says of one layer; arrays of broadcast shape.

  Attributes:
    holds: Whether all of its conditions hold.
    beta: The threshold or penalty.
    error: Largest error of a coefficient; inf where a condition does not hold.
    conditions: The conditions by their text, such as "3 noise <= beta".
  """

  holds: jax.Array
  beta: jax.Array
  error: jax.Array
  conditions: dict[str, Condition]


class LayerStability(NamedTuple):
  """One layer of `layered_stability`; arrays [batch...] but for the coherence.

  Attributes:
    coherence: mu(D) for this size of signal, a scalar.
    sparsity: Nonzeros in the densest stripe.
    misfit: ||signal - D code||^P_{2,inf}, by which the codes given are none of the layer's signal.
    noise: eps_{i-1} plus the misfit.
    recovery: Of the layer's code from a signal with that noise.
    error: eps_i: of the code as a signal of the next layer, in a patch of its atoms
      (||.||^P_{2,inf}); of the last code as a whole (||.||_2).
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
  """One step of soft thresholding, S_beta(D^T (D code + E)), finds the support (Theorem 10).

  With mu the coherence, s the sparsity and eps the noise, the inner products are off by at most
  (s - 1) mu |code|_max + eps on the support, and no larger than s mu |code|_max + eps beside it. So
  where

      s mu |code|_max + eps <= beta < |code|_min - (s - 1) mu |code|_max - eps,

  the support is that of the code, and no coefficient is off by more than
  (s - 1) mu |code|_max + eps + beta. A beta exists iff s < (1 + |code|_min / (mu |code|_max)) / 2
  - eps / (mu |code|_max). Also for non-negative codes and thresholds.

  Args:
    coherence: mu(D), >= 0.
    sparsity: s >= 0, `stripe_sparsity` of the code.
    smallest: |code|_min > 0, the smallest magnitude of a nonzero coefficient (inf if there is none).
    largest: |code|_max, the largest.
    noise: eps >= ||E||^P_{2,inf}.
    beta: The threshold; the smallest of the interval if None.

  Raises:
    ValueError: If the coherence or the sparsity is negative or not finite, or an argument is no array of
      real numbers that broadcasts against the others.
  """
  _check_numbers(
    coherence=coherence, sparsity=sparsity, smallest=smallest, largest=largest, noise=noise, beta=beta
  )
  mu, s, least, most, eps, threshold = _in_one_type(coherence, sparsity, smallest, largest, noise, beta)
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
  """The Lasso's solution for D code + E has its support within the code's (Theorem 12).

  Where s < (1 + 1 / mu) / 3 and beta = 4 eps > 0 it is unique, its support is contained in the code's
  and no coefficient is off by more than 7.5 eps. The proof (after Tropp 2006) asks for beta >= 3 eps and
  beta > 0 only, and gives 1.5 (beta + eps). At beta = 0 nothing holds, also without noise: every code
  with D code = x is a solution then. For signed codes: the solution under code >= 0 is another.

  Args:
    coherence: mu(D), >= 0.
    sparsity: s >= 0, `stripe_sparsity` of the code.
    noise: eps >= ||E||^P_{2,inf}.
    beta: The penalty; 4 eps if None.

  Raises:
    ValueError: If the coherence or the sparsity is negative or not finite, or an argument is no array of
      real numbers that broadcasts against the others.
  """
  _check_numbers(coherence=coherence, sparsity=sparsity, noise=noise, beta=beta)
  mu, s, eps, penalty = _in_one_type(coherence, sparsity, noise, beta)
  penalty = 4 * eps if penalty is None else penalty
  spread, limit = 3 * s * mu, 1 + mu
  conditions = {
    "3 s mu < 1 + mu": Condition(spread, limit, spread < limit),
    "3 noise <= beta": Condition(3 * eps, penalty, 3 * eps <= penalty),
    "0 < beta": Condition(jnp.zeros_like(penalty), penalty, penalty > 0),
  }
  return _recovery(conditions, eps, penalty, 1.5 * (penalty + eps))


def _check_numbers(**values):
  """ValueError where a value is no array of real numbers, or does not broadcast against those before."""
  shape = ()
  for name, value in values.items():
    if name in ("coherence", "sparsity"):
      checks.all_at_least(name, value, 0)
    if value is not None or name != "beta":
      shape = checks.broadcast_shape(name, checks.real_array(name, value).shape, shape)


def _recovery(conditions, noise, beta, error):
  known = Condition(noise, jnp.full_like(noise, jnp.inf), (noise >= 0) & (noise < jnp.inf))
  conditions = {"noise < inf": known, **conditions}  # inf where a layer below has no bound
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
  """How far layered thresholding (Theorem 10) or layered BP (Theorem 12) ends from given codes.

  For a pursuit from x + E with ||E||^P_{2,inf} <= noise, and codes such that x = D_1 code_1,
  code_1 = D_2 code_2, ...: wherever a layer's conditions hold, its code has the support of the code
  given (BP: one within it), and differs by at most `recovery.error` / ||d_j|| in a coefficient; by eps_i
  = sqrt(||code_i||^P_{0,inf}) recovery.error in a patch if atoms have unit norm. That is the noise of
  the next layer. Where an equation does not hold exactly, what is missing counts as noise, too.

  The pursuit is that over atoms of unit norm: with D = D' diag(||d_j||) it finds ||d_j|| code_j over D'.
  Unit filters make unit atoms but for those that a border cuts. A code that uses an atom that is zero
  cannot be found, so no bound holds for it.

  Args:
    layers: The layers from the first on. The next signal is the code, its parts
      joined, or a max-pooling of it.
    noise: eps_0 >= 0, a scalar or [batch...].
    betas: Threshold or penalty of each layer on coefficients of unit atoms, a scalar or [batch...];
      those of the theorems if None.
    coherences: mu of each layer; by `mutual_coherence` for the signals' size if None.
    solver: "thresholding" or "bp", for which the bounds are.

  Raises:
    ValueError: If the layers, `solver`, the number of betas or coherences, or a shape is wrong, or a
      value is negative.
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
    coherence = _per_signal("coherences", coherence, ())
    sparsity = stripe_sparsity(dictionary, code, shape)
    if sparsity.shape != batch:
      checks.fail("codes", sparsity.shape, f"codes of a batch {batch}, as that of their signals")
    misfit = patch_norm(dictionary, dictionary.residual(code, signal))
    noise = _per_signal("noise", noise, batch) + misfit
    beta = None if betas is None else _per_signal("betas", betas[i], batch)
    if solver == "bp":
      recovery = bp_recovery(coherence, sparsity, noise, beta)
    else:
      smallest, largest = _magnitudes(dictionary, code, norms)
      recovery = thresholding_recovery(coherence, sparsity, smallest, largest, noise, beta)
    recovery = _without_zero_atoms(recovery, dictionary, code, norms)
    scale = jax.tree.map(_inverse_where_used, code, norms)
    below = layers[i + 1] if i + 1 < len(layers) else None
    error = jnp.where(recovery.holds, recovery.error * _spread(dictionary, code, scale, below), jnp.inf)
    found.append(LayerStability(coherence, sparsity, misfit, noise, recovery, error))
    noise = error
  return found


def _per_signal(name, value, batch):
  """A layer's value as an array; ValueError where it is more than one number for a signal."""
  value = checks.real_array(name, value)
  if value.shape not in ((), batch):
    or_signal = f", or one for each signal {batch}" if batch else ""
    checks.fail(name, value.shape, f"one number for each layer{or_signal}")
  return value


def _without_zero_atoms(recovery, dictionary, code, norms):
  """Adds the condition that the code uses no atom that is zero."""
  lost = jax.tree.map(lambda c, n: jnp.where(n > 0, 0, c), code, norms)
  used = nonzeros(dictionary, lost)
  none = Condition(used, jnp.zeros_like(used), used <= 0)
  holds = recovery.holds & none.holds
  conditions = {**recovery.conditions, ZERO_ATOMS: none}
  return recovery._replace(
    holds=holds, error=jnp.where(holds, recovery.error, jnp.inf), conditions=conditions
  )


def _in_one_type(*values: Any) -> list[Any]:
  """The values as arrays of their common floating type; None stays None."""
  dtype = common_float(*(value for value in values if value is not None))
  return [None if value is None else jnp.asarray(value, dtype) for value in values]


def _inverse_where_used(code, norms):
  """1 / norm of the atoms that a code uses, 0 elsewhere."""
  norms = expand_rank(norms, code.ndim)
  return jnp.where((code != 0) & (norms > 0), 1 / norms, 0)


def _magnitudes(dictionary, code, norms):
  """Smallest and largest magnitude of the nonzero coefficients of unit atoms."""
  sizes = jax.tree.map(lambda c, n: jnp.abs(c) * expand_rank(n, c.ndim), code, norms)
  batch = jax.tree.leaves(sizes)[0].shape[: -dictionary.signal_ndim]
  flat = jnp.concatenate([size.reshape(*batch, -1) for size in jax.tree.leaves(sizes)], axis=-1)
  return jnp.min(jnp.where(flat > 0, flat, jnp.inf), axis=-1), jnp.max(flat, axis=-1)


def _spread(dictionary, code, scale, below):
  """Largest norm of a patch of errors of 1 on the support, on coefficients of unit atoms."""
  scale = join(scale)
  if below is None:
    axes = tuple(range(scale.ndim - dictionary.signal_ndim, scale.ndim))
    return jnp.sqrt(jnp.sum(jnp.square(scale), axis=axes))
  if below.signal.shape == scale.shape:
    return patch_norm(below.dictionary, scale)
  # Pooled: no error grows, and zeros stay zeros unless a negative coefficient changed sign.
  occupied = (below.signal != 0) | _every(jnp.any, join(code) < 0, dictionary.signal_ndim)
  return patch_norm(
    below.dictionary, jnp.where(occupied, _every(jnp.max, scale, dictionary.signal_ndim), 0)
  )


def _every(reduce, array, ndim):
  return reduce(array, axis=tuple(range(array.ndim - ndim, array.ndim)), keepdims=True)
