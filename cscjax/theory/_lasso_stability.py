"""How far noise in the signal can move the solution of a Lasso: a certificate for one given signal."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, check_dictionary
from cscjax.ops import highest_precision
from cscjax.solvers import Lasso, PolishedCode, fista, polished
from cscjax.theory._float64 import as_float64, check_known, flatten_batch, float64_on_host
from cscjax.theory._table import table

if TYPE_CHECKING:
  from cscjax.theory._signal_stability import SignalStability

TOLERANCE = 1e-4  # tolerance of the solver that finds a missing code, which is then polished
SHOWN = 20  # largest number of signals in a printed table


class ActiveSet(NamedTuple):
  """The atoms that may be active in the solution for a signal with noise.

  Attributes:
    atoms: The number of these atoms.
    pieces: The number of pieces into which they fall; atoms of different pieces do not overlap.
    smallest_singular_value: The smallest singular value s of the dictionary, restricted to these atoms
      (with a ridge, they have a row for it; in groups, it is on the codes that `stability` names): a
      lower bound, up to rounding, if `proved` is 1, else an estimate. It is 0 if they are linearly
      dependent, and inf if there are none.
    proved: The fraction of the atoms in pieces for which s is proved, by all eigenvalues or a Cholesky
      factor of their Gram matrix. The pieces that are too large for it are estimated by the Lanczos
      method, which finds the smallest eigenvalue from above.
    proved_singular_value: A lower bound on s that is proved, up to rounding: s itself if `proved` is 1,
      else what follows from the ridge, which is 0 without one.
  """

  atoms: Any
  pieces: Any
  smallest_singular_value: Any
  proved: Any
  proved_singular_value: Any


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Stability:
  """The result of `stability`: the solution for each signal, and what is certain about it under noise.

  Numbers are NumPy arrays [batch...], or NumPy scalars for a single signal. The printed form is a table
  with one row per signal.

  Attributes:
    code: The solution for the signal, polished in float64: a code of NumPy arrays.
    nonzeros: The number of nonzero coefficients of the solution.
    gap: The duality gap of `code`, up to rounding.
    error: An upper bound on the Euclidean distance from the given code to the solution, or from `code`
      if no code was given. It is inf if the solution is not known to be unique.
    code_error: The same for `code`: what rounding may have added.
    slack: The noise up to which no atom can become active that could not be active without noise.
    largest_noise: A noise below which the bound is finite and proved; 0 if there is none.
    unique: Whether the solution is known to be unique, as far as `active_set().proved` goes.
    differentiable: Whether the implicit derivative of the solution is known to exist and to be given by
      the support of `code`: no other atom can be active, the atoms are linearly independent, and the
      coefficients exceed their error.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> result = cscjax.theory.stability(dictionary, jnp.array([2.0, 0.1]), beta=0.5)
    >>> bool(result.unique), int(result.nonzeros), round(float(result.slack), 3)
    (True, 1, 0.12)
  """

  code: Code
  nonzeros: Any
  gap: Any
  error: Any
  code_error: Any
  slack: Any
  largest_noise: Any
  unique: Any
  differentiable: Any
  _batch: tuple[int, ...]
  _shape: tuple[int, ...]
  _signals: "Sequence[SignalStability]"

  def bound(self, noise: ArrayLike, *, proved: bool = False) -> np.ndarray:
    """Bounds the change of the solution, ||solution(x + e) - solution(x)||_2, for all ||e||_2 <= noise.

    Args:
      noise: Levels of the noise, >= 0: a scalar or an array of any shape. With a mask, the noise is
        measured after multiplication by the root of the mask.
      proved: Whether to use no estimates. Where `active_set(noise).proved` is below 1, the bound is then
        larger: it is what follows from the ridge, and inf without one.

    Returns:
      The bounds, an array [levels..., batch...]; inf where nothing is known. They grow with the noise.

    Raises:
      ValueError: If a level is negative or not finite.
    """
    levels = as_levels(noise)
    bounds = [[s.bound(float(level), proved=proved) for s in self._signals] for level in levels.ravel()]
    return np.reshape(bounds, (*levels.shape, *self._batch))[()]

  def radius(self, distance: ArrayLike) -> np.ndarray:
    """Returns the noise for which the solution moves by less than a distance: the inverse of `bound`.

    Args:
      distance: A Euclidean distance of codes for each signal, an array that broadcasts to [batch...].

    Returns:
      For each signal a noise, at most 0.1 % below the largest one for which the proved bound is finite
      and less than the distance, an array [batch...]. It is 0 if there is none, and inf if the bound is
      less for all noise.

    Raises:
      ValueError: If a distance is not finite, or if the shape does not fit.
    """
    distances = as_distances(distance, self._batch)
    pairs = zip(self._signals, distances.ravel(), strict=True)
    return np.reshape([signal.noise_within(float(d)) for signal, d in pairs], self._batch)[()]

  def encoder_gap(self, sparsity: int) -> np.ndarray:
    """Returns the encoder gap tau_s: the noise below which at most s atoms can be active.

    It is the (s + 1)-th smallest of (beta_j - |d_j^T r|) / ||d_j||, where r is the residual of the
    solution. For unit atoms, this is the definition of Sulam, Muthukumar & Arora (2020), who certify
    codes for noise up to tau_s / 2. By A and B, the atoms that are active at x and at x + e are in one
    set of s atoms for all ||e|| < tau_s. `cscjax.theory.encoder_gap` derives a bound from it.

    Args:
      sparsity: The number s of atoms, >= 0.

    Returns:
      The gaps, an array [batch...]: 0 if s is smaller than the number of atoms that may be active
      without noise, and inf if no more than s atoms can ever be active.

    Raises:
      ValueError: If `sparsity` is not a nonnegative integer.
    """
    sparsity = checks.int_at_least("sparsity", sparsity, 0)
    return np.reshape([max(signal.start(sparsity), 0.0) for signal in self._signals], self._batch)[()]

  def active_set(self, noise: ArrayLike = 0.0) -> ActiveSet:
    """Describes the atoms that may be active in the solution for x + e, for all ||e||_2 <= noise.

    Args:
      noise: Levels of the noise, >= 0: a scalar or an array of any shape.

    Returns:
      An `ActiveSet` of arrays [levels..., batch...].

    Raises:
      ValueError: If a level is negative or not finite.
    """
    levels = as_levels(noise)
    found = [
      (signal.size(level), *signal.restriction(level), signal.proved_value(level))
      for level in map(float, levels.ravel())
      for signal in self._signals
    ]
    fields = zip(*found, strict=True) if found else ((),) * len(ActiveSet._fields)
    return ActiveSet(*(np.reshape(f, (*levels.shape, *self._batch))[()] for f in fields))

  def worst_direction(self) -> np.ndarray:
    """Returns the direction of noise in which the solution moves most.

    For noise t times this direction, t small and of either sign, the solution moves by |t| / s, where s
    is the smallest singular value of the atoms that may be active without noise (with a ridge or groups,
    by less). Stronger noise lets further atoms become active, and other directions can then be worse.

    Returns:
      An array of the shape of the signals, each of norm 1 (with a mask, after multiplication by its
      root); zeros for a code of zeros.
    """
    directions = [signal.worst_direction() for signal in self._signals]
    return np.reshape(directions, (*self._batch, *self._shape))

  def explain(self, noise: float = 0.0) -> str:
    """Says in a sentence for each signal why the bound is finite or infinite.

    Args:
      noise: The level of the noise, >= 0.

    Returns:
      One line per signal.

    Raises:
      ValueError: If the level is negative or not finite.
    """
    level = checks.in_range("noise", noise, 0)
    lines = [signal.explain(level) for signal in self._signals]
    return "\n".join(lines if not self._batch else (f"{i}: {line}" for i, line in enumerate(lines)))

  def __repr__(self) -> str:
    rows: list[tuple[str, ...]] = [
      ("nonzeros", "active", "s", "proved", "unique", "error", "slack", "largest noise")
    ]
    for signal in self._signals[:SHOWN]:
      active = signal.restriction(0.0)
      numbers = [f"{n:.3g}" for n in (signal.error, signal.slack, signal.largest_noise)]
      unique = "yes" if active.value > 0 else "no"
      sizes = (str(signal.nonzeros), str(signal.size(0.0)))
      rows.append((*sizes, f"{active.value:.3g}", f"{active.proved:.0%}", unique, *numbers))
    more = len(self._signals) - SHOWN
    return table(rows) + (f"\nand {more} more signals" if more > 0 else "")


def as_distances(distance: ArrayLike, batch: tuple[int, ...]) -> np.ndarray:
  """Broadcasts distances to one per signal; raises ValueError if they are not finite or do not fit."""
  checks.all_at_least("distance", distance, -math.inf)
  if checks.broadcast_shape("distance", np.shape(distance), batch) != batch:
    checks.fail("distance", np.shape(distance), f"a shape that broadcasts to {batch}")
  return np.broadcast_to(np.asarray(distance, np.float64), batch)


def as_levels(noise: ArrayLike) -> np.ndarray:
  """Converts levels of noise to float64; raises ValueError if they are negative or not finite."""
  checks.all_at_least("noise", noise, 0)
  return np.asarray(noise, np.float64)


@highest_precision
def stability(
  dictionary: Dictionary,
  x: ArrayLike,
  beta: Any,
  code: Code | None = None,
  *,
  nonnegative: Any = False,
  mask: ArrayLike | None = None,
  ridge: Any = None,
  joint_axes: int | Sequence[int] | None = None,
) -> Stability:
  """Certifies how far noise in a signal can move its sparse code.

  The code is the solution gamma(x) of min 1/2 ||x - D code||^2 + sum_j beta_j |code_j|. Bounds by
  coherence hold for all signals whose codes are sparse enough, which those of photographs and of learned
  dictionaries are not. The bounds here are for the given signal, for all noise e with ||e||_2 <= noise:

  - A. The reconstruction never moves further than the signal, ||D gamma(x + e) - D gamma(x)|| <= ||e||:
    the residual x - D gamma(x) is the projection of x onto {theta: |d_j^T theta| <= beta_j}.
  - B. For any dual feasible theta, ||theta - (x - D gamma(x))|| <= radius = sqrt(2 gap). An atom with
    |d_j^T theta| + ||d_j|| (radius + noise) < beta_j is therefore not active at x + e. The set S(noise)
    contains all others.
  - C. If the smallest singular value s(noise) of D restricted to S(noise) is positive, gamma(x + e) is
    unique, and ||gamma(x + e) - gamma(x)|| is at most the integral of 1 / s(t) over t in 0..noise. This
    is `bound(noise)`, computed with sixteen segments; it is at most noise / s(noise).
  - D. A code with support in S(0) is within sqrt(2 gap) / s(0) of the solution, and within
    ||g|| / s(0)^2 for any subgradient g of the objective at the code: this is `error`.

  With a ridge, all of this holds for the dictionary with one further row per atom, which contains the
  root of its ridge, and for the signal with zeros in these rows: the squared error then includes the
  ridge. So s(noise)^2 is the smallest eigenvalue of D_S^T D_S + diag(ridge). With the smallest ridge rho
  of the atoms in S(noise), the change per unit of noise is at most sqrt(s^2 - rho) / s^2 if s^2 > 2 rho,
  and 1 / (2 sqrt(rho)) otherwise, which are at most 1 / s. A ridge on all atoms makes each solution
  unique and each bound finite, and if s is only estimated, 1 / (2 sqrt(rho)) is proved.

  With joint sparsity, each group of coefficients is zero jointly. In B, the norm of the correlations of
  a group replaces |d_j^T theta|, and the spectral norm of its atoms replaces ||d_j||; S(noise) contains
  all coefficients of the other groups. This includes the complex codes of
  `cscjax.dictionaries.ComplexDictionary`, in which real and imaginary part form a group. The atoms of a
  group of up to 200 may be linearly dependent, if it has a penalty and no constraint: s(noise) is then
  the smallest singular value on the codes without a part that the atoms of a group map to zero.

  The solution near the code is computed in float64, so that the gap is close to rounding errors. All of
  this runs in float64, on the CPU unless JAX has none, cannot be compiled by `jax.jit`, and takes about
  as long as solving the problem to high precision. What rounding may add is bounded and included.

  Without a ridge or groups, a bound is infinite if S has more atoms than the signal has samples, or if
  its atoms are linearly dependent; small penalties and strong noise lead to this.

  Args:
    dictionary: The dictionary D, of any kind. For classes of your own, the atoms in S are synthesized
      one by one.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    beta: Penalty, nonnegative: a scalar, one value per channel [m], or an array that broadcasts against
      the code. A code of several parts takes one value for all parts, or one for each part.
      `cscjax.relative(0.1)` is a tenth of `beta_max` for each signal. Atoms with a penalty of zero can
      always be active.
    code: The code to certify, of the shape of `dictionary.analysis(x)`, such as that of a solver for the
      same problem. Only `error` depends on it. By default the problem is solved.
    nonnegative: Whether the code is constrained to be nonnegative: a bool, or an array of bools, one per
      channel [m] or of any shape that broadcasts against the code. A code of several parts takes one
      value for all parts, or one for each part.
    mask: Weights of the squared errors, in 0..1, that broadcast against `x`, or against `x` without its
      last axis, such as [H, W] for all channels of an image; 1 if None. Norms of signals and of noise
      are those after multiplication by the roots of the weights. Where the weight is zero, the value of
      `x` is ignored, even if it is NaN.
    ridge: Penalty of the squares mu, which adds mu/2 ||code||^2 to the objective (the elastic net):
      nonnegative, in any of the shapes of `beta`; no such term if None.
    joint_axes: Axis or axes of the code, negative, along which coefficients are zero only jointly (joint
      sparsity): the penalty is beta times the Euclidean norm along these axes, in which `beta` and
      `ridge` have size 1. None for the absolute value of each coefficient.

  Returns:
    A `Stability`, with the method `bound(noise)`.

  Raises:
    ValueError: If shapes do not fit, a value is out of range, `x` or `code` is not finite, or an
      argument is traced by `jax.jit` or another transformation.

  References:
    Ndiaye, Fercoq, Gramfort & Salmon, Gap safe screening rules for sparsity enforcing penalties, JMLR
    2017 (B).
    Mehta & Gray, Sparsity-based generalization bounds for predictive sparse coding, ICML 2013, and
    Sulam, Muthukumar & Arora, Adversarial robustness of supervised sparse coding, NeurIPS 2020, bound
    the change of the code by a constant of the whole dictionary instead of s.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> result = cscjax.theory.stability(dictionary, jnp.array([2.0, 0.1]), beta=0.5)
    >>> result
    nonzeros  active  s  proved  unique     error  slack  largest noise
           1       1  1    100%     yes  ...
    >>> [round(float(bound), 3) for bound in result.bound([0.1, 0.2])]
    [0.1, 0.247]
    >>> print(result.explain(0.5))
    no bound for noise up to 0.5: 3 of the atoms may be active, more than the 2 samples of the signal;
    bounds are finite below 0.4
  """
  arguments = (dictionary, x, beta, code, nonnegative, mask, ridge)
  check_known("stability", *arguments)
  check_dictionary(dictionary)
  # SciPy's sparse arrays are imported on demand: the import takes time and adds a filter of warnings.
  from cscjax.theory._screening import FlatProblems
  from cscjax.theory._signal_stability import SignalStability

  with float64_on_host():
    dictionary, x, beta, code, nonnegative, mask, ridge = jax.tree.map(as_float64, arguments)
    options: dict[str, Any] = {
      "nonnegative": nonnegative,
      "mask": mask,
      "ridge": ridge,
      "joint_axes": joint_axes,
    }
    lasso = Lasso(dictionary, x, beta, **options)
    if not np.all(np.isfinite(lasso.x)):
      checks.fail("x", "values that are not finite", "finite values where the mask is positive")
    given = None if code is None else jax.tree.leaves(lasso.as_code(code, "code"))

    def solve(start: Code | None) -> PolishedCode:
      if start is None:
        solver: dict[str, Any] = {"tolerance": TOLERANCE, "step": "adaptive", "restart": True}
        start = fista(dictionary, x, beta, **solver, **options).code
      return polished(dictionary, x, start, beta, **options)

    found = solve(code)
    if code is not None and np.any(np.asarray(found.violation) > 0):  # the code is not near the solution
      found = solve(None)
    problems = FlatProblems.of(lasso)
  solution = jax.tree.map(lambda part: np.asarray(part, np.float64), found.code)
  parts, batch = jax.tree.leaves(solution), lasso.x.shape[: lasso.batch_ndim]
  flat = flatten_batch(parts, parts, batch)
  if not np.all(np.isfinite(flat)):
    checks.fail("code", "values that are not finite", "finite values")
  distances = np.zeros(len(flat))
  if given is not None:
    distances = np.linalg.norm(flatten_batch(given, parts, batch) - flat, axis=1)
  signals = [SignalStability(problems, i, flat[i], float(distances[i])) for i in range(len(flat))]

  def collect(value: Callable[[SignalStability], Any]) -> Any:
    return np.reshape([value(signal) for signal in signals], batch)[()]

  return Stability(
    code=solution,
    nonzeros=collect(lambda s: s.nonzeros),
    gap=collect(lambda s: s.gap),
    error=collect(lambda s: s.error),
    code_error=collect(lambda s: s.code_error),
    slack=collect(lambda s: s.slack),
    largest_noise=collect(lambda s: s.largest_noise),
    unique=collect(lambda s: s.restriction(0.0).value > 0),
    differentiable=collect(lambda s: s.differentiable),
    _batch=batch,
    _shape=problems.shape,
    _signals=signals,
  )
