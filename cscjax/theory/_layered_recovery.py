"""The recovery of the planted codes of several layers: `recovery`, one layer after the other."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cscjax.dictionaries import Code, CodedLayer, Dictionary, as_signal, atom_norms
from cscjax.theory._float64 import flatten
from cscjax.theory._recovery import recovery
from cscjax.theory._recovery_conditions import RecoveryCondition

ROUNDING = 100  # rounding errors that the synthesis of a signal may have, relative to its norm


class LayerRecovery(NamedTuple):
  """The recovery of the planted code of one layer, for the worst signal of a batch.

  Attributes:
    error: An upper bound on the Euclidean distance from the planted code to that of layered BP; inf if
      no condition holds.
    strongest: The name of the condition that gives the bound; None if no condition holds.
    failed: What fails if no condition holds, for the weakest of them, the dual certificate: the text of
      an inequality, and its two sides.
  """

  error: float
  strongest: str | None
  failed: tuple[str, float, float] | None


def layered_recovery(
  layers: Sequence[CodedLayer], noise: float, betas: Sequence[ArrayLike] | None
) -> list[LayerRecovery]:
  """Bounds the error of layered BP for planted codes, for noise of the given Euclidean norm.

  The bound of a layer is the noise of the next. A code that does not explain its signal up to `noise`,
  or up to rounding, is not planted; the list ends before it. What it does not explain counts as noise.

  Args:
    layers: The layers in order, with planted codes.
    noise: The bound on the Euclidean norm of the noise of the signals.
    betas: For each layer the penalty for coefficients of unit atoms: a scalar, or one value per signal.
      By default, each bound is for the smallest penalties that its condition allows.
  """
  found: list[LayerRecovery] = []
  change = np.asarray(noise, np.float64)
  for i, (dictionary, signal, code) in enumerate(layers):
    signal = as_signal(dictionary, signal)
    ndim = signal.ndim - dictionary.signal_ndim
    batch, shape = signal.shape[:ndim], signal.shape[ndim:]
    misfit = _norms(dictionary.residual(code, signal), batch)
    rounding = ROUNDING * float(jnp.finfo(signal.dtype).eps) * _norms(signal, batch)
    if not np.all(misfit <= noise + rounding):  # also for NaN
      break
    norms = flatten(atom_norms(dictionary, shape))
    levels = np.broadcast_to(change + misfit, batch)
    penalties = None if betas is None else np.broadcast_to(np.asarray(betas[i], np.float64), batch)
    results = []
    for index in np.ndindex(batch):
      planted = jax.tree.map(lambda part, index=index: np.asarray(part)[index], code)
      beta = None if penalties is None else float(penalties[index])
      results.append(_recovered(dictionary, planted, shape, norms, float(levels[index]), beta))
    found.append(max(results, key=lambda result: result.error))
    change = np.reshape([result.error for result in results], batch)
  return found


def _recovered(
  dictionary: Dictionary,
  code: Code,
  shape: tuple[int, ...],
  norms: np.ndarray,
  noise: float,
  beta: float | None,
) -> LayerRecovery:
  """Returns the recovery of the code of one signal, in coefficients of the atoms as they are."""
  if noise == math.inf:
    return LayerRecovery(math.inf, None, ("noise < inf", noise, math.inf))
  if beta == 0:
    return LayerRecovery(math.inf, None, ("0 < beta", 0.0, beta))
  result = recovery(dictionary, code, shape, noise=noise, beta=beta)
  if result.strongest is None:
    return LayerRecovery(math.inf, None, _failed(result.conditions["dual certificate"], beta))
  used = norms > 0
  if result.strongest != "encoder gap":  # the other conditions keep the support
    used &= flatten(code) != 0
  error = result.error / float(np.min(norms[used], initial=math.inf))
  return LayerRecovery(error, result.strongest, None)


def _failed(row: RecoveryCondition, beta: float | None) -> tuple[str, float, float]:
  """Returns the inequality of the dual certificate that fails."""
  low, high = row.betas
  if row.value >= row.limit:
    return row.text, row.value, row.limit
  if beta is None or not low < high:  # without a penalty, the condition holds unless this is empty
    return "smallest beta < largest beta of the signs", low, high
  if beta <= low:
    return "smallest beta of the signs < beta", low, beta
  return "beta < largest beta of the signs", beta, high


def _norms(signals: jax.Array, batch: tuple[int, ...]) -> np.ndarray:
  """Returns the Euclidean norms of signals [batch..., ...]."""
  flat = np.asarray(signals, np.float64).reshape(*batch, -1)
  return np.linalg.norm(flat, axis=-1)
