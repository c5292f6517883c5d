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
from cscjax.solvers.arguments import as_step
from cscjax.solvers.certificates import check_beta_below_max
from cscjax.solvers.iterate import Algorithm, Differentiate, Loop, SolverResult, relative, solve
from cscjax.solvers.lasso import Lasso, per_signal, sum_signals
from cscjax.solvers.steps import momentum

Step = ArrayLike | Literal["adaptive", "backtracking"] | None
"""A scalar, 1/L if None, or a rule that searches it for each signal."""

GROWTH = {"adaptive": 1 / 0.97, "backtracking": 1.0}  # of the step from one iteration to the next
SHRINK = 0.8  # of a step that was too long


class _State(NamedTuple):
  code: Code
  rebuilt: jax.Array  # D code
  previous: Code
  previous_rebuilt: jax.Array
  t: jax.Array  # FISTA's t: a scalar, or [batch...] with restarts
  weight: jax.Array  # of the next extrapolation, likewise
  step: jax.Array  # a scalar, or [batch...] where it is searched


def ista(
  dictionary: Dictionary,
  x: ArrayLike,
  beta: Any,
  *,
  iterations: int | None = None,
  tolerance: ArrayLike | None = None,
  max_iterations: int | None = None,
  step: Step = None,
  nonnegative: bool = False,
  mask: ArrayLike | None = None,
  init: Code | None = None,
  record: Sequence[str] = ("objective",),
  differentiate: Differentiate | None = None,
  check_beta: bool = False,
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
    tolerance: Instead: stop when an iteration has moved each signal's code by no more than this,
      relative to its norm. Below 1e-6 float32 does not get there.
    max_iterations: With a tolerance, the most to do; 1000 if None.
    step: A scalar > 0, and < 2/L to converge; 1/L by `lipschitz` if None, at most 1 % shorter where
      that is a bound (no gradient flows through it). "backtracking" needs no L: it starts from a guess
      that is too long and shrinks it until ||D d||^2 <= ||d||^2 / step for the iteration's own move d.
      "adaptive" does so too and lets it grow by 3 % an iteration in between: it follows the curvature
      where the code moves, often far below L.
    nonnegative: Whether the code is constrained to be >= 0 (eq. 2).
    mask: Weights in 0..1 of the squared errors, broadcast against `x`: 0 where a pixel is missing (its
      value, even NaN, does not matter).
    init: Code to start from; 0 if None.
    record: Traces to keep, of "objective", "step_residual", "support"; what is not named costs nothing.
    differentiate: "unrolled" through the iterations; "remat" the same, computing them again in the
      backward pass, with memory of about the square root of their number; "implicit" as the derivative
      of the solution, whose memory does not grow with them (traces have no derivative then). If None,
      unrolled for a fixed number of iterations of given step, else implicit.
    check_beta: Whether to raise where beta is so large that the code must be 0; not under jit.

  Returns:
    The code, what was recorded, and whether it converged or diverged. The objective never rises at a
    step <= 1/L.

  Raises:
    ValueError: If shapes do not fit, an argument is out of range, or two of them contradict each other.
  """
  problem = Lasso.make(dictionary, x, beta, mask, nonnegative)
  growth = _searched_growth(step)
  searches = growth is not None
  loop = Loop.make(iterations, tolerance, max_iterations, record, differentiate, searches=searches)
  if check_beta:
    check_beta_below_max(problem)
  method = ProximalGradient(growth)
  return solve(problem, _given(step, problem), init, tolerance, method=method, loop=loop)


def fista(
  dictionary: Dictionary,
  x: ArrayLike,
  beta: Any,
  *,
  iterations: int | None = None,
  tolerance: ArrayLike | None = None,
  max_iterations: int | None = None,
  step: Step = None,
  restart: bool = False,
  nonnegative: bool = False,
  mask: ArrayLike | None = None,
  init: Code | None = None,
  record: Sequence[str] = ("objective",),
  differentiate: Differentiate | None = None,
  check_beta: bool = False,
) -> SolverResult:
  """Fast iterative soft thresholding (Beck & Teboulle 2009) for the problem of `ista`.

      y     <- code + (t_old - 1) / t (code - code_old),   t <- (1 + sqrt(1 + 4 t^2)) / 2
      code  <- S_{beta step}(y - step D^T (D y - x))

  At step 1/L its objective is within 2 L ||init - code*||^2 / (k + 1)^2 of the optimum after k
  iterations (their Theorem 4.4), where ISTA's bound falls as 1/k. It can rise in between. D y comes from
  D code by linearity, so an iteration costs one analysis and one synthesis, as ISTA's.

  Arguments, result and errors are those of `ista`; a step above 1/L can diverge. `restart` sets t back
  to 1 for each signal whose last move went against the momentum (O'Donoghue & Candes 2015, gradient
  scheme): on a sharp minimum it saves iterations.
  """
  problem = Lasso.make(dictionary, x, beta, mask, nonnegative)
  growth = _searched_growth(step)
  searches = growth is not None
  loop = Loop.make(iterations, tolerance, max_iterations, record, differentiate, searches=searches)
  if check_beta:
    check_beta_below_max(problem)
  method = ProximalGradient(growth, accelerate=True, restart=bool(restart))
  return solve(problem, _given(step, problem), init, tolerance, method=method, loop=loop)


class ProximalGradient(NamedTuple):
  """The method, see `Method`.

  Attributes:
    growth: Factor of a searched step from one iteration to the next; None for a given step.
    accelerate: FISTA instead of ISTA.
    restart: Of its momentum.
  """

  growth: float | None = None
  accelerate: bool = False
  restart: bool = False

  def __call__(self, problem: Lasso, parameter: jax.Array | None, init: Code) -> Algorithm:
    """ISTA or FISTA with step `parameter`."""
    synthesis = partial(problem.dictionary.synthesis, signal_shape=problem.x.shape)

    def advance(state):
      point, rebuilt = state.code, state.rebuilt
      if self.accelerate:
        point, rebuilt = (
          jax.tree.map(lambda c, p: c + per_signal(state.weight, c) * (c - p), now, before)
          for now, before in ((point, state.previous), (rebuilt, state.previous_rebuilt))
        )
      gradient = problem.dictionary.analysis(problem.residual(rebuilt))

      def attempt(step):
        moved = jax.tree.map(lambda p, g: p - per_signal(step, p) * g, point, gradient)
        code = problem.prox(moved, step)
        return step, code, synthesis(code)

      if self.growth is None:
        step, code, new_rebuilt = attempt(state.step)
      else:
        step, code, new_rebuilt = _search(problem, attempt, self.growth * state.step, point, rebuilt)
      move = jax.tree.map(jnp.subtract, code, point)
      t, weight = momentum(state.t)
      if self.restart:
        against = _inner(problem, move, jax.tree.map(jnp.subtract, code, state.code)) < 0
        t, weight = jnp.where(against, 1, t), jnp.where(against, 0, weight)
      residual = relative(problem.norm(move), problem.norm(code))
      return _State(code, new_rebuilt, state.code, state.rebuilt, t, weight, step), residual

    rebuilt = synthesis(init)
    step = (
      as_step("step", parameter, problem.dictionary, problem.x)
      if self.growth is None
      else _longest_step(problem, rebuilt)
    )
    precise = jnp.promote_types(problem.x.dtype, jnp.float32)  # t^2 overflows in half precision
    one = jnp.ones(problem.x.shape[: problem.batch_ndim] if self.restart else (), precise)
    state = _State(init, rebuilt, init, rebuilt, one, 0 * one, step)
    return Algorithm(state, advance, lambda state: (state.code, state.rebuilt))


def _searched_growth(step: Step) -> float | None:
  """Of a step that is searched, by name; None for others."""
  return GROWTH[checks.one_of("step", step, GROWTH)] if isinstance(step, str) else None


def _given(step, problem):
  """A step that was given as a number, checked."""
  if step is None or isinstance(step, str):
    return None
  return as_step("step", step, problem.dictionary, problem.x)


def _longest_step(problem, rebuilt):
  """1 / the curvature along the first gradient, [batch...]: at least 1/L; 1 where the gradient is 0."""
  gradient = problem.dictionary.analysis(problem.residual(rebuilt))
  image = problem.dictionary.synthesis(gradient, problem.x.shape)
  size = problem.norm(gradient) ** 2
  curvature = sum_signals(problem.weigh(jnp.square(image)), problem.batch_ndim)
  return jnp.where(curvature > 0, size / jnp.where(curvature > 0, curvature, 1), 1)


def _search(problem, attempt, step, point, rebuilt):
  """Shrinks each signal's step until the data term lies below its quadratic bound there."""
  batch_ndim = problem.batch_ndim
  # What rounding leaves in a difference of two almost equal images.
  noise = (4 * jnp.finfo(rebuilt.dtype).eps) ** 2 * sum_signals(jnp.square(rebuilt), batch_ndim)

  def is_too_long(carry):
    step, code, new_rebuilt = carry
    change = sum_signals(problem.weigh(jnp.square(new_rebuilt - rebuilt)), batch_ndim)
    size = problem.norm(jax.tree.map(jnp.subtract, code, point)) ** 2
    return change > size / step + noise  # False for NaN: that one is left to the divergence flag

  def shorten(carry):
    return attempt(jnp.where(is_too_long(carry), SHRINK * carry[0], carry[0]))

  return lax.while_loop(lambda carry: jnp.any(is_too_long(carry)), shorten, attempt(step))


def _inner(problem, a, b):
  products = jax.tree.map(lambda u, v: sum_signals(u * v, problem.batch_ndim), a, b)
  return sum(jax.tree.leaves(products))
