"""ISTA and FISTA for one layer."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary
from cscjax.ops import at_least_float32, highest_precision, power_of_two
from cscjax.solvers._arguments import as_step
from cscjax.solvers._lasso._algorithm import Algorithm, Stop, relative
from cscjax.solvers._lasso._certificates import dual_value, gradient_mapping
from cscjax.solvers._lasso._iterate import Differentiate, Loop, SolverResult, solve
from cscjax.solvers._lasso._problem import Lasso, per_signal
from cscjax.solvers._steps import momentum

Step = ArrayLike | Literal["adaptive", "backtracking"] | None
"""A scalar, 1/L if None, or a rule that searches it for each signal."""

GROWTH = {"adaptive": 1 / 0.97, "backtracking": 1.0}  # of the step from one iteration to the next
OBJECTIVE_WEIGHT = {"ista": 0.45, "fista": 1.25}  # of the stopping rule, see `Algorithm`
SHRINK = 0.8  # of a step that was too long


class _State(NamedTuple):
  code: Code
  reconstruction: jax.Array  # D code
  previous: Code
  previous_reconstruction: jax.Array
  t: jax.Array  # FISTA's t: a scalar, or [batch...] with restarts
  weight: jax.Array  # of the next extrapolation, likewise
  step: jax.Array  # a scalar, or [batch...] where it is searched


class _Evidence(NamedTuple):
  before: _State  # the iteration's
  gradient: Code  # of the data term where it started


@highest_precision
def ista(
  dictionary: Dictionary,
  x: ArrayLike,
  beta: Any,
  *,
  iterations: int | None = None,
  tolerance: ArrayLike | None = None,
  max_iterations: int | None = None,
  stop: Stop = "gradient_mapping",
  step: Step = None,
  nonnegative: bool = False,
  mask: ArrayLike | None = None,
  init: Code | None = None,
  record: Sequence[str] = ("objective",),
  differentiate: Differentiate | None = None,
) -> SolverResult:
  """Iterative soft thresholding (eq. 1) for min 1/2 ||x - D code||^2 + beta ||code||_1.

      code <- S_{beta step}(code - step D^T (D code - x))

  Works under jit, vmap and grad; a second call with like shapes and options compiles nothing.

  Args:
    dictionary: D.
    x: Signals [batch..., n], [batch..., L, C] or [batch..., H, W, C] after the dictionary.
    beta: Penalty >= 0: a scalar, per channel [m], or whatever broadcasts against the code. A code of
      several parts takes one for all or one for each part.
    iterations: How many, >= 0; 100 if neither this nor a tolerance is given.
    tolerance: Instead of a number of iterations: stop when the measure named by `stop` has been at most
      this for each signal. It is computed in iterations 10, 20, ... and in the last one.
    max_iterations: With a tolerance, the largest number of iterations; 1000 if None.
    stop: "gradient_mapping" or "gap".
      "gradient_mapping" is the norm of G = (y - S_{beta step}(y - step D^T (D y - x))) / step, y the
      point at which the iteration took its gradient, relative to ||D^T x|| sqrt(w F(code) / F(0))
      with the objective F and w = 0.45 (the root is kept within 0.01..1). G is 0 at a solution alone,
      and the measure does not depend on the scale of D and x. For a step <= 1/L or a searched one,
      convexity guarantees

          F(code) - min F <= ||G|| ||y - solution||.

      The distance is not known, so this is no bound in numbers: ask for the gap where you need one. The
      weight w, 0.45 for `ista`, 1.25 for `fista` and 5 for `admm`, makes a tolerance mean about the same
      for all three: on 48x48 parts of four photographs of the benchmark 1e-3 ended between 8e-4 and
      8.1e-3 (`ista`), 1.4e-4 and 3.5e-3 (`fista`), 1.0e-4 and 6.1e-4 (`admm`) above the minimum,
      relative to it.
      "gap" is the duality gap with the best dual point so far, relative to F(code):
      (F(code) - min F) / F(code) <= tolerance is guaranteed but for rounding. It takes about five times
      the iterations, and every beta must be positive (one that is traced and 0 never converges).
      In float32 rounding leaves about 1e-6 of either: a smaller tolerance may end at max_iterations with
      `converged` False. A signal whose solution is 0 starts from 0 and passes the first test.
    step: A scalar > 0, and < 2/L to converge; 1/L by `lipschitz` if None, at most 1 % shorter where
      that is a bound (no gradient flows through it). "backtracking" needs no L: it starts from a guess
      that is too long and shrinks it until ||D d||^2 <= ||d||^2 / step for the iteration's own move d.
      "adaptive" does so too and lets it grow by 3 % an iteration in between: it follows the curvature
      where the code moves, often far below L.
    nonnegative: Whether the code is constrained to be >= 0 (eq. 2).
    mask: Weights in 0..1 of the squared errors, broadcast against `x`: 0 where a pixel is missing (its
      value, even NaN, does not matter).
    init: Code to start from; 0 if None.
    record: Traces to keep, of "objective", "gradient_mapping", "gap", "support_size"; what is not named
      costs nothing.
    differentiate: "unrolled" differentiates through the iterations; "remat" does the same and computes
      them again in the backward pass, with memory of about the square root of their number; "implicit"
      is the derivative of the solution near the code, found when a derivative is taken (see `polished`):
      its memory does not grow with the iterations, and traces have no derivative. If None, unrolled for
      a fixed number of iterations of given step, else implicit.

  Returns:
    The code, what was recorded, and whether it converged or diverged. The objective never rises at a
    step <= 1/L.

  Raises:
    ValueError: If shapes do not fit, an argument is out of range, or two of them contradict each other.
  """
  problem = Lasso.make(dictionary, x, beta, mask, nonnegative)
  growth = _searched_growth(step)
  searches = growth is not None
  loop = Loop.make(
    problem, iterations, tolerance, max_iterations, stop, record, differentiate, searches=searches
  )
  method = ProximalGradient("ista", growth)
  return solve(problem, _given(step, problem), init, tolerance, method=method, loop=loop)


@highest_precision
def fista(
  dictionary: Dictionary,
  x: ArrayLike,
  beta: Any,
  *,
  iterations: int | None = None,
  tolerance: ArrayLike | None = None,
  max_iterations: int | None = None,
  stop: Stop = "gradient_mapping",
  step: Step = None,
  restart: bool = False,
  nonnegative: bool = False,
  mask: ArrayLike | None = None,
  init: Code | None = None,
  record: Sequence[str] = ("objective",),
  differentiate: Differentiate | None = None,
) -> SolverResult:
  """Fast iterative soft thresholding (Beck & Teboulle 2009) for the problem of `ista`.

      y     <- code + (t_old - 1) / t (code - code_old),   t <- (1 + sqrt(1 + 4 t^2)) / 2
      code  <- S_{beta step}(y - step D^T (D y - x))

  At step 1/L its objective is within 2 L ||init - code*||^2 / (k + 1)^2 of the optimum after k
  iterations (their Theorem 4.4), where ISTA's bound falls as 1/k. It can rise in between. D y comes from
  D code by linearity, so an iteration costs one analysis and one synthesis, as ISTA's.

  Works under jit, vmap and grad; a second call with like shapes and options compiles nothing.

  Args:
    dictionary: The dictionary D.
    x: Signals [batch..., n], [batch..., L, C] or [batch..., H, W, C] after the dictionary.
    beta: Penalty >= 0: a scalar, per channel [m], or an array that broadcasts against the code. A code
      of several parts takes one for all parts or one for each.
    iterations: Number of iterations, >= 0; 100 if neither this nor a tolerance is given.
    tolerance: Instead of a number of iterations: stop when the measure named by `stop` has been at most
      this, >= 0, for each signal. It is computed in iterations 10, 20, ... and in the last one.
    max_iterations: With a tolerance, the largest number of iterations; 1000 if None.
    stop: "gradient_mapping" or "gap". The first is the norm of the gradient mapping G at the
      extrapolated point y, relative to ||D^T x|| sqrt(1.25 F(code) / F(0)) with the objective F; the
      second is the duality gap relative to F(code), a bound of (F(code) - min F) / F(code). What each
      guarantees and measured is described in `ista`.
    step: A scalar > 0, 1/L by `lipschitz` if None; a step above 1/L can diverge. "backtracking" and
      "adaptive" search it for each signal, as described in `ista`.
    restart: Whether t is set back to 1 for each signal whose last move went against the momentum
      (O'Donoghue & Candes 2015, gradient scheme): on a sharp minimum this saves iterations.
    nonnegative: Whether the code is constrained to be >= 0 (eq. 2).
    mask: Weights in 0..1 of the squared errors that broadcast against `x`; all 1 if None. The value of
      a pixel of weight 0, even NaN, does not matter.
    init: Code to start from; 0 if None.
    record: Traces to keep, of "objective", "gradient_mapping", "gap", "support_size"; what is not named
      costs nothing.
    differentiate: "unrolled" differentiates through the iterations; "remat" does the same and computes
      them again in the backward pass, with memory of about the square root of their number; "implicit"
      is the derivative of the solution near the code, found when a derivative is taken (see `polished`;
      traces have no derivative then). If None, unrolled for a fixed number of iterations of given step,
      else implicit.

  Returns:
    A `SolverResult`: the code, what was recorded, and whether it converged or diverged.

  Raises:
    ValueError: If shapes do not fit, an argument is out of range, or two of them contradict each other.
  """
  problem = Lasso.make(dictionary, x, beta, mask, nonnegative)
  growth = _searched_growth(step)
  searches = growth is not None
  loop = Loop.make(
    problem, iterations, tolerance, max_iterations, stop, record, differentiate, searches=searches
  )
  method = ProximalGradient("fista", growth, restart=checks.boolean("restart", restart))
  return solve(problem, _given(step, problem), init, tolerance, method=method, loop=loop)


class ProximalGradient(NamedTuple):
  """The method, see `Method`.

  Attributes:
    solver: "ista" or "fista".
    growth: Factor of a searched step from one iteration to the next; None for a given step.
    restart: Of its momentum.
  """

  solver: str
  growth: float | None = None
  restart: bool = False

  def __call__(self, problem: Lasso, parameter: jax.Array | None, init: Code) -> Algorithm:
    """ISTA or FISTA with step `parameter`."""
    synthesis = partial(problem.dictionary.synthesis, signal_shape=problem.x.shape)

    def start(state):
      """The point from which an iteration starts, and D of it."""
      point, reconstruction = state.code, state.reconstruction
      if self.solver == "fista":
        point, reconstruction = (
          jax.tree.map(lambda c, p: c + per_signal(state.weight, c) * (c - p), now, before)
          for now, before in ((point, state.previous), (reconstruction, state.previous_reconstruction))
        )
      return point, reconstruction

    def advance(state):
      point, reconstruction = start(state)
      gradient = problem.dictionary.analysis(problem.residual(reconstruction))

      def attempt(step):
        moved = jax.tree.map(lambda p, g: p - per_signal(step, p) * g, point, gradient)
        code = problem.prox(moved, step)
        return step, code, synthesis(code)

      if self.growth is None:
        step, code, new_reconstruction = attempt(state.step)
      else:
        step, code, new_reconstruction = _search(
          problem, attempt, self.growth * state.step, point, reconstruction
        )
      t, weight = momentum(state.t)
      if self.restart:
        unit = _unit_of_move(step)
        move, progress = (
          jax.tree.map(lambda c, b: (c - b) / per_signal(unit, c), code, before)
          for before in (point, state.code)
        )
        against = problem.inner(move, progress) < 0
        t, weight = jnp.where(against, 1, t), jnp.where(against, 0, weight)
      new = _State(code, new_reconstruction, state.code, state.reconstruction, t, weight, step)
      return new, _Evidence(state, gradient)

    def mapping(state, evidence):
      point, reconstruction = start(evidence.before)
      norm = gradient_mapping(problem, point, evidence.gradient, state.step)
      if self.growth is None:  # beyond 2/L a small mapping says nothing of the code, which is far away
        excess = _excess(problem, state.step, state.code, state.reconstruction, point, reconstruction)
        norm = norm * jnp.maximum(excess, 1)
      return norm

    def dual(_, evidence):
      correlation = jax.tree.map(jnp.negative, evidence.gradient)
      return dual_value(problem, start(evidence.before)[1], correlation)

    reconstruction = synthesis(init)
    step = (
      as_step("step", parameter, problem.dictionary, problem.x)
      if self.growth is None
      else _longest_step(problem, reconstruction)
    )
    precise = at_least_float32(problem.x.dtype)  # t^2 overflows in half precision
    one = jnp.ones_like(problem.unit, precise) if self.restart else jnp.ones((), precise)
    state = _State(init, reconstruction, init, reconstruction, one, 0 * one, step)
    weight = OBJECTIVE_WEIGHT[self.solver]
    return Algorithm(
      state, advance, lambda state: (state.code, state.reconstruction), mapping, dual, weight
    )


def _searched_growth(step: Step) -> float | None:
  """Of a step that is searched, by name; None for others."""
  return GROWTH[checks.one_of("step", step, GROWTH)] if isinstance(step, str) else None


def _given(step, problem):
  """A step that was given as a number, checked."""
  if step is None or isinstance(step, str):
    return None
  return as_step("step", step, problem.dictionary, problem.x)


def _longest_step(problem, reconstruction):
  """1 / the curvature along the first gradient, [batch...]: at least 1/L; 1 where the gradient is 0."""
  residual = problem.residual(reconstruction)
  gradient = problem.dictionary.analysis(residual)
  size = problem.norm(gradient)
  inverse = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
  unit = power_of_two(problem.norm(residual) * inverse, axis=())  # D of a code of this norm is near 1
  direction = jax.tree.map(lambda g: g * per_signal(inverse, g) * per_signal(unit, g), gradient)
  curvature = problem.energy(problem.dictionary.synthesis(direction, problem.x.shape)) / unit**2
  return jnp.where(curvature > 0, 1 / jnp.where(curvature > 0, curvature, 1), 1)


def _search(problem, attempt, step, point, reconstruction):
  """Shrinks each signal's step until the data term lies below its quadratic bound there."""

  def is_too_long(carry):  # False for NaN: that one is left to the divergence flag
    step, code, new_reconstruction = carry
    return _excess(problem, step, code, new_reconstruction, point, reconstruction) > 1

  def shorten(carry):
    return attempt(jnp.where(is_too_long(carry), SHRINK * carry[0], carry[0]))

  return lax.while_loop(lambda carry: jnp.any(is_too_long(carry)), shorten, attempt(step))


def _excess(problem, step, code, reconstruction, point, point_reconstruction):
  """step ||D d||^2 / ||d||^2 for the move d from point to code, [batch...]: at most 1 at step 1/L."""
  # What rounding leaves in a difference of two almost equal images.
  noise = (4 * float(jnp.finfo(reconstruction.dtype).eps)) ** 2 * problem.inner(
    point_reconstruction, point_reconstruction
  )
  change = problem.energy(reconstruction - point_reconstruction) - noise
  unit = _unit_of_move(step)
  move = jax.tree.map(lambda c, p: (c - p) / per_signal(unit, c), code, point)
  return step / unit**2 * relative(jnp.maximum(change, 0), problem.inner(move, move))


def _unit_of_move(step):
  """A power of two near sqrt(step): divided by it a move is about as large as D of it."""
  return power_of_two(jnp.sqrt(step), axis=())
