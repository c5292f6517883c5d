"""ISTA and FISTA for one layer."""

import abc
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code
from cscjax.ops import at_least_float32, compact_repr, highest_precision, power_of_two
from cscjax.solvers._arguments import as_step, check_scalar
from cscjax.solvers._callbacks import TEST_PERIOD
from cscjax.solvers._lasso._certificates import dual_value, gradient_mapping
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._signals import per_signal, safe_sqrt
from cscjax.solvers._lasso._solver import Solver
from cscjax.solvers._steps import momentum

Step = ArrayLike | Literal["adaptive", "backtracking"] | None
"""A step size: a scalar, 1/L if None, or the name of a rule that searches a step for each signal."""

GROWTH = {"adaptive": 1 / 0.97, "backtracking": 1.0}  # growth of the step per iteration
LARGEST_RATIO = 1.25  # largest searched step, times the curvature; below 2, the objective falls
OBJECTIVE_WEIGHT = {"ista": 0.45, "fista": 1.25}  # see `Algorithm`


class ISTAState(NamedTuple):
  """The state of `ISTA`.

  Attributes:
    code: The code.
    reconstruction: D code.
    step: Step size: a scalar, or one value per signal, [batch...], if it is searched.
  """

  code: Code
  reconstruction: jax.Array
  step: jax.Array

  def __repr__(self) -> str:
    return compact_repr(self)


class FISTAState(NamedTuple):
  """The state of `FISTA`.

  Attributes:
    code: The code.
    reconstruction: D code.
    previous: The code one iteration before.
    previous_reconstruction: D times the code one iteration before.
    t: Momentum parameter at the last one of `weights`, [batch...].
    weights: Weights of the next ten extrapolations, [batch..., 10]; with restarts or a searched step,
      which can change them, only the weight of the next one, [batch..., 1].
    step: Step size: a scalar, or one value per signal, [batch...], if it is searched.
  """

  code: Code
  reconstruction: jax.Array
  previous: Code
  previous_reconstruction: jax.Array
  t: jax.Array
  weights: jax.Array
  step: jax.Array

  def __repr__(self) -> str:
    return compact_repr(self)


class _Start(NamedTuple):
  """The point from which an iteration starts, its reconstruction, and the gradient of the data term."""

  point: Code
  reconstruction: jax.Array
  gradient: Code


class _Aux(NamedTuple):
  """How an iteration started, its step, and its value of `_step_ratio`."""

  start: _Start
  step: jax.Array
  ratio: jax.Array


