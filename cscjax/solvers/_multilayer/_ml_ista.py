"""ML-ISTA and ML-FISTA: proximal gradient steps through all layers."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, check_one_per_dictionary, join
from cscjax.ops import at_least_float32, highest_precision, shard_batch, vary_alike
from cscjax.solvers._arguments import as_step
from cscjax.solvers._callbacks import Callback
from cscjax.solvers._lasso._algorithm import relative_mapping, relative_size
from cscjax.solvers._lasso._proximal_gradient import OBJECTIVE_WEIGHT
from cscjax.solvers._lasso._signals import sum_signals
from cscjax.solvers._multilayer._loop import MultilayerLoop
from cscjax.solvers._multilayer._problem import MultilayerProblem
from cscjax.solvers._multilayer._result import RESULT_LAYOUT, MultilayerResult, layer_statistics
from cscjax.solvers._steps import extrapolate, momentum
from cscjax.solvers._unrolled import Chain, bottom_up


@highest_precision
def ml_ista(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[Any],
  *,
  iterations: int | None = None,
  tolerance: ArrayLike | None = None,
  max_iterations: int | None = None,
  steps: Sequence[ArrayLike] | None = None,
  nonnegative: bool = False,
  callback: Callback | None = None,
  progress: bool = False,
) -> MultilayerResult:
  """Solves the multi-layer basis pursuit approximately with ML-ISTA (Sulam et al. 2020).

  The problem is

      min_{code_K} 1/2 ||x - D_1 code_1||^2 + sum_i beta_i ||code_i||_1,   code_{i-1} = D_i code_i,

  and an iteration, from zero codes, is

      p_K = code_K,   p_{i-1} = D_i p_i                                           (from the top down)
      code_i <- S_{b_i}(p_i - step_i D_i^T (D_i p_i - code_{i-1})),   code_0 = x   (from the bottom up)

  with soft thresholds b_i = beta_i step_1 ... step_i: the gradient reaches layer i through the updates
  of the layers below it, so that the effective step size of layer i is the product of the steps.

  The iterations end near the minimum, not in it: each layer's gradient ignores the penalties of the
  layers above, so that the fixed point is another point than the solution, which `ml_bp` computes. On
  random problems of two and three layers with steps of 1/L, the final objective exceeded the minimum by
  0.01 % to 2.6 %, more for larger penalties; smaller steps end nearer and take more iterations. The
  codes returned are the thresholded ones, for which code_{i-1} = D_i code_i holds only approximately;
  `residuals` tells how well. The objective is that of the codes which the deepest one implies.

  `iterations=` runs a fixed number of iterations; `tolerance=` stops near the fixed point T(code_K) =
  code_K of the iteration T, when

      ||code_K - T(code_K)|| / (step_1 ... step_K) <= tolerance ||D_K^T ... D_1^T x|| r,

  where r = sqrt(0.45 F / F(0)), clipped to 0.01..1, and F is the objective. With one layer, this is the
  criterion of `ista`, the gradient mapping. It does not bound the distance to the minimum.

  The function works under `jax.jit`, `jax.vmap` and, without a tolerance, `jax.grad`.

  Args:
    dictionaries: The dictionaries D_1, ..., D_K. The signals of D_1 are shaped like `x`, and the signals
      of each other dictionary are the codes of the previous one.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    betas: Penalties, one entry per layer, nonnegative: a scalar, one value per channel, or an array that
      broadcasts against the code. A code of several parts takes one entry for all parts, or one for
      each. `cscjax.relative(0.1)` is a tenth of the largest magnitude in D_i^T ... D_1^T x.
    iterations: Number of iterations, nonnegative; 100 if neither this nor `tolerance` is given.
    tolerance: Stops the solver near the fixed point, instead of after a fixed number of iterations: when
      the criterion above has been at most this value, a nonnegative scalar, for each signal. The
      criterion is computed every 10 iterations and after the last one.
    max_iterations: Largest number of iterations with a tolerance; 1000 if None. It cannot be combined
      with `iterations`.
    steps: Step sizes, one scalar per layer, positive. If None, each is 1/L by `lipschitz`, and no
      gradient flows through it.
    nonnegative: Whether the codes of all layers are constrained to be nonnegative: True or False.
    callback: A function that is called with an `IterationStats` after every 10 iterations and after the
      last one: the number of iterations, the objective and the criterion above. It is called by
      `jax.debug.callback`, also under `jax.jit`; `IterationStats` describes the other transformations.
      Calls with the same function object share their compilation. None costs nothing.
    progress: Whether to show a progress bar on stderr, with the mean objective and the largest value of
      the criterion over the batch. This needs tqdm, which the extra `progress` installs.

  Returns:
    A `MultilayerResult`: the codes, the objective after each iteration, whether the solver converged or
    diverged, and the residual and the number of nonzeros of each layer.

  Raises:
    ValueError: If the numbers of dictionaries, `betas` and `steps` differ, a value is out of range, two
      arguments contradict each other, such as `iterations` and `tolerance`, or shapes do not fit.
    MissingExtraError: If `progress` is True and tqdm is not installed.

  References:
    Sulam, J., Aberdam, A., Beck, A. & Elad, M. (2020). On multi-layer basis pursuit, efficient
    algorithms and convolutional neural networks. IEEE Transactions on Pattern Analysis and Machine
    Intelligence 42(8).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> first = cscjax.MatrixDictionary(jax.random.normal(jax.random.key(0), (16, 24)) / 4)
    >>> second = cscjax.MatrixDictionary(jax.random.normal(jax.random.key(1), (24, 32)) / 5)
    >>> result = cscjax.ml_ista([first, second], jnp.ones(16), [0.1, 0.1], tolerance=1e-2)
    >>> [code.shape for code in result.codes]
    [(24,), (32,)]
    >>> bool(result.converged), bool(result.objective[-1] < result.objective[0])
    (True, True)
  """
  loop = MultilayerLoop.make(iterations, tolerance, max_iterations, callback, progress, name="ml_ista")
  return _solve(dictionaries, x, betas, steps, nonnegative, tolerance, loop, "ista")


@highest_precision
def ml_fista(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[Any],
  *,
  iterations: int | None = None,
  tolerance: ArrayLike | None = None,
  max_iterations: int | None = None,
  steps: Sequence[ArrayLike] | None = None,
  nonnegative: bool = False,
  callback: Callback | None = None,
  progress: bool = False,
) -> MultilayerResult:
  """Solves the multi-layer basis pursuit approximately with ML-FISTA (Sulam et al. 2020).

  The problem is

      min_{code_K} 1/2 ||x - D_1 code_1||^2 + sum_i beta_i ||code_i||_1,   code_{i-1} = D_i code_i,

  and an iteration, from zero codes, is

      p_K = code_K + w (code_K - code_K_old),   p_{i-1} = D_i p_i                  (from the top down)
      code_i <- S_{b_i}(p_i - step_i D_i^T (D_i p_i - code_{i-1})),   code_0 = x   (from the bottom up)

  with FISTA's weights w and soft thresholds b_i = beta_i step_1 ... step_i: the gradient reaches layer i
  through the updates of the layers below it, so that the effective step size of layer i is the product
  of the steps.

  The iterations end near the minimum, not in it: each layer's gradient ignores the penalties of the
  layers above, so that the fixed point is another point than the solution, which `ml_bp` computes. On
  random problems of two and three layers with steps of 1/L, the final objective exceeded the minimum by
  0.01 % to 2.6 %, more for larger penalties; smaller steps end nearer and take more iterations. The
  codes returned are the thresholded ones, for which code_{i-1} = D_i code_i holds only approximately;
  `residuals` tells how well. The objective is that of the codes which the deepest one implies.

  `iterations=` runs a fixed number of iterations; `tolerance=` stops near the fixed point T(code_K) =
  code_K of the iteration T, when

      ||p_K - T(p_K)|| / (step_1 ... step_K) <= tolerance ||D_K^T ... D_1^T x|| r,

  where r = sqrt(1.25 F / F(0)), clipped to 0.01..1, and F is the objective. With one layer, this is the
  criterion of `fista`, the gradient mapping. It does not bound the distance to the minimum.

  The function works under `jax.jit`, `jax.vmap` and, without a tolerance, `jax.grad`.

  Args:
    dictionaries: The dictionaries D_1, ..., D_K. The signals of D_1 are shaped like `x`, and the signals
      of each other dictionary are the codes of the previous one.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    betas: Penalties, one entry per layer, nonnegative: a scalar, one value per channel, or an array that
      broadcasts against the code. A code of several parts takes one entry for all parts, or one for
      each. `cscjax.relative(0.1)` is a tenth of the largest magnitude in D_i^T ... D_1^T x.
    iterations: Number of iterations, nonnegative; 100 if neither this nor `tolerance` is given.
    tolerance: Stops the solver near the fixed point, instead of after a fixed number of iterations: when
      the criterion above has been at most this value, a nonnegative scalar, for each signal. The
      criterion is computed every 10 iterations and after the last one.
    max_iterations: Largest number of iterations with a tolerance; 1000 if None. It cannot be combined
      with `iterations`.
    steps: Step sizes, one scalar per layer, positive. If None, each is 1/L by `lipschitz`, and no
      gradient flows through it.
    nonnegative: Whether the codes of all layers are constrained to be nonnegative: True or False.
    callback: A function that is called with an `IterationStats` after every 10 iterations and after the
      last one: the number of iterations, the objective and the criterion above. It is called by
      `jax.debug.callback`, also under `jax.jit`; `IterationStats` describes the other transformations.
      Calls with the same function object share their compilation. None costs nothing.
    progress: Whether to show a progress bar on stderr, with the mean objective and the largest value of
      the criterion over the batch. This needs tqdm, which the extra `progress` installs.

  Returns:
    A `MultilayerResult`: the codes, the objective after each iteration, whether the solver converged or
    diverged, and the residual and the number of nonzeros of each layer.

  Raises:
    ValueError: If the numbers of dictionaries, `betas` and `steps` differ, a value is out of range, two
      arguments contradict each other, such as `iterations` and `tolerance`, or shapes do not fit.
    MissingExtraError: If `progress` is True and tqdm is not installed.

  References:
    Sulam, J., Aberdam, A., Beck, A. & Elad, M. (2020). On multi-layer basis pursuit, efficient
    algorithms and convolutional neural networks. IEEE Transactions on Pattern Analysis and Machine
    Intelligence 42(8).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> first = cscjax.MatrixDictionary(jax.random.normal(jax.random.key(0), (16, 24)) / 4)
    >>> second = cscjax.MatrixDictionary(jax.random.normal(jax.random.key(1), (24, 32)) / 5)
    >>> result = cscjax.ml_fista([first, second], jnp.ones(16), [0.1, 0.1], tolerance=1e-3)
    >>> [code.shape for code in result.codes]
    [(24,), (32,)]
    >>> bool(result.converged), bool(result.objective[-1] < result.objective[0])
    (True, True)
  """
  loop = MultilayerLoop.make(iterations, tolerance, max_iterations, callback, progress, name="ml_fista")
  return _solve(dictionaries, x, betas, steps, nonnegative, tolerance, loop, "fista")


class _State(NamedTuple):
  codes: list[Code]
  chain: Chain  # the chain of the deepest code
  previous: Chain
  t: jax.Array  # FISTA's t, a scalar
  weight: jax.Array  # weight of the next extrapolation, a scalar
  move: jax.Array  # norm of the change of the deepest code from the extrapolated point, [batch...]


def _solve(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[Any],
  steps: Sequence[ArrayLike] | None,
  nonnegative: bool,
  tolerance: ArrayLike | None,
  loop: MultilayerLoop,
  solver: str,
) -> MultilayerResult:
  """Checks the arguments of a multi-layer solver and runs it."""
  check_one_per_dictionary(dictionaries, betas=betas, **({} if steps is None else {"steps": steps}))
  problem = MultilayerProblem.make(dictionaries, x, betas, checks.boolean("nonnegative", nonnegative))
  signals = [problem.x, *(join(code) for code in problem.zeros[:-1])]
  given = [None] * len(dictionaries) if steps is None else steps
  lengths = [
    as_step("steps", step, dictionary, signal)
    for step, dictionary, signal in zip(given, dictionaries, signals, strict=True)
  ]
  result = shard_batch(
    lambda _, *arguments: _iterate(*arguments, loop, solver),
    *(problem.x, problem, lengths, tolerance),
    batch_ndim=problem.batch_ndim,
    layout=RESULT_LAYOUT,
  )
  return loop.finish(result)


@partial(jax.jit, static_argnames=("loop", "solver"))
def _iterate(
  problem: MultilayerProblem,
  steps: list[jax.Array],
  tolerance: jax.Array | None,
  loop: MultilayerLoop,
  solver: str,
) -> MultilayerResult:
  problem, steps, tolerance = vary_alike((problem, steps, tolerance))
  products = list(itertools.accumulate(steps, jnp.multiply))
  proxes = [partial(problem.prox, i, step=product) for i, product in enumerate(products)]
  precise = at_least_float32(problem.x.dtype)

  def norm_of_deepest(code: Code) -> jax.Array:
    squares = jax.tree.map(lambda c: sum_signals(jnp.square(c), problem.batch_ndim), code)
    return jnp.sqrt(sum(jax.tree.leaves(squares)))

  def objective(state: _State) -> jax.Array:
    return problem.objective(state.chain.signals[0], state.chain.points)

  def advance(state: _State) -> _State:
    chain = state.chain
    if solver == "fista":  # by linearity, this extrapolates the whole chain
      chain = extrapolate(chain, state.previous, state.weight.astype(problem.x.dtype))
    codes = bottom_up(problem.dictionaries, problem.x, chain, steps, proxes)
    move = jax.tree.map(jnp.subtract, codes[-1], chain.points[-1])
    t, weight = momentum(state.t)
    size = norm_of_deepest(lax.stop_gradient(move))
    return _State(codes, problem.chain(codes[-1]), state.chain, t, weight, size)

  def measure(state: _State) -> dict[str, jax.Array]:
    return {"objective": problem.squares_scaled_back(objective(state))}

  start = problem.chain(problem.zeros[-1])
  at_zero = 0.5 * problem.energy(problem.x)
  correlation = norm_of_deepest(problem.correlation(problem.x))

  def criterion(state: _State) -> jax.Array:
    """Returns the fixed-point residual; with one layer, it is the relative gradient mapping."""
    decrease = OBJECTIVE_WEIGHT[solver] * relative_size(objective(state), at_zero)
    return relative_mapping(state.move / products[-1].astype(precise), correlation, decrease)

  one = jnp.ones((), precise)
  state = _State(problem.zeros, start, start, one, 0 * one, 0 * at_zero)
  state, trace, iterations, converged = loop.run(state, advance, measure, criterion, tolerance)
  first = problem.squares_scaled_back(at_zero)
  residuals, support_sizes = layer_statistics(problem.dictionaries, problem.x, state.codes)
  return MultilayerResult(
    codes=problem.scaled_back(state.codes),
    objective=jnp.concatenate([first[None], trace["objective"]]),
    iterations=iterations,
    converged=converged,
    diverged=~(objective(state) <= 2 * at_zero),
    gap=None,
    residuals=residuals,
    support_sizes=support_sizes,
  )
