"""What the theory guarantees of a pursuit or a trained network, layer by layer, as a table."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
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
)
from cscjax.ops import highest_precision
from cscjax.solvers import layered_bp, layered_thresholding
from cscjax.theory._lemmas import is_unique, uniqueness_bound
from cscjax.theory._stability import SOLVERS, ZERO_ATOMS, LayerStability, layered_stability

_coherence = jax.jit(mutual_coherence, static_argnames="signal_shape")
_stability = jax.jit(layered_stability, static_argnames="solver")


@runtime_checkable
class Pursuable(Protocol):
  """A network whose forward pass is a pursuit, with its parameters in it (Flax: `model.bind(...)`)."""

  def pursuit_layers(self, x: jax.Array) -> Sequence[CodedLayer]:
    """The layers for a batch x, from the first on."""
    ...


@dataclasses.dataclass(frozen=True)
class FailedCondition:
  """A condition that does not hold for a layer; over a batch, for the signal that is furthest off.

  Attributes:
    statement: Which statement needs it: "uniqueness", "thresholding" or "bp".
    text: The condition, such as "3 noise <= beta".
    left: Value of its left side.
    right: Value of its right side.
  """

  statement: str
  text: str
  left: float
  right: float

  def __str__(self) -> str:
    return f"{self.statement} needs {self.text}: {self.left:.3g} against {self.right:.3g}"


@dataclasses.dataclass(frozen=True)
class CertificateRow:
  """One layer; over a batch, the worst of its signals.

  Attributes:
    layer: Number of the layer, from 1.
    coherence: mu(D) for this size of signal.
    sparsity: Nonzeros in the densest stripe.
    uniqueness_bound: (1 + 1/mu) / 2, which the sparsity has to stay below.
    unique: Whether it does, and the code uses no atom that is zero.
    misfit: ||signal - D code||^P_{2,inf}.
    thresholding_error: eps_i of layered thresholding, see `layered_stability`; inf where a condition
      fails here or in a layer below.
    bp_error: Likewise of layered BP.
    conditions: The conditions that fail, with both sides.
  """

  layer: int
  coherence: float
  sparsity: int
  uniqueness_bound: float
  unique: bool
  misfit: float
  thresholding_error: float
  bp_error: float
  conditions: tuple[FailedCondition, ...] = ()

  @property
  def failed(self) -> tuple[str, ...]:
    """Which statements do not hold: "uniqueness", "thresholding", "bp"."""
    bounds = {"thresholding": self.thresholding_error, "bp": self.bp_error}
    unbounded = (name for name, error in bounds.items() if not math.isfinite(error))
    return (() if self.unique else ("uniqueness",)) + tuple(unbounded)


@dataclasses.dataclass(frozen=True, repr=False)
class Certificate:
  """What `certify` found; printed, a table, and below it the conditions that fail.

  Attributes:
    noise: eps_0.
    rows: One for each layer.
  """

  noise: float
  rows: tuple[CertificateRow, ...]

  def __repr__(self) -> str:
    head = ("layer", "mu", "stripe", "bound", "unique", "misfit", "thresholding", "bp", "fails")
    cells: list[tuple[str, ...]] = [head]
    for row in self.rows:
      numbers = (row.misfit, row.thresholding_error, row.bp_error)
      unique = "yes" if row.unique else "no"
      left = (str(row.layer), f"{row.coherence:.3f}", str(row.sparsity), f"{row.uniqueness_bound:.2f}")
      cells.append((*left, unique, *(f"{n:.3g}" for n in numbers), ", ".join(row.failed) or "-"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    reasons = [f"layer {row.layer}: {condition}" for row in self.rows for condition in row.conditions]
    return "\n".join([f"noise {self.noise:.3g}", *lines, *reasons])


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
  """Coherence, local sparsity, uniqueness and stability of every layer (Lemma 1; Papyan et al. 2017).

  The bounds are about codes that are known, such as those a signal was made of: x = D_1 code_1,
  code_1 = D_2 code_2, ... Read them as: from x + E with ||E||^P_{2,inf} <= noise layered thresholding or
  BP over the atoms, scaled to unit norm, finds these codes up to the errors of the table. What x has
  beside D_1 code_1 counts as noise.

  That is why codes which a pursuit made from x are never certified at the pursuit's own betas: what a
  penalty beta leaves of the signal has an inner product of beta with each atom in use, so that it is
  noise of beta at least, and BP needs a beta of three times the noise. Without `codes` expect to read
  which conditions fail, and by how much. Bounds are sufficient conditions in the worst case, and of a
  trained network usually none holds: its atoms are coherent and its codes dense.

  Args:
    dictionaries: D_1 ... D_k, or a network.
    x: Signals, batch axes first, one at least.
    noise: eps_0 >= 0.
    betas: Threshold or penalty of each layer, one number for each, for which the bounds are; without
      them they are for those that the theorems choose. Layered BP has none to choose where there is no
      noise, as it needs beta > 0.
    codes: The code of each layer. Where they are missing, `betas` make them; a network brings its own.
    solver: By which codes are made: "thresholding" (`layered_thresholding`, signed, steps 1) or "bp"
      (`layered_bp`).

  Returns:
    A `Certificate`, which prints as a table.

  Raises:
    ValueError: If neither codes nor betas are there, a network gets codes, or an argument does not fit.

  Example:
    >>> D = cscjax.MatrixDictionary(jnp.eye(3))
    >>> code = jnp.array([0.0, 2.0, 0.0])
    >>> print(cscjax.certify([D], D.synthesis(code), noise=0.1, codes=[code]))
    noise 0.1
    layer     mu  stripe  bound  unique  misfit  thresholding    bp  fails
        1  0.000       1    inf     yes       0           0.2  0.75      -
  """
  checks.one_of("solver", solver, SOLVERS)
  noise = checks.in_range("noise", noise, 0)
  layers = _layers(dictionaries, x, betas, codes, solver)
  if betas is not None:
    check_one_per_dictionary([layer.dictionary for layer in layers], betas=betas)
    checks.all_at_least("betas", list(betas), 0)
  mu = [_coherence(d, signal_shape=signal.shape[-d.signal_ndim :]) for d, signal, _ in layers]
  found = [_stability(layers, noise, betas=betas, coherences=mu, solver=name) for name in SOLVERS]
  rows = [_row(i + 1, *statements) for i, statements in enumerate(zip(*found, strict=True))]
  return Certificate(noise, tuple(rows))


def _row(layer: int, thresholding: LayerStability, bp: LayerStability) -> CertificateRow:
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
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, the first to be found
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


def _layers(dictionaries, x, betas, codes, solver) -> Sequence[CodedLayer]:
  x = checks.real_array("x", x)
  if not x.size:
    checks.fail("x", x.shape, "one signal at least")
  if isinstance(dictionaries, Pursuable):
    if codes is not None:
      checks.fail("codes", "codes", "none for a network, which brings its own")
    return dictionaries.pursuit_layers(x)
  check_one_per_dictionary(dictionaries)
  for dictionary in dictionaries:
    check_dictionary(dictionary)
  if codes is None:
    if betas is None:
      checks.fail("codes", None, "one for each dictionary, or betas to make them")
    codes = _code(dictionaries, x, betas, solver)
  check_one_per_dictionary(dictionaries, codes=codes)
  layers, signal = [], x
  for dictionary, code in zip(dictionaries, codes, strict=True):
    jax.eval_shape(dictionary.residual, code, signal)  # raises where they do not fit
    layers.append(CodedLayer(dictionary, signal, code))
    signal = join(code)
  return layers


def _code(dictionaries, x, betas, solver) -> list[Any]:
  if solver == "bp":
    return layered_bp(dictionaries, x, betas).codes
  steps = [1.0] * len(dictionaries)
  return layered_thresholding(dictionaries, x, betas, steps=steps)


def _worst(values) -> Any:
  return np.max(np.asarray(values))
