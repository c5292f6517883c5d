"""Certificates: what the theory guarantees for a layered pursuit or a trained network, as a table."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import (
  Code,
  CodedLayer,
  Dictionary,
  check_dictionary,
  check_one_per_dictionary,
  join,
  mutual_coherence,
  with_methods,
)
from cscjax.ops import highest_precision
from cscjax.solvers import layered_thresholding
from cscjax.theory._certificate import Certificate, CertificateRow, FailedCondition
from cscjax.theory._lasso_stability import ActiveSet, Stability, stability
from cscjax.theory._layered_recovery import LayerRecovery, layered_recovery
from cscjax.theory._lemmas import is_unique, uniqueness_bound
from cscjax.theory._stability import SOLVERS, ZERO_ATOMS, LayerStability, layered_stability, per_signal

_coherence = jax.jit(mutual_coherence, static_argnames="signal_shape")
_stability = jax.jit(layered_stability, static_argnames="solver")


@runtime_checkable
class Pursuable(Protocol):
  """A network whose forward pass is a pursuit, with its parameters bound (Flax: `model.bind(...)`)."""

  def pursuit_layers(self, x: jax.Array) -> Sequence[CodedLayer]:
    """Returns the layers that the network computes for a batch of signals.

    Args:
      x: The signals, batch axis first.

    Returns:
      One `CodedLayer` (dictionary, signal, code) per layer, in order.
    """
    ...


@highest_precision
def certify(
  dictionaries: Sequence[Dictionary] | Pursuable,
  x: ArrayLike,
  noise: float,
  *,
  betas: Sequence[ArrayLike] | None = None,
  codes: Sequence[Code] | None = None,
  solver: str = "thresholding",
) -> Certificate:
  """Certifies the uniqueness and the stability of the code of every layer.

  For each layer, the certificate states the mutual coherence, the stripe sparsity, whether the code is
  unique (Lemma 1) and how far noise can move the codes of layered thresholding (Theorem 10 of Papyan et
  al. 2017) and layered BP (Theorem 12).

  The bounds concern known codes, such as those that a signal was synthesized from: x = D_1 code_1,
  code_1 = D_2 code_2, ... From x + E with ||E||^P_{2,inf} <= noise, layered thresholding or BP over the
  atoms, scaled to unit norm, finds these codes up to the errors in the table. The difference between x
  and D_1 code_1 counts as noise.

  With unit atoms, nonzero codes that BP computes from x are therefore never certified for BP at the same
  betas: the residual of a Lasso solution has an inner product of magnitude beta with each atom in use,
  so it counts as noise of at least beta, whereas BP requires beta >= 3 noise. Without `codes`, these
  conditions mainly show by how much they fail.

  Codes that are given and explain their signals up to the noise are planted: synthesized, and not
  computed by a pursuit. Weaker conditions than those of Theorem 12 then suffice, for this one code. For
  noise with ||E||_2 <= noise, the table has the error of layered BP by `recovery`, and the name of the
  strongest condition that holds, such as "dual certificate". Without `betas`, the error is the limit for
  the smallest penalty that this condition allows.

  The codes of layered BP (`betas` with `solver="bp"`) have a bound of another kind, by `stability` of
  this signal, for noise with ||E||_2 <= noise: the bound on the change of the code of one layer, and
  what rounding adds, is the noise of the next. It concerns the code of x, for the atoms and penalties as
  they are, and is finite for many photographs.

  All other conditions are sufficient, and they cover the worst case. For a trained network usually none
  holds, because its atoms are coherent and its codes are dense.

  Args:
    dictionaries: The dictionaries D_1, ..., D_k, or a network with a method `pursuit_layers`.
    x: At least one signal, of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in
      three, [..., n] for a dense dictionary).
    noise: eps_0 >= 0, the bound on ||E||^P_{2,inf}, the largest norm of the noise in a patch (or on
      ||E||_2, where stated above).
    betas: The threshold or penalty of each layer for which the bounds are stated, one number per layer.
      By default, the values that the theorems choose. Without noise, there is none for layered BP, which
      requires beta > 0.
    codes: The code of each layer, planted or computed before. If None, the codes are computed with
      `betas` and `solver`. It must be None for a network, which computes its own codes.
    solver: The solver that computes missing codes: "thresholding" (`layered_thresholding` with signed
      codes and steps 1) or "bp" (layered BP). The codes of layered BP are polished in float64, each for
      the exact code of the layer before, as in `stability`.

  Returns:
    A `Certificate`, which prints as a table.

  Raises:
    ValueError: If both `codes` and `betas` are missing, if a network is given `codes`, or if an argument
      has the wrong shape, is out of range or, for layered BP, traced.

  References:
    Zhang & Zhang, National Science Review 2020 (Lemma 1).
    Papyan, Romano & Elad, Convolutional neural networks analyzed via convolutional sparse coding, JMLR
    2017 (Theorems 10 and 12).
    See `recovery` and `stability` for the references of these bounds.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> D = cscjax.MatrixDictionary(jnp.eye(3))
    >>> code = jnp.array([0.0, 2.0, 0.0])
    >>> print(cscjax.certify([D], D.synthesis(code), noise=0.1, codes=[code]))
    noise 0.1
    layer     mu  stripe  bound  unique  misfit  thresholding    bp  recovery  fails
        1  0.000       1    inf     yes       0           0.2  0.75       0.2      -
    layer 1: strongest condition for recovery: coherence
  """
  checks.one_of("solver", solver, SOLVERS)
  noise = checks.in_range("noise", noise, 0)
  layers = _layers(dictionaries, x, betas, codes, solver)
  if betas is not None:
    _check_betas([layer.dictionary for layer in layers], betas)
  mu = [_coherence(d, signal_shape=signal.shape[-d.signal_ndim :]) for d, signal, _ in layers]
  found = [_stability(layers, noise, betas=betas, coherences=mu, solver=name) for name in SOLVERS]
  rows = [_row(i + 1, *statements) for i, statements in enumerate(zip(*found, strict=True))]
  if codes is not None:
    rows = _with_recovery(rows, layered_recovery(layers, noise, betas))
  if solver == "bp" and betas is not None and not isinstance(dictionaries, Pursuable):
    rows = _with_stability(rows, layers, noise, betas)
  return Certificate(noise, tuple(rows))


def _with_recovery(
  rows: Sequence[CertificateRow], found: Sequence[LayerRecovery]
) -> list[CertificateRow]:
  """Adds the recovery of the planted codes of the first layers."""
  changed = list(rows)
  for i, (row, result) in enumerate(zip(rows, found, strict=False)):
    failed = () if result.failed is None else (FailedCondition("recovery", *result.failed),)
    changed[i] = dataclasses.replace(
      row,
      recovery_error=result.error,
      recovery=result.strongest,
      conditions=row.conditions + failed,
    )
  return changed


def _with_stability(
  rows: Sequence[CertificateRow], layers: Sequence[CodedLayer], noise: float, betas: Sequence[ArrayLike]
) -> list[CertificateRow]:
  """Adds the stability of the codes of layered BP, each for the worst signal of the batch."""
  signal, found = layers[0].signal, []
  for row, (dictionary, _, code), beta in zip(rows, layers, betas, strict=True):
    result = _solution(dictionary, signal, beta, code)
    change, conditions = math.inf, row.conditions
    if math.isinf(noise):
      conditions += (FailedCondition("stability", "noise < inf", noise, math.inf),)
    else:
      change = float(_worst(result.bound(noise)))
      if math.isinf(change):
        conditions += (_independence(result.active_set(noise), signal.shape[-dictionary.signal_ndim :]),)
    error = change + float(_worst(result.error))
    found.append(dataclasses.replace(row, conditions=conditions, stability_error=error))
    signal, noise = _joined(result), change + float(_worst(result.code_error))
  return found


def _solution(
  dictionary: Dictionary, signal: ArrayLike, beta: ArrayLike, code: Code | None = None
) -> Stability:
  """Returns the stability of a layer for penalties that are scalars or one per signal."""
  axes = np.ndim(signal) - dictionary.signal_ndim
  per_signal("betas", beta, np.shape(signal)[:axes])  # raises, if the shape does not fit
  penalties = jax.tree.map(
    lambda part: np.reshape(beta, np.shape(beta) + (1,) * (part.ndim - axes)),
    jax.eval_shape(dictionary.analysis, jnp.asarray(signal)),
  )
  return stability(dictionary, signal, penalties, code)


def _joined(result: Stability) -> np.ndarray:
  """Returns the solution of a layer as the signal of the next one, in float64."""
  return np.concatenate(jax.tree.leaves(result.code), axis=-1)


def _independence(active: ActiveSet, shape: Sequence[int]) -> FailedCondition:
  """Returns the condition that fails if the atoms that may be active are linearly dependent."""
  atoms, samples = _worst(active.atoms), math.prod(shape)
  if atoms > samples:
    return FailedCondition("stability", "atoms that may be active <= samples", float(atoms), samples)
  return FailedCondition("stability", "0 < s of the atoms that may be active", 0.0, 0.0)


def _row(layer: int, thresholding: LayerStability, bp: LayerStability) -> CertificateRow:
  """Summarizes the stability of one layer over the batch by its worst values."""
  sparsity, coherence = _worst(thresholding.sparsity), thresholding.coherence
  bound = uniqueness_bound(coherence)
  sparse = bool(is_unique(sparsity, coherence))
  failed = (
    [] if sparse else [FailedCondition("uniqueness", "stripe < bound", float(sparsity), float(bound))]
  )
  statements = {"uniqueness": {ZERO_ATOMS: thresholding.recovery.conditions[ZERO_ATOMS]}}
  statements |= {"thresholding": thresholding.recovery.conditions, "bp": bp.recovery.conditions}
  for statement, conditions in statements.items():
    for text, condition in conditions.items():
      if not np.all(condition.holds):
        left, right = np.broadcast_arrays(condition.left, condition.right)
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, which argmax takes as largest
          off = np.argmax(np.where(condition.holds, -np.inf, left - right))
        failed.append(FailedCondition(statement, text, float(left.flat[off]), float(right.flat[off])))
  return CertificateRow(
    layer=layer,
    coherence=float(coherence),
    sparsity=int(sparsity),
    uniqueness_bound=float(bound),
    unique=not any(condition.statement == "uniqueness" for condition in failed),
    misfit=float(_worst(thresholding.misfit)),
    thresholding_error=float(_worst(thresholding.error)),
    bp_error=float(_worst(bp.error)),
    conditions=tuple(failed),
  )


def _layers(
  dictionaries: Sequence[Dictionary] | Pursuable,
  x: ArrayLike,
  betas: Sequence[ArrayLike] | None,
  codes: Sequence[Code] | None,
  solver: str,
) -> Sequence[CodedLayer]:
  """Returns the layers of a network, or those of the dictionaries with given or computed codes."""
  x = checks.real_array("x", x)
  if not x.size:
    checks.fail("x", x.shape, "at least one signal")
  if isinstance(dictionaries, Pursuable):
    if codes is not None:
      checks.fail("codes", type(codes).__name__, "None for a network, which computes its own codes")
    return dictionaries.pursuit_layers(x)
  check_one_per_dictionary(dictionaries)
  for dictionary in dictionaries:
    check_dictionary(dictionary)
  if codes is None:
    if betas is None:
      checks.fail("codes", None, "one code per dictionary, or betas to compute them")
    _check_betas(dictionaries, betas)
    codes = _codes(dictionaries, x, betas, solver)
  check_one_per_dictionary(dictionaries, codes=codes)
  layers, signal = [], x
  for dictionary, code in zip(dictionaries, codes, strict=True):
    jax.eval_shape(dictionary.residual, code, signal)  # raises if the shapes do not match
    layers.append(CodedLayer(with_methods(dictionary), signal, code))
    signal = join(code)
  return layers


def _check_betas(dictionaries: Sequence[Dictionary], betas: Sequence[ArrayLike]) -> None:
  """Raises ValueError unless there is an array of nonnegative numbers for each dictionary."""
  check_one_per_dictionary(dictionaries, betas=betas)
  checks.all_at_least("betas", list(betas), 0)
  for beta in betas:  # not a relative penalty, whose leaves are numbers
    checks.real_array("betas", beta)


def _codes(
  dictionaries: Sequence[Dictionary], x: ArrayLike, betas: Sequence[ArrayLike], solver: str
) -> list[Any]:
  """Computes the code of every layer with the chosen solver."""
  if solver == "bp":
    signal, codes = x, []
    for dictionary, beta in zip(dictionaries, betas, strict=True):
      result = _solution(dictionary, signal, beta)
      signal = _joined(result)
      codes.append(result.code)
    return codes
  steps = [1.0] * len(dictionaries)
  return layered_thresholding(dictionaries, x, betas, steps=steps)


def _worst(values: ArrayLike) -> Any:
  """Largest value over the batch."""
  return np.max(np.asarray(values))
