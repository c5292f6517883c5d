"""What the theory guarantees of a pursuit or a trained network, layer by layer, as a table."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, join, mutual_coherence
from cscjax.solvers import layered_bp, layered_thresholding
from cscjax.solvers.arguments import check_lengths
from cscjax.theory.stability import METHODS, layered_stability
from cscjax.theory.uniqueness import is_unique, uniqueness_bound

_coherence = jax.jit(mutual_coherence, static_argnames="signal_shape")
_stability = jax.jit(layered_stability, static_argnames="method")


@runtime_checkable
class Pursuable(Protocol):
  """A network whose forward pass is a pursuit, with its parameters in it (Flax: `model.bind(...)`)."""

  def pursuit_layers(self, x: jax.Array) -> Sequence[tuple[Dictionary, jax.Array, Code]]:
    """Each layer's dictionary, input signal and code for a batch x."""
    ...


@dataclasses.dataclass(frozen=True)
class CertificateRow:
  """One layer; over a batch, the worst of its signals.

  Attributes:
    layer: From 1.
    coherence: mu(D) for this size of signal.
    sparsity: Nonzeros in the densest stripe.
    uniqueness_bound: (1 + 1/mu) / 2, which the sparsity has to stay below.
    unique: Whether it does.
    misfit: ||signal - D code||^P_{2,inf}.
    thresholding_error: eps_i of layered thresholding, see `layered_stability`; inf where a condition
      fails here or in a layer below.
    bp_error: Likewise of layered BP.
  """

  layer: int
  coherence: float
  sparsity: int
  uniqueness_bound: float
  unique: bool
  misfit: float
  thresholding_error: float
  bp_error: float

  @property
  def failed(self) -> tuple[str, ...]:
    """Which statements do not hold: "uniqueness", "thresholding", "bp"."""
    bounds = {"thresholding": self.thresholding_error, "bp": self.bp_error}
    unbounded = (name for name, error in bounds.items() if not math.isfinite(error))
    return (() if self.unique else ("uniqueness",)) + tuple(unbounded)


@dataclasses.dataclass(frozen=True)
class Certificate:
  """What `certify` found; printed, a small table.

  Attributes:
    noise: eps_0.
    rows: One a layer.
  """

  noise: float
  rows: tuple[CertificateRow, ...]

  def __str__(self) -> str:
    head = ("layer", "mu", "stripe", "bound", "unique", "misfit", "thresholding", "bp", "fails")
    cells: list[tuple[str, ...]] = [head]
    for row in self.rows:
      numbers = (row.misfit, row.thresholding_error, row.bp_error)
      unique = "yes" if row.unique else "no"
      left = (str(row.layer), f"{row.coherence:.3f}", str(row.sparsity), f"{row.uniqueness_bound:.2f}")
      cells.append((*left, unique, *(f"{n:.3g}" for n in numbers), ", ".join(row.failed) or "-"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    return "\n".join([f"noise {self.noise:.3g}", *lines])


def certify(
  dictionaries: Sequence[Dictionary] | Pursuable,
  x: ArrayLike,
  noise: float,
  *,
  betas: Sequence[ArrayLike] | None = None,
  codes: Sequence[Code] | None = None,
  method: str = "thresholding",
) -> Certificate:
  """Coherence, local sparsity, uniqueness and stability of every layer (Lemma 1; Papyan et al. 2017).

  Read as: were the input x + E with ||E||^P_{2,inf} <= noise instead, layered thresholding or BP over
  the atoms, scaled to unit norm, would find codes within the errors of the table. With noise 0, that
  they find the codes given. Bounds are sufficient conditions in the worst case, and of a trained network
  usually none holds: its atoms are coherent and its codes dense.

  Args:
    dictionaries: D_1 ... D_k, or a network.
    x: Signals, batch axes first.
    noise: eps_0 >= 0.
    betas: Threshold or penalty of each layer. With them the codes are made where none are given, and the
      bounds are for them; else for those that the theorems choose.
    codes: One a layer. For dictionaries either these or `betas` are needed; a network brings its own.
    method: By which codes are made: "thresholding" (`layered_thresholding`, signed, steps 1) or "bp"
      (`layered_bp`).

  Raises:
    ValueError: If neither codes nor betas are there, a network gets codes, or an argument does not fit.
  """
  checks.one_of("method", method, METHODS)
  noise = checks.in_range("noise", noise, 0)
  layers = _layers(dictionaries, x, betas, codes, method)
  mu = [_coherence(d, signal_shape=signal.shape[-d.signal_ndim :]) for d, signal, _ in layers]
  found = [_stability(layers, noise, betas=betas, coherences=mu, method=name) for name in METHODS]
  rows = []
  for i, (thresholding, bp) in enumerate(zip(*found, strict=True)):
    rows.append(
      CertificateRow(
        layer=i + 1,
        coherence=float(thresholding.coherence),
        sparsity=int(_worst(thresholding.sparsity)),
        uniqueness_bound=float(uniqueness_bound(thresholding.coherence)),
        unique=bool(is_unique(_worst(thresholding.sparsity), thresholding.coherence)),
        misfit=float(_worst(thresholding.misfit)),
        thresholding_error=float(_worst(thresholding.error)),
        bp_error=float(_worst(bp.error)),
      )
    )
  return Certificate(noise, tuple(rows))


def _layers(dictionaries, x, betas, codes, method) -> Sequence[tuple[Dictionary, jax.Array, Code]]:
  x = checks.real_array("x", x)
  if isinstance(dictionaries, Pursuable):
    if codes is not None:
      checks.fail("codes", "codes", "none for a network, which brings its own")
    return dictionaries.pursuit_layers(x)
  check_lengths(dictionaries)
  if codes is None:
    if betas is None:
      checks.fail("codes", None, "one for each dictionary, or betas to make them")
    codes = _code(dictionaries, x, betas, method)
  check_lengths(dictionaries, codes=codes)
  signals = [x, *(join(code) for code in codes[:-1])]
  return list(zip(dictionaries, signals, codes, strict=True))


def _code(dictionaries, x, betas, method) -> list[Any]:
  if method == "bp":
    return [result.code for result in layered_bp(dictionaries, x, betas)]
  steps = [1.0] * len(dictionaries)
  return layered_thresholding(dictionaries, x, betas, steps=steps, nonnegative=False)


def _worst(values) -> Any:
  return np.max(np.asarray(values))
