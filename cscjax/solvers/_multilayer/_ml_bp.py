"""The multi-layer basis pursuit, solved with all constraints at once by a primal-dual method."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary
from cscjax.ops import highest_precision, shard_batch, vary_alike
from cscjax.solvers._callbacks import Callback
from cscjax.solvers._lasso._algorithm import relative_size
from cscjax.solvers._lasso._signals import per_signal, sum_signals
from cscjax.solvers._multilayer._loop import MultilayerLoop
from cscjax.solvers._multilayer._problem import MultilayerProblem
from cscjax.solvers._multilayer._result import RESULT_LAYOUT, MultilayerResult, layer_statistics
from cscjax.solvers._multilayer._stack import StackImage, stack_image, stack_norms

RELAXATION = 1.8  # in [1, 2)
BALANCED_ITERATIONS = 10  # the steps change in each of these; then more rarely


class _Point(NamedTuple):
  """A primal-dual point and its images under A and A^T, which follow it by linearity."""

  deepest: Code
  image: StackImage  # A deepest
  dual: StackImage
  correlation: Code  # A^T dual


class _State(NamedTuple):
  point: _Point
  near: _Point  # the point before relaxation: its deepest code is sparse and its dual is bounded
  codes: list[Code]  # the thresholded codes of all layers
  balance: jax.Array  # [batch...], the primal step divided by the dual step
  best: jax.Array  # [batch...], the largest dual value so far
  count: jax.Array  # number of iterations so far


@highest_precision
def ml_bp(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[Any],
  *,
  iterations: int | None = None,
  tolerance: ArrayLike | None = None,
  max_iterations: int | None = None,
  nonnegative: bool = False,
  mask: ArrayLike | None = None,
  callback: Callback | None = None,
  progress: bool = False,
) -> MultilayerResult:
  """Solves the multi-layer basis pursuit, with the constraints of all layers at once.

  The problem is

      min_{code_K} 1/2 ||x - D_1 code_1||^2 + sum_i beta_i ||code_i||_1,   code_{i-1} = D_i code_i,

  which `ml_ista` and `ml_fista` solve only approximately. It is convex in the deepest code g: with the
  maps A_i = D_{i+1} ... D_K to the other layers, stacked as A = (A_0, ..., A_{K-1}), it is

      min_g 1/2 ||x - A_0 g||^2 + sum_{0<i<K} beta_i ||A_i g||_1 + beta_K ||g||_1.

  The primal-dual method of Chambolle & Pock (2011), over-relaxed (Condat 2013), takes proximal steps of
  the last term in g, and of the conjugates of the other terms in the dual variables y:

      g_new = S_{tau beta_K}(g - tau A^T y)
      y_new = prox_{sigma h*}(y + sigma A (2 g_new - g))
      (g, y) <- (g, y) + 1.8 (g_new - g, y_new - y)

  The steps satisfy tau ||A^T diag(sigma) A|| <= 1, with a `sigma` for each layer. Their ratio is adapted
  to each signal so that the primal and the dual variable converge together. An iteration costs one
  synthesis and one analysis in each layer, as in `ml_ista`.

  The dual variables, scaled into the dual feasible set, give a lower bound of the minimum. The duality
  gap, the objective of g_new minus the largest bound found so far, is relative to the objective:

      (F(g_new) - min F) / F(g_new) <= gap

  up to rounding. The codes returned are sparse: soft thresholds that converge to A_i g, so that the
  constraints hold approximately. `tolerance=` stops when both the gap and the violations of the
  constraints, `residuals[1:]`, are at most the tolerance. With `nonnegative=True`, the codes returned
  are nonnegative; those that the deepest code implies are so only in the limit, and the gap bounds the
  excess up to a term in proportion to the violations.

  In float32, rounding leaves about 1e-6 of the gap and of the violations: with a smaller tolerance, the
  solver may stop at `max_iterations` with `converged` False. The function works under `jax.jit`,
  `jax.vmap` and, without a tolerance, `jax.grad`.

  Args:
    dictionaries: The dictionaries D_1, ..., D_K. The signals of D_1 are shaped like `x`, and the signals
      of each other dictionary are the codes of the previous one.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    betas: Penalties, one entry per layer: a scalar, one value per channel, or an array that broadcasts
      against the code. A code of several parts takes one entry for all parts, or one for each. Those of
      the deepest layer are positive, all others nonnegative. `cscjax.relative(0.1)` is a tenth of the
      largest magnitude in D_i^T ... D_1^T x.
    iterations: Number of iterations, nonnegative; 100 if neither this nor `tolerance` is given.
    tolerance: Stops the solver at convergence, instead of after a fixed number of iterations: when the
      larger of the relative gap and the violations has been at most this value, a nonnegative
      scalar, for each signal. It is computed every 10 iterations and after the last one.
    max_iterations: Largest number of iterations with a tolerance; 1000 if None. It cannot be combined
      with `iterations`.
    nonnegative: Whether the codes of all layers are constrained to be nonnegative: True or False.
    mask: Weights of the squared errors, in 0..1, that broadcast against `x`, or against `x` without its
      last axis, such as [H, W] for all channels of an image; 1 if None. Where the weight is zero, the
      value of `x` is ignored, even if it is NaN.
    callback: A function that is called with an `IterationStats` after every 10 iterations and after the
      last one: the number of iterations, the objective and the larger of the gap and the violations.
      It is called by `jax.debug.callback`, also under `jax.jit`; `IterationStats` describes the other
      transformations. Calls with the same function object share their compilation. None costs nothing.
    progress: Whether to show a progress bar on stderr, with the mean objective and the largest value of
      the criterion over the batch. This needs tqdm, which the extra `progress` installs.

  Returns:
    A `MultilayerResult`: the codes, the objective and the relative duality gap after each iteration,
    whether the solver converged, and the residual and the number of nonzeros of each layer.

  Raises:
    ValueError: If the numbers of dictionaries and `betas` differ, a value is out of range, two arguments
      contradict each other, such as `iterations` and `tolerance`, or shapes do not fit.
    MissingExtraError: If `progress` is True and tqdm is not installed.

  References:
    Aberdam, A., Sulam, J. & Elad, M. (2019). Multi-layer sparse coding: the holistic way. SIAM Journal
    on Mathematics of Data Science 1(1).

    Chambolle, A. & Pock, T. (2011). A first-order primal-dual algorithm for convex problems with
    applications to imaging. Journal of Mathematical Imaging and Vision 40(1).

    Condat, L. (2013). A primal-dual splitting method for convex optimization involving Lipschitzian,
    proximable and linear composite terms. Journal of Optimization Theory and Applications 158(2).

    Sulam, J., Aberdam, A., Beck, A. & Elad, M. (2020). On multi-layer basis pursuit, efficient
    algorithms and convolutional neural networks. IEEE Transactions on Pattern Analysis and Machine
    Intelligence 42(8).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> first = cscjax.MatrixDictionary(jax.random.normal(jax.random.key(0), (16, 24)) / 4)
    >>> second = cscjax.MatrixDictionary(jax.random.normal(jax.random.key(1), (24, 32)) / 5)
    >>> problem = [first, second], jnp.ones(16), [0.1, 0.1]
    >>> result = cscjax.ml_bp(*problem, tolerance=1e-3)
    >>> bool(result.converged), bool(result.gap[-1] <= 1e-3)
    (True, True)
    >>> near = cscjax.ml_fista(*problem, tolerance=1e-3)  # ends near the minimum
    >>> bool(result.objective[-1] < near.objective[-1])
    True
  """
  loop = MultilayerLoop.make(iterations, tolerance, max_iterations, callback, progress, name="ml_bp")
  checks.boolean("nonnegative", nonnegative)
  problem = MultilayerProblem.make(dictionaries, x, betas, nonnegative, mask)
  for beta in jax.tree.leaves(problem.betas[-1]):
    if not checks.is_traced(beta) and not bool(jnp.all(beta > 0)):
      checks.fail("betas", "a penalty of 0 of the deepest layer", "positive values for the duality gap")
  result = shard_batch(
    lambda _, *arguments: _solve(*arguments, loop),
    *(problem.x, problem, *stack_norms(problem), tolerance),
    batch_ndim=problem.batch_ndim,
    layout=RESULT_LAYOUT,
  )
  return loop.finish(result)


@partial(jax.jit, static_argnames="loop")
def _solve(
  problem: MultilayerProblem,
  scales: list[jax.Array],
  norm: jax.Array,
  tolerance: jax.Array | None,
  loop: MultilayerLoop,
) -> MultilayerResult:
  """Runs the solver with steps tau = balance / norm and sigma_i = scale_i / balance."""
  problem, scales, norm, tolerance = vary_alike((problem, scales, norm, tolerance))

  def advance(state: _State) -> _State:
    point = state.point
    tau, sigmas = state.balance / norm, [scale / state.balance for scale in scales]
    moved = jax.tree.map(lambda g, c: g - per_signal(tau, g) * c, point.deepest, point.correlation)
    deepest = problem.prox(len(scales) - 1, moved, tau)
    image = stack_image(problem, deepest)
    dual, codes = _dual_step(problem, point, image, sigmas)
    near = _Point(deepest, image, dual, problem.correlation(*dual))
    change = jax.tree.map(jnp.subtract, near, point)
    return _State(
      point=jax.tree.map(lambda p, c: p + RELAXATION * c, point, change),
      near=near,
      codes=[*codes, deepest],
      balance=_balanced(problem, change, state, tau, sigmas),
      best=jnp.maximum(state.best, _dual_value(problem, near)),
      count=state.count + 1,
    )

  def values(state: _State) -> tuple[jax.Array, jax.Array]:
    """Returns the objective and the relative gap."""
    near = state.near
    objective = problem.objective(near.image.signal, [*near.image.codes, near.deepest])
    # With `nonnegative`, a code that is slightly infeasible may lie below the minimum.
    excess = jnp.maximum(jnp.abs(objective - state.best), jnp.finfo(problem.x.dtype).eps * objective)
    return objective, relative_size(excess, objective)

  def measure(state: _State) -> dict[str, jax.Array]:
    objective, gap = values(state)
    return {
      "objective": problem.squares_scaled_back(objective),
      "gap": gap.astype(problem.x.dtype),
    }

  def criterion(state: _State) -> jax.Array:
    residuals, _ = layer_statistics(problem.dictionaries, problem.x, state.codes)
    return jnp.max(jnp.stack([values(state)[1].astype(problem.x.dtype), *residuals[1:]]), axis=0)

  zeros = StackImage(jnp.zeros_like(problem.x), problem.zeros[:-1])
  zero = _Point(problem.zeros[-1], zeros, zeros, problem.zeros[-1])
  at_zero = 0.5 * problem.energy(problem.x)
  start = _State(zero, zero, problem.zeros, jnp.ones_like(at_zero), 0 * at_zero, jnp.int32(0))
  state, trace, done, converged = loop.run(start, advance, measure, criterion, tolerance)
  first = problem.squares_scaled_back(at_zero)
  residuals, support_sizes = layer_statistics(problem.dictionaries, problem.x, state.codes)
  return MultilayerResult(
    codes=problem.scaled_back(state.codes),
    objective=jnp.concatenate([first[None], trace["objective"]]),
    iterations=done,
    converged=converged,
    diverged=~(values(state)[0] <= 2 * at_zero),
    gap=trace["gap"],
    residuals=residuals,
    support_sizes=support_sizes,
  )


def _dual_step(
  problem: MultilayerProblem, point: _Point, image: StackImage, sigmas: Sequence[jax.Array]
) -> tuple[StackImage, list[Code]]:
  """Takes the proximal step of the dual variables from `point`, where `image` is that of the new code.

  Returns:
    The new dual variables, and the thresholded codes of all layers but the deepest one: the proximal
    points that Moreau's identity subtracts.
  """

  def ascend(dual: Any, new: Any, old: Any, sigma: jax.Array) -> Any:
    return jax.tree.map(lambda y, n, o: y + per_signal(sigma, y) * (2 * n - o), dual, new, old)

  raised = ascend(point.dual.signal, image.signal, point.image.signal, sigmas[0])
  sigma = per_signal(sigmas[0], raised)
  weight = jnp.ones_like(sigma) if problem.mask is None else problem.mask
  nearest = (weight * problem.x + raised) / (weight + sigma)
  duals, codes = [], []
  layers = zip(point.dual.codes, image.codes, point.image.codes, sigmas[1:], strict=True)
  for i, (dual, new, old, sigma) in enumerate(layers):
    ascended = ascend(dual, new, old, sigma)
    shrunk = problem.prox(i, ascended, jnp.ones_like(sigma))
    duals.append(jax.tree.map(jnp.subtract, ascended, shrunk))
    codes.append(jax.tree.map(lambda s, sigma=sigma: s / per_signal(sigma, s), shrunk))
  return StackImage(problem.weigh(nearest - problem.x), duals), codes


def _dual_value(problem: MultilayerProblem, near: _Point) -> jax.Array:
  """Returns the dual objective at the dual variables, scaled into the dual feasible set: [batch...].

  The dual is max_y <x, r> - 1/2 sum r^2 / mask, r = -y_0, where |y_i| <= beta_i and |A^T y| <= beta_K.
  """
  ratios = []
  for c, beta in zip(*map(jax.tree.leaves, (near.correlation, problem.betas[-1])), strict=True):
    magnitude = jnp.maximum(-c, 0) if problem.nonnegative else jnp.abs(c)
    ratio = jnp.where(magnitude > 0, beta / jnp.where(magnitude > 0, magnitude, 1), jnp.inf)
    ratios.append(jnp.min(ratio, axis=tuple(range(problem.batch_ndim, c.ndim))))
  feasible = jnp.minimum(jnp.stack(ratios).min(axis=0), 1)  # the bounds of y_i hold up to a scale of 1
  residual = -near.dual.signal
  along = sum_signals(problem.x * residual, problem.batch_ndim)
  if problem.mask is None:
    size = problem.energy(residual)
  else:  # residual = mask (x - z), and so it is zero where the mask is
    size = problem.energy(residual / jnp.where(problem.mask > 0, problem.mask, 1))
  scale = jnp.clip(along / jnp.where(size > 0, size, 1), 0, feasible)
  return scale * along - 0.5 * scale**2 * size


def _balanced(
  problem: MultilayerProblem,
  change: _Point,
  state: _State,
  tau: jax.Array,
  sigmas: Sequence[jax.Array],
) -> jax.Array:
  """Returns the ratio of the steps for the next iteration, which balances the changes of an iteration.

  In the metric of the method, the primal and the dual change then have the same norm.
  """

  def square(tree: Any) -> jax.Array:
    squares = [sum_signals(jnp.square(a), problem.batch_ndim) for a in jax.tree.leaves(tree)]
    return jnp.stack(squares).sum(axis=0)

  def adapt() -> jax.Array:
    primal = square(change.deepest) / tau
    blocks = [change.dual.signal, *change.dual.codes]
    dual = sum(square(block) / sigma for block, sigma in zip(blocks, sigmas, strict=True))
    known = (primal > 0) & (dual > 0) & (primal < jnp.inf) & (dual < jnp.inf)
    ratio = jnp.sqrt(jnp.where(known, primal, 1) / jnp.where(known, dual, 1))
    return state.balance * jnp.sqrt(jnp.clip(ratio, 0.1, 10))

  # Due in iterations 0 to 9, then in 10, 20, 40, 80, ...
  tens, rest = jnp.divmod(state.count, BALANCED_ITERATIONS)
  due = (tens == 0) | ((rest == 0) & (tens & (tens - 1) == 0))
  return lax.cond(due, adapt, lambda: state.balance)