class _ProximalGradient(Solver):
  """What ISTA and FISTA have in common: a proximal gradient step, of a given or a searched size."""

  step_size: Step

  @abc.abstractmethod
  def _first(self, problem: Lasso, step: jax.Array, code: Code, reconstruction: jax.Array) -> Any:
    """Returns the initial state."""

  @abc.abstractmethod
  def _start(self, state: Any) -> tuple[Code, jax.Array]:
    """Returns the point from which an iteration starts, and its reconstruction."""

  @abc.abstractmethod
  def _next(self, problem: Lasso, state: Any, point: Code, code: Code, reconstruction: jax.Array) -> Any:
    """Returns the state after a move from a point to a code, with the same step."""

  @property
  def _searches_step(self) -> bool:
    return isinstance(self.step_size, str)

  @highest_precision
  def init(self, problem: Lasso, code: Code | None = None) -> Any:
    if code is None:
      # Not the synthesis: if the dictionary is a constant, XLA would take a second to compute it.
      code, reconstruction = problem.zero_code(), jnp.zeros_like(problem.x)
    else:
      code = problem.as_code(code, "code")
      reconstruction = problem.dictionary.synthesis(code, problem.x.shape)
    if isinstance(self.step_size, str):
      step = lax.stop_gradient(_initial_step(problem, reconstruction))
    else:
      step = as_step("step", self.step_size, problem.dictionary, problem.x)
    return self._first(problem, step, code, reconstruction)

  def step(self, problem: Lasso, state: Any) -> Any:
    return self._advance(problem, state)[0]

  def solution(self, problem: Lasso, state: Any) -> tuple[Code, jax.Array]:
    del problem
    return state.code, state.reconstruction

  @highest_precision
  def _advance(self, problem: Lasso, state: Any) -> tuple[Any, _Aux]:
    if self._searches_step:
      # Otherwise XLA stores what two iterations share: another array of the code's size on a GPU. Values
      # per signal are left out, because a GPU would launch more kernels. With a given step, this would
      # save a tenth of an array, and a GPU would launch 6.6 kernels instead of 5.8.
      arrays = {k: v for k, v in state._asdict().items() if k not in ("t", "weights", "step")}
      state = state._replace(**lax.optimization_barrier(arrays))
    step = state.step
    point, reconstruction = self._start(state)
    start = _Start(point, reconstruction, problem.gradient(reconstruction))
    code = jax.tree.map(lambda p, g: p - per_signal(step, p) * g, point, start.gradient)
    code = problem.prox(code, step)
    reconstruction = problem.dictionary.synthesis(code, problem.x.shape)
    ratio = _step_ratio(problem, step, start, code, reconstruction)
    new_state = self._next(problem, state, point, code, reconstruction)
    if isinstance(self.step_size, str):
      # No loop tries shorter steps: its condition would cost a GPU a wait in each iteration. A step that
      # is slightly too long is taken. One that is far too long leaves the state as it is, and so it is
      # tried again with the inverse curvature along the discarded move, which is at least 1/L. Because
      # that is shorter by a fifth, a step that grows by 3 % discards at most 14 % of the iterations.
      is_too_long = ratio > LARGEST_RATIO
      new_state = jax.tree.map(
        lambda old, new: jnp.where(per_signal(is_too_long, new), old, new), state, new_state
      )
      # A move without a measurable curvature tells nothing about the step. Without this, the step of a
      # signal that has converged would grow to infinity while others are iterated.
      next_step = jnp.where(ratio > 0, step / jnp.maximum(ratio, 1 / GROWTH[self.step_size]), step)
      new_state = new_state._replace(step=lax.stop_gradient(next_step))
    return new_state, _Aux(start, step, ratio)

  def _mapping(self, problem: Lasso, state: Any, aux: _Aux) -> jax.Array:
    # The squares of the mapping times sqrt(step) are in range, like those of a signal in its unit.
    # `Lasso.norm` would store the mapping and read it twice.
    unit, precise = _unit_of_move(aux.step), at_least_float32(problem.x.dtype)
    mapping = gradient_mapping(problem, aux.start.point, aux.start.gradient, aux.step)
    mapping = jax.tree.map(lambda g: per_signal(unit, g) * g.astype(precise), mapping)
    norm = safe_sqrt(problem.inner(mapping, mapping)) / unit
    if self._searches_step:
      return jnp.where(aux.ratio > LARGEST_RATIO, jnp.inf, norm)  # the move has been discarded
    return norm * jnp.maximum(aux.ratio, 1)  # above 2/L, the mapping can be small far from a solution

  def _dual(self, problem: Lasso, state: Any, aux: _Aux) -> jax.Array:
    del state
    correlation = jax.tree.map(jnp.negative, aux.start.gradient)
    return dual_value(problem, aux.start.reconstruction, correlation)


