"""The table of `certify`: what holds for each layer, how much noise can change, and what fails."""

import dataclasses
import math

from cscjax.theory._table import table


@dataclasses.dataclass(frozen=True)
class FailedCondition:
  """A condition of a theorem that fails for a layer; in a batch, for the signal that misses it by most.

  Attributes:
    statement: The statement that requires the condition: "uniqueness", "thresholding", "bp",
      "recovery" or "stability".
    text: The condition, such as "3 noise <= beta".
    left: The value of the left side.
    right: The value of the right side.

  Example:
    >>> import cscjax
    >>> print(cscjax.theory.FailedCondition("bp", "3 noise <= beta", left=0.9, right=0.5))
    bp needs 3 noise <= beta: 0.9 vs 0.5
  """

  statement: str
  text: str
  left: float
  right: float

  def __str__(self) -> str:
    return f"{self.statement} needs {self.text}: {self.left:.3g} vs {self.right:.3g}"


@dataclasses.dataclass(frozen=True)
class CertificateRow:
  """The certificate of one layer; each field holds the worst value over the batch.

  Attributes:
    layer: The number of the layer, starting at 1.
    coherence: The mutual coherence mu(D) for the size of the layer's signal.
    sparsity: The number of nonzeros in the densest stripe of the code.
    uniqueness_bound: (1 + 1 / mu) / 2, the bound of Lemma 1.
    unique: Whether the sparsity is below that bound and the code uses no zero atom.
    misfit: ||signal - D code||^P_{2,inf}, the part of the signal that the code does not explain.
    thresholding_error: Upper bound on the error of this layer's code in layered thresholding; inf if a
      condition fails in this layer or a previous one. The error is measured in the norm ||.||^P_{2,inf}
      over the next layer's patches, and in the norm ||.||_2 for the last layer.
    bp_error: The same upper bound for layered BP.
    conditions: The conditions that fail, with the values of both sides.
    recovery_error: Upper bound on the Euclidean distance from the planted code to that of layered BP for
      the signal with noise, by `recovery` of this code; inf if it fails in this layer or a previous one,
      and None for codes that are not planted.
    recovery: The condition of `recovery` that gives this bound, the strongest of those that hold, such
      as "dual certificate"; None if none holds.
    stability_error: Upper bound on the Euclidean distance from the code to that of layered BP for the
      signal with noise, by `stability` of this signal; inf if it fails in this layer or a previous one,
      and None for codes that are not those of layered BP.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> D = cscjax.MatrixDictionary(jnp.eye(3))
    >>> code = jnp.array([0.0, 2.0, 0.0])
    >>> (row,) = cscjax.certify([D], D.synthesis(code), noise=0.1, codes=[code]).rows
    >>> row.unique, round(row.thresholding_error, 3), row.failed
    (True, 0.2, ())
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
  recovery_error: float | None = None
  recovery: str | None = None
  stability_error: float | None = None

  @property
  def failed(self) -> tuple[str, ...]:
    """The statements that do not hold, by the names of `FailedCondition.statement`."""
    return tuple(name for name, holds in self._statements().items() if not holds)

  @property
  def held(self) -> tuple[str, ...]:
    """The statements that hold, by the names of `FailedCondition.statement`."""
    return tuple(name for name, holds in self._statements().items() if holds)

  def _statements(self) -> dict[str, bool]:
    """Returns whether each statement that concerns the code holds."""
    bounds = {"thresholding": self.thresholding_error, "bp": self.bp_error}
    bounds |= {"recovery": self.recovery_error, "stability": self.stability_error}
    known = {name: math.isfinite(error) for name, error in bounds.items() if error is not None}
    return {"uniqueness": self.unique, **known}


@dataclasses.dataclass(frozen=True, repr=False)
class Certificate:
  """The result of `certify`. Its printed form is a table, followed by conditions that hold or fail.

  The columns of the table are fields of `CertificateRow`: `mu` is `coherence`, `stripe` is `sparsity`,
  `bound` is `uniqueness_bound`, and `fails` is `failed`; `thresholding`, `bp`, `recovery` and
  `stability` are upper bounds on errors.

  Attributes:
    noise: eps_0, the bound on the noise of the signals.
    rows: One row per layer.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> D = cscjax.MatrixDictionary(jnp.eye(3))
    >>> code = jnp.array([0.0, 2.0, 0.0])
    >>> certificate = cscjax.certify([D], D.synthesis(code), noise=0.1, codes=[code])
    >>> [row.unique for row in certificate.rows]
    [True]
  """

  noise: float
  rows: tuple[CertificateRow, ...]

  def __repr__(self) -> str:
    head = ["layer", "mu", "stripe", "bound", "unique", "misfit", "thresholding", "bp"]
    kinds = ("recovery", "stability")
    shown = [k for k in kinds if any(getattr(row, f"{k}_error") is not None for row in self.rows)]
    cells = [[*head, *shown, "fails"]]
    for row in self.rows:
      left = [str(row.layer), f"{row.coherence:.3f}", str(row.sparsity), f"{row.uniqueness_bound:.2f}"]
      errors = [row.thresholding_error, row.bp_error, *(getattr(row, f"{k}_error") for k in shown)]
      bounds = ["" if error is None else f"{error:.3g}" for error in errors]
      unique = "yes" if row.unique else "no"
      cells.append([*left, unique, f"{row.misfit:.3g}", *bounds, ", ".join(row.failed) or "-"])
    strongest = ((row.layer, row.recovery) for row in self.rows if row.recovery is not None)
    held = [f"layer {layer}: strongest condition for recovery: {name}" for layer, name in strongest]
    reasons = [f"layer {row.layer}: {condition}" for row in self.rows for condition in row.conditions]
    return "\n".join([f"noise {self.noise:.3g}", table(cells), *held, *reasons])
