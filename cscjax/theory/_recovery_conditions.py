"""Conditions for the recovery of a planted code by the Lasso, and the bounds that follow from each."""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from cscjax.theory._planted import PlantedSupport

ROUNDING = 1e-13  # relative rounding error of the coherence and of sums of cosines


@dataclasses.dataclass(frozen=True)
class RecoveryCondition:
  """A condition for the recovery of a planted code, and what follows from it.

  Attributes:
    text: The condition, such as "mu_1(k - 1) + mu_1(k) < 1".
    value: The left side.
    limit: The right side.
    betas: The open interval of the penalties for which the conclusion holds. It is (inf, 0) if the
      condition fails, and also empty if the noise is too strong for any penalty.
    holds: Whether the interval contains the penalty, or is not empty if no penalty was given.
    error: An upper bound on the Euclidean distance from the solution of the Lasso to the planted code,
      in coefficients of unit atoms; inf if `holds` is False. If no penalty was given, it is the limit of
      the bound as the penalty decreases to the lower end of the interval.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> D = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> found = cscjax.theory.recovery(D, jnp.array([0.0, 2.0, 0.0]), noise=0.1)
    >>> row = found.conditions["exact recovery"]
    >>> row.holds, round(row.value, 3), [round(end, 3) for end in row.betas], round(row.error, 3)
    (True, 0.8, [0.3, inf], 0.4)
  """

  text: str
  value: float
  limit: float
  betas: tuple[float, float]
  holds: bool
  error: float


@dataclasses.dataclass(frozen=True)
class RecoveryBounds:
  """The conclusions for a code with k nonzeros; none if it uses a zero atom, and is not usable."""

  k: int
  noise: float
  beta: float | None
  usable: bool

  def by_cosines(
    self, text: str, value: float, limit: float, inside: float, outside: float
  ) -> RecoveryCondition:
    """Bounds by the sums of k - 1 and k cosines: those inside the support, and of an outer atom."""
    smallest = 1 - inside
    holds = value < limit * (1 - ROUNDING)
    low = self.noise * smallest / (smallest - outside) if holds else math.inf
    return self._condition(text, value, limit, (low, math.inf), *self._slopes(smallest))

  def by_stripes(self, value: float, limit: float) -> RecoveryCondition:
    """Bounds as `bp_recovery`, of which each coefficient has an error of 1.5 (beta + noise)."""
    low = 3 * self.noise if value < limit * (1 - ROUNDING) else math.inf
    slope = 1.5 * math.sqrt(self.k)
    return self._condition("3 s mu < 1 + mu", value, limit, (low, math.inf), slope, slope)

  def by_support(self, planted: "PlantedSupport") -> RecoveryCondition:
    """Bounds by the exact recovery condition.

    The solution on S has the residual r = (I - P) e + beta (U_S^+)^T g, where P projects onto the atoms
    in S and |g| <= 1, so that |u_j^T r| <= distance_j noise + beta ||U_S^+ u_j||_1.
    """
    value = planted.largest(planted.exact)
    low = self._lowest_beta(planted, planted.exact)
    text = "max ||U_S^+ u_j||_1 < 1"
    return self._condition(text, value, 1.0, (low, math.inf), *self._slopes(planted.smallest))

  def by_signs(self, planted: "PlantedSupport", sizes: np.ndarray) -> RecoveryCondition:
    """Bounds by the dual certificate: the same with g = sign, as long as no sign changes."""
    value = planted.largest(planted.dual)
    betas = self._betas_of_signs(planted, sizes, self.noise)
    moves, shrinks = self._gain(planted.smallest), float(np.linalg.norm(planted.shrinkage))
    return self._condition("max |u_j^T (U_S^+)^T sign| < 1", value, 1.0, betas, moves, shrinks)

  def by_encoder_gap(
    self, planted: "PlantedSupport", sizes: np.ndarray, width: int, isometry: float
  ) -> RecoveryCondition:
    """Bounds the distance to the solution without noise, which the dual certificate provides."""
    low, high = self._betas_of_signs(planted, sizes, 0.0)
    largest = np.sort(planted.dual)[::-1][width - self.k :]
    if low < high and len(largest):
      low = max(low, self.noise / (1 - float(largest[0])))
    if isometry >= 1 - ROUNDING:
      low = math.inf
    moves, shrinks = self._gain(1 - isometry), float(np.linalg.norm(planted.shrinkage))
    text = f"mu_1(s - 1) < 1 for s = {width}, and tau_s > noise"
    return self._condition(text, isometry, 1.0, (low, high), moves, shrinks)

  def _betas_of_signs(
    self, planted: "PlantedSupport", sizes: np.ndarray, noise: float
  ) -> tuple[float, float]:
    """Returns the penalties for which support and signs stay, for all noise of this norm.

    The coefficient of an atom in S times its sign is at least margin - beta slope.
    """
    low = dataclasses.replace(self, noise=noise)._lowest_beta(planted, planted.dual)
    if not math.isfinite(low):
      return math.inf, 0.0
    margins, slopes = sizes - noise * planted.gains, planted.shrinkage
    positive, negative = slopes > 0, slopes < 0
    if np.any(margins[slopes == 0] <= 0):
      return math.inf, 0.0
    high = float(np.min(margins[positive] / slopes[positive], initial=np.inf))
    low = float(np.max(margins[negative] / slopes[negative], initial=low))
    return low, high

  def _lowest_beta(self, planted: "PlantedSupport", values: np.ndarray) -> float:
    """Returns the penalty above which no atom outside S becomes active: inf if a value reaches 1."""
    room = 1 - values - planted.rounding
    if planted.smallest == 0 or np.any(room <= 0):
      return math.inf
    return float(np.max(self.noise * planted.distances / room, initial=0))

  def _gain(self, smallest: float) -> float:
    """Returns ||U_S^+|| for the smallest eigenvalue of the Gram matrix."""
    return 1 / math.sqrt(smallest) if smallest > 0 else math.inf

  def _slopes(self, smallest: float) -> tuple[float, float]:
    """Returns how the distance on S grows with the noise and with beta: ||U_S^+ e + beta G^-1 g||."""
    gain = self._gain(smallest)
    return gain, math.sqrt(self.k) * gain**2

  def _condition(
    self,
    text: str,
    value: float,
    limit: float,
    betas: tuple[float, float],
    moves: float,
    shrinks: float,
  ) -> RecoveryCondition:
    """Combines a condition and its bound, noise * moves + beta * shrinks."""
    low, high = betas if self.usable and betas[0] < betas[1] else (math.inf, 0.0)
    holds = low < high and (self.beta is None or low < self.beta < high)
    error = math.inf
    if holds:
      error = self.noise * moves + (low if self.beta is None else self.beta) * shrinks
    return RecoveryCondition(text, float(value), limit, (low, high), holds, error)