class ISTA(_ProximalGradient):
  """The iterative shrinkage-thresholding algorithm (ISTA), as a `Solver`.

  An iteration is a proximal gradient step (eq. 1 of Zhang & Zhang 2020):

      code <- S_{beta step}(code - step D^T (D code - x))

  S_b(z) = sign(z) max(|z| - b, 0) is the soft threshold. `cscjax.ista` describes the criteria of `run`.

  Args:
    step: Step size: a positive scalar; a step above 2/L can diverge. If None, it is 1/L by `lipschitz`
      (or shorter, where that is an upper bound), and no gradient flows through it. `"backtracking"` and
      `"adaptive"` search a step for each signal, through which no gradient flows either, and do not
      need L. `"backtracking"` starts from a step that may be too long, and shortens it after each
      iteration to at most ||d||^2 / ||D d||^2 for the move d of the iteration; a move is discarded if
      its step exceeds this by more than 25 %. `"adaptive"` does the same, and lengthens the step by up
      to 3 % in each iteration.

  Attributes:
    step_size: The argument `step`.

  Raises:
    ValueError: If `step` is neither positive nor the name of a rule.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> problem = cscjax.Lasso(dictionary, jnp.array([0.6, 0.8]), beta=0.1)
    >>> solver = cscjax.solvers.ISTA()
    >>> state, step = solver.init(problem), jax.jit(solver.step)
    >>> for _ in range(5):
    ...   state = step(problem, state)
    >>> code, reconstruction = solver.solution(problem, state)
    >>> bool(jnp.allclose(code, solver.run(problem, iterations=5).code, atol=1e-6))
    True
  """

  _objective_weight = OBJECTIVE_WEIGHT["ista"]

  def __init__(self, step: Step = None):
    object.__setattr__(self, "step_size", _checked_step(step))

  def _start(self, state: ISTAState) -> tuple[Code, jax.Array]:
    return state.code, state.reconstruction

  def _first(self, problem: Lasso, step: jax.Array, code: Code, reconstruction: jax.Array) -> ISTAState:
    del problem
    return ISTAState(code, reconstruction, step)

  def _next(
    self, problem: Lasso, state: ISTAState, point: Code, code: Code, reconstruction: jax.Array
  ) -> ISTAState:
    del problem, point
    return ISTAState(code, reconstruction, state.step)


class FISTA(_ProximalGradient):
  """The fast iterative shrinkage-thresholding algorithm (FISTA), as a `Solver`.

  An iteration is a proximal gradient step from an extrapolated point y (Beck & Teboulle 2009, eq.
  4.1-4.3), starting with y_1 = init and t_1 = 1:

      code_k  = S_{beta step}(y_k - step D^T (D y_k - x))
      t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2
      y_{k+1} = code_k + (t_k - 1) / t_{k+1} (code_k - code_{k-1})

  S_b(z) = sign(z) max(|z| - b, 0) is the soft threshold. `cscjax.fista` describes the criteria of `run`.

  Args:
    step: Step size: a positive scalar; a step above 1/L can diverge. If None, it is 1/L by `lipschitz`
      (or shorter, where that is an upper bound), and no gradient flows through it. `"backtracking"` and
      `"adaptive"` search a step for each signal, through which no gradient flows either, and do not
      need L. `"backtracking"` starts from a step that may be too long, and shortens it after each
      iteration to at most ||d||^2 / ||D d||^2 for the move d of the iteration; a move is discarded if
      its step exceeds this by more than 25 %. `"adaptive"` does the same, and lengthens the step by up
      to 3 % in each iteration, so that it follows the curvature where the code moves, which is often
      far below L.
    restart: Whether to reset t to 1 for each signal whose last move opposes the momentum (the gradient
      scheme of O'Donoghue & Candes 2015).

  Attributes:
    step_size: The argument `step`.

  Raises:
    ValueError: If `step` is neither positive nor the name of a rule, or `restart` is not a boolean.

  References:
    Beck, A. & Teboulle, M. (2009). A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems. SIAM Journal on Imaging Sciences 2(1).

    O'Donoghue, B. & Candes, E. (2015). Adaptive restart for accelerated gradient schemes. Foundations of
    Computational Mathematics 15(3).

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> problem = cscjax.Lasso(dictionary, jnp.array([0.6, 0.8]), beta=0.1)
    >>> solver = cscjax.solvers.FISTA()
    >>> first = solver.run(problem, iterations=20)
    >>> second = solver.run(problem, iterations=20, state=first.state)
    >>> bool(jnp.allclose(second.code, solver.run(problem, iterations=40).code))
    True
  """

  restart: bool = struct.field(pytree_node=False)
  _objective_weight = OBJECTIVE_WEIGHT["fista"]

  def __init__(self, step: Step = None, restart: bool = False):
    object.__setattr__(self, "step_size", _checked_step(step))
    object.__setattr__(self, "restart", checks.boolean("restart", restart))

  def _start(self, state: FISTAState) -> tuple[Code, jax.Array]:
    weight = state.weights[..., 0]
    point, reconstruction = (
      jax.tree.map(lambda c, p: c + per_signal(weight, c) * (c - p), now, before)
      for now, before in (
        (state.code, state.previous),
        (state.reconstruction, state.previous_reconstruction),
      )
    )
    return point, reconstruction

  def _first(self, problem: Lasso, step: jax.Array, code: Code, reconstruction: jax.Array) -> FISTAState:
    t, weights = 1.0, [0.0]  # the first iteration starts from the code itself
    # Weights that do not depend on the data are computed ahead: if each iteration computed the weight
    # that it needs, a GPU would launch a kernel of a single thread in each, and not once in ten.
    while len(weights) < TEST_PERIOD and not (self.restart or self._searches_step):
      t, weight = momentum(t)
      weights.append(weight)
    precise = at_least_float32(problem.x.dtype)  # t^2 overflows in half precision
    t, *weights = (jnp.full_like(problem.unit, value, precise) for value in (t, *weights))
    weights = jnp.stack(weights, axis=-1)
    return FISTAState(code, reconstruction, code, reconstruction, t, weights, step)

  def _next(
    self, problem: Lasso, state: FISTAState, point: Code, code: Code, reconstruction: jax.Array
  ) -> FISTAState:
    t, weight = momentum(state.t)
    weights = jnp.concatenate([state.weights[..., 1:], weight[..., None]], axis=-1)
    if self.restart:
      # Neither the difference nor the scale of `_step_ratio`: XLA would store what two sums share.
      scale = _unit_of_move(state.step) / state.step
      reverse, progress = (
        jax.tree.map(lambda a, b: (a - b) * per_signal(scale, a), *pair)
        for pair in ((point, code), (code, state.code))
      )
      against = problem.inner(reverse, progress) > 0
      t = jnp.where(against, 1, t)
      weights = jnp.where(against[..., None], 0, weights)
    previous = (state.code, state.reconstruction)
    return FISTAState(code, reconstruction, *previous, t, weights, state.step)


