"""How far noise moves a layered pursuit (Papyan, Romano & Elad 2017, JMLR 18).

All bounds are for atoms of unit norm: coefficients stand for ||d_j|| code_j.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, atom_norms, join, mutual_coherence
from cscjax.theory.sparsity import patch_norm, stripe_sparsity, support_size

METHODS = ("thresholding", "bp")


class Recovery(NamedTuple):
  """What a theorem says of one layer; arrays of broadcast shape.

  Attributes:
    holds: Whether its conditions do.
    beta: The threshold or penalty.
    error: Largest error of a coefficient; inf where the conditions do not hold.
  """

  holds: jax.Array
  beta: jax.Array
  error: jax.Array


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
    coherence: mu(D).
    sparsity: s, `stripe_sparsity` of the code.
    smallest: |code|_min > 0, the smallest magnitude of a nonzero coefficient (inf if there is none).
    largest: |code|_max, the largest.
    noise: eps >= ||E||^P_{2,inf}.
    beta: The threshold; the smallest of the interval if None.
  """
  sparsity, noise = jnp.asarray(sparsity), jnp.asarray(noise)
  leak = jnp.asarray(coherence) * jnp.asarray(largest)
  low = sparsity * leak + noise
  others = jnp.maximum(sparsity - 1, 0) * leak + noise
  beta = low if beta is None else jnp.asarray(beta)
  holds = (low <= beta) & (beta < smallest - others)
  return Recovery(holds, beta, jnp.where(holds, others + beta, jnp.inf))


def bp_recovery(
  coherence: ArrayLike, sparsity: ArrayLike, noise: ArrayLike, beta: ArrayLike | None = None
) -> Recovery:
  """The Lasso's solution for D code + E has its support within the code's (Theorem 12).

  Where s < (1 + 1 / mu) / 3 and beta = 4 eps it is unique, its support is contained in the code's and no
  coefficient is off by more than 7.5 eps. The proof (after Tropp 2006) asks for beta >= 3 eps only, and
  gives 1.5 (beta + eps). For signed codes: the solution under code >= 0 is another.

  Args:
    coherence: mu(D).
    sparsity: s, `stripe_sparsity` of the code.
    noise: eps >= ||E||^P_{2,inf}.
    beta: The penalty; 4 eps if None.
  """
  coherence, noise = jnp.asarray(coherence), jnp.asarray(noise)
  beta = 4 * noise if beta is None else jnp.asarray(beta)
  holds = (3 * jnp.asarray(sparsity) * coherence < coherence + 1) & (beta >= 3 * noise)
  return Recovery(holds, beta, jnp.where(holds, 1.5 * (beta + noise), jnp.inf))


def layered_stability(
  layers: Sequence[tuple[Dictionary, jax.Array, Code]],
  noise: ArrayLike,
  *,
  betas: Sequence[ArrayLike] | None = None,
  coherences: Sequence[ArrayLike] | None = None,
  method: str = "thresholding",
) -> list[LayerStability]:
  """How far layered thresholding (Theorem 10) or layered BP (Theorem 12) ends from given codes.

  For a pursuit from x + E with ||E||^P_{2,inf} <= noise, and codes such that x = D_1 code_1,
  code_1 = D_2 code_2, ...: wherever a layer's conditions hold, its code has the support of the code
  given (BP: one within it), and differs by at most `recovery.error` / ||d_j|| in a coefficient; by eps_i
  = sqrt(||code_i||^P_{0,inf}) recovery.error in a patch if atoms have unit norm. That is the noise of
  the next layer. Where an equation does not hold exactly, what is missing counts as noise, too.

  The pursuit is that over atoms of unit norm: with D = D' diag(||d_j||) it finds ||d_j|| code_j over D'.
  Unit filters make unit atoms but for those that a border cuts.

  Args:
    layers: (dictionary, its signal, code) from the first on. The next signal is the code, its parts
      joined, or a max-pooling of it.
    noise: eps_0 >= 0, a scalar or [batch...].
    betas: Threshold or penalty of each layer on coefficients of unit atoms; those of the theorems if
      None.
    coherences: mu of each layer; by `mutual_coherence` for the signals' size if None.
    method: "thresholding" or "bp".

  Raises:
    ValueError: If `method`, the number of betas or coherences, or a shape is wrong.
  """
  checks.one_of("method", method, METHODS)
  checks.all_at_least("noise", noise, 0)
  for name, values in (("betas", betas), ("coherences", coherences)):
    if values is not None and len(values) != len(layers):
      checks.fail(name, len(values), f"one for each of {len(layers)} layers")
  found, noise = [], jnp.asarray(noise, float)
  for i, (dictionary, signal, code) in enumerate(layers):
    shape = signal.shape[-dictionary.signal_ndim :]
    norms = atom_norms(dictionary, shape)
    coherence = mutual_coherence(dictionary, shape) if coherences is None else coherences[i]
    coherence = jnp.asarray(coherence)
    sparsity = stripe_sparsity(dictionary, code, shape)
    misfit = patch_norm(dictionary, dictionary.residual(code, signal))
    noise = noise + misfit
    beta = None if betas is None else betas[i]
    if method == "bp":
      recovery = bp_recovery(coherence, sparsity, noise, beta)
    else:
      smallest, largest = _magnitudes(dictionary, code, norms)
      recovery = thresholding_recovery(coherence, sparsity, smallest, largest, noise, beta)
    scale = jax.tree.map(lambda c, n: jnp.where(c != 0, 1 / n, 0), code, norms)
    below = layers[i + 1] if i + 1 < len(layers) else None
    error = recovery.error * _spread(dictionary, code, scale, below)
    error = jnp.where(support_size(dictionary, code) > 0, error, jnp.where(recovery.holds, 0, jnp.inf))
    found.append(LayerStability(coherence, sparsity, misfit, noise, recovery, error))
    noise = error
  return found


def _magnitudes(dictionary, code, norms):
  """Smallest and largest magnitude of the nonzero coefficients of unit atoms."""
  sizes = jax.tree.map(lambda c, n: jnp.abs(c) * n, code, norms)
  batch = jax.tree.leaves(sizes)[0].shape[: -dictionary.signal_ndim]
  flat = jnp.concatenate([size.reshape(*batch, -1) for size in jax.tree.leaves(sizes)], axis=-1)
  return jnp.min(jnp.where(flat > 0, flat, jnp.inf), axis=-1), jnp.max(flat, axis=-1)


def _spread(dictionary, code, scale, below):
  """Largest norm of a patch of errors of 1 on the support, on coefficients of unit atoms."""
  scale = join(scale)
  if below is None:
    axes = tuple(range(scale.ndim - dictionary.signal_ndim, scale.ndim))
    return jnp.sqrt(jnp.sum(jnp.square(scale), axis=axes))
  following, signal, _ = below
  if signal.shape == scale.shape:
    return patch_norm(following, scale)
  # Pooled: no error grows, and zeros stay zeros unless a negative coefficient changed sign.
  occupied = (signal != 0) | _every(jnp.any, join(code) < 0, dictionary.signal_ndim)
  return patch_norm(following, occupied * _every(jnp.max, scale, dictionary.signal_ndim))


def _every(reduce, array, ndim):
  return reduce(array, axis=tuple(range(array.ndim - ndim, array.ndim)), keepdims=True)
