"""The bound by the encoder gap: how far noise can move a code, by a constant of the whole dictionary."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from cscjax.dictionaries import Code, Dictionary
from cscjax.ops import highest_precision
from cscjax.theory._float64 import as_float64, float64_on_host
from cscjax.theory._lasso_stability import Stability, as_distances, as_levels, stability
from cscjax.theory._table import table

ROUNDING = 1e-12  # rounding error of a sum of cosines


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class EncoderGap:
  """The result of `encoder_gap`: the encoder gaps of each signal, and the bounds that they give.

  Attributes:
    stability: The certificate of the same codes by `stability`.
    gaps: The encoder gaps tau_0, tau_1, ..., an array [s, batch...]; see `Stability.encoder_gap`. They
      are 0 if the solution is not known to be unique.
    isometry: mu_1(s - 1) for the same s, an upper bound on the constant eta_s of restricted isometry.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> found = cscjax.theory.encoder_gap(dictionary, jnp.array([2.0, 0.1]), beta=0.5)
    >>> [round(float(gap), 3) for gap in found.gaps]
    [0.0, 0.12, 0.4]
    >>> [round(float(isometry), 3) for isometry in found.isometry]
    [0.0, 0.0, 0.8]
  """

  stability: Stability
  gaps: np.ndarray
  isometry: np.ndarray
  _slopes: np.ndarray

  def __repr__(self) -> str:
    rows: list[tuple[str, ...]] = [("s", "mu_1(s - 1)", "smallest tau_s", "largest tau_s")]
    finite = np.flatnonzero(np.isfinite(self._slopes))
    for s in finite:
      ends = (np.min(self.gaps[s], initial=np.inf), np.max(self.gaps[s], initial=0))
      rows.append((str(s), f"{self.isometry[s]:.3g}", *(f"{end:.3g}" for end in ends)))
    return table(rows)

  def bound(self, noise: ArrayLike) -> np.ndarray:
    """Bounds the change of the solution, ||solution(x + e) - solution(x)||_2, for all ||e||_2 <= noise.

    Args:
      noise: Levels of the noise, >= 0: a scalar or an array of any shape.

    Returns:
      The bounds, an array [levels..., batch...]; inf where nothing is known.

    Raises:
      ValueError: If a level is negative or not finite.
    """
    levels = as_levels(noise)
    batch = self.gaps.ndim - 1
    column = levels.reshape(-1, *(1,) * batch)
    per_size = (len(self.gaps), *(1,) * (batch + 1))
    slopes = np.where(self.gaps[:, None] > column, self._slopes.reshape(per_size), np.inf)
    slope = np.min(slopes, axis=0)
    bounds = np.where(slope < np.inf, column * np.where(slope < np.inf, slope, 0), np.inf)
    return bounds.reshape((*levels.shape, *self.gaps.shape[1:]))[()]

  def radius(self, distance: ArrayLike) -> np.ndarray:
    """Returns the noise below which the solution moves by less than a distance: the inverse of `bound`.

    Args:
      distance: A Euclidean distance of codes for each signal, an array that broadcasts to [batch...].

    Returns:
      The largest noise below which `bound` is less than the distance, an array [batch...]: 0 if there is
      none, and inf if the bound is less for all noise.

    Raises:
      ValueError: If a distance is not finite, or if the shape does not fit.
    """
    distances = as_distances(distance, self.gaps.shape[1:])
    slopes = self._slopes.reshape(-1, *(1,) * distances.ndim)
    reached = np.divide(distances, slopes, out=np.full(self.gaps.shape, np.inf), where=slopes > 0)
    radii = np.minimum(self.gaps, np.where(distances > 0, reached, 0))
    return np.max(radii, axis=0)[()]


@highest_precision
def encoder_gap(
  dictionary: Dictionary,
  x: ArrayLike,
  beta: Any,
  code: Code | None = None,
  *,
  nonnegative: Any = False,
) -> EncoderGap:
  """Bounds how far noise in a signal can move its sparse code, by the encoder gap and the coherence.

  The code is the solution gamma(x) of min 1/2 ||x - D code||^2 + sum_j beta_j |code_j|. The encoder gap
  tau_s is the (s + 1)-th smallest of (beta_j - |d_j^T r|) / ||d_j||, where r = x - D gamma(x). The
  constant eta_s of restricted isometry bounds the eigenvalues of the Gram matrix of any s unit atoms
  from below by 1 - eta_s. Sulam, Muthukumar & Arora (2020) bound the change of the code for unit atoms:

      ||gamma(x + e) - gamma(x)|| <= ||e|| / sqrt(1 - eta_s)   if 2 ||e|| <= tau_s and eta_s < 1.

  The condition ||e|| < tau_s suffices, and is the one that is used here. Proof: the residual moves by at
  most ||e||, as it is a projection of the signal, so the atoms that are active at x or at x + e are in
  one set of s atoms (statements A and B of `cscjax.theory`). Both reconstructions differ by at most
  ||e||, and on s atoms this is at least sqrt(1 - eta_s) times the distance of the codes.

  eta_s is hard to compute; it is bounded by the Babel function mu_1(s - 1), from Gershgorin's theorem.
  If the atoms are not of unit norm, the bound is divided by the smallest norm of an atom.

  The bound of `stability` is never larger: it has the singular value of the atoms that may be active in
  the place of sqrt(1 - eta_s), which concerns all sets of s atoms. `encoder_gap` is for comparison.

  Args:
    dictionary: The dictionary D, of any kind.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    beta: Penalty, nonnegative: a scalar, one value per channel [m], or an array that broadcasts against
      the code. A code of several parts takes one value for all parts, or one for each part.
      `cscjax.relative(0.1)` is a tenth of `beta_max` for each signal.
    code: A code near the solution, of the shape of `dictionary.analysis(x)`, to start from. By default
      the problem is solved.
    nonnegative: Whether the code is constrained to be nonnegative: a bool, or an array of bools, one per
      channel [m] or of any shape that broadcasts against the code. A code of several parts takes one
      value for all parts, or one for each part.

  Returns:
    An `EncoderGap`, with the method `bound(noise)`.

  Raises:
    ValueError: If shapes do not fit, a value is out of range, `x` or `code` is not finite, or an
      argument is traced by `jax.jit` or another transformation.

  References:
    Sulam, Muthukumar & Arora, Adversarial robustness of supervised sparse coding, NeurIPS 2020.
    Tropp, Greed is good: algorithmic results for sparse approximation, IEEE Transactions on Information
    Theory 2004 (Babel function).

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> found = cscjax.theory.encoder_gap(dictionary, jnp.array([2.0, 0.1]), beta=0.5)
    >>> found
    s  mu_1(s - 1)  smallest tau_s  largest tau_s
    0            0               0              0
    1            0            0.12           0.12
    2          0.8             0.4            0.4
    >>> [round(float(bound), 3) for bound in found.bound([0.1, 0.2, 0.5])]
    [0.1, 0.447, inf]
    >>> [round(float(bound), 3) for bound in found.stability.bound([0.1, 0.2, 0.5])]
    [0.1, 0.247, inf]
  """
  found = stability(dictionary, x, beta, code, nonnegative=nonnegative)
  # On demand, as in `stability`: this module imports SciPy's sparse arrays.
  from cscjax.theory._planted import UnitAtoms, babel, representative_atoms

  shape: Sequence[int] = found._shape
  with float64_on_host():
    dictionary = jax.tree.map(as_float64, dictionary)
    neighborhoods = representative_atoms(dictionary, tuple(shape))
  norms = UnitAtoms.of(dictionary, tuple(shape)).norms
  largest = min(len(norms), math.prod(shape))  # more atoms are linearly dependent
  mu_1 = babel(*neighborhoods, max(largest - 1, 0))
  isometry = np.concatenate([[0.0], mu_1[:largest]])
  smallest_norm = float(np.min(norms[norms > 0], initial=np.inf))
  eigenvalues = np.maximum(1 - isometry - ROUNDING * np.arange(largest + 1), 0)
  with np.errstate(divide="ignore"):
    slopes = 1 / (smallest_norm * np.sqrt(eigenvalues))
  # mu_1 ignores atoms that are zero, whose coefficients are arbitrary if they have no penalty.
  gaps = np.stack([np.where(found.unique, found.encoder_gap(s), 0) for s in range(largest + 1)])
  return EncoderGap(found, gaps, isometry, slopes)