def _checked_step(step: Step) -> Step:
  """Returns a step; raises ValueError if it is neither positive nor the name of a rule."""
  if isinstance(step, str):
    return checks.one_of("step", step, GROWTH)
  if step is not None:
    check_scalar("step", step, positive=True)
  return step


def _initial_step(problem: Lasso, reconstruction: jax.Array) -> jax.Array:
  """Returns the step from which a search starts, [batch...]: 1 / the curvature along the gradient.

  It is at least 1/L, or 1 if the gradient is zero.
  """
  residual = problem.residual(reconstruction)
  gradient = problem.dictionary.analysis(residual)
  size = problem.norm(gradient)
  inverse = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
  # A code of this norm has a reconstruction of norm near 1.
  unit = power_of_two(problem.norm(residual) * inverse, axis=())
  direction = jax.tree.map(lambda g: g * per_signal(inverse, g) * per_signal(unit, g), gradient)
  curvature = problem.energy(problem.dictionary.synthesis(direction, problem.x.shape)) / unit**2
  return jnp.where(curvature > 0, 1 / jnp.where(curvature > 0, curvature, 1), 1)


def _step_ratio(
  problem: Lasso, step: jax.Array, start: _Start, code: Code, reconstruction: jax.Array
) -> jax.Array:
  """Returns step ||D d||^2 / ||d||^2, [batch...], for the move d from a start to a code; 0 if d is 0.

  It is at most 1 if the step is at most 1/L.
  """
  # The rounding error in the difference of two almost equal reconstructions.
  noise = (4 * float(jnp.finfo(reconstruction.dtype).eps)) ** 2 * problem.inner(
    start.reconstruction, start.reconstruction
  )
  image = jnp.maximum(problem.energy(reconstruction - start.reconstruction) - noise, 0)
  unit = _unit_of_move(step)
  move = jax.tree.map(lambda c, p: (c - p) * per_signal(1 / unit, c), code, start.point)
  size = problem.inner(move, move)
  curvature = jnp.where(size > 0, image / jnp.where(size > 0, size, 1), 0)
  return (step / unit**2).astype(size.dtype) * curvature


def _unit_of_move(step: jax.Array) -> jax.Array:
  """Returns a power of two near sqrt(step): a move divided by it is about as large as its image D d."""
  return power_of_two(jnp.sqrt(step), axis=())
