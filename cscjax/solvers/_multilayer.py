"""Codes of several layers: layered thresholding, layered basis pursuit, ML-ISTA and ML-FISTA."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, as_signal, check_one_per_dictionary, join
from cscjax.ops import (
  at_least_float32,
  common_float,
  compact_repr,
  highest_precision,
  nonnegative_soft_threshold,
  soft_threshold,
  vary_alike,
)
from cscjax.solvers._arguments import as_step
from cscjax.solvers._callbacks import Callback, as_callbacks, iteration_numbers, report_periodically
from cscjax.solvers._lasso._fista import fista, ista
from cscjax.solvers._lasso._iterate import SolverResult
from cscjax.solvers._lasso._problem import sum_signals
from cscjax.solvers._penalty import as_penalty
from cscjax.solvers._steps import SOLVERS, extrapolate, momentum
from cscjax.solvers._unrolled import Chain, bottom_up, top_down
from cscjax.solvers._warnings import warn_about_signals


class MultilayerResult(NamedTuple):
  """The result of a multi-layer solver.

  Attributes:
    codes: The codes of all layers, the deepest one last, with the batch axes of the signal.
    objective: The objective of each signal before the first iteration and after each iteration:
      [iterations + 1, batch...]. In `layered_bp`, each layer has an objective of its own: [layers,
      iterations + 1, batch...].
    iterations: Number of iterations (of each layer, for `layered_bp`), an int32 scalar.
    diverged: Whether the final objective (of any layer, for `layered_bp`) is not finite, or more than
      twice that of the zero code: [batch...]. If so, a step was too large.
  """

  codes: list[Code]
  objective: jax.Array
  iterations: jax.Array
  diverged: jax.Array

  def __repr__(self) -> str:
    return compact_repr(self)


@highest_precision
def layered_thresholding(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[ArrayLike],
  *,
  steps: Sequence[ArrayLike] | None = None,
  nonnegative: bool = False,
) -> list[Code]:
  """Encodes a signal with layered thresholding: one ISTA iteration from the zero code in each layer.

  The code of a layer is the signal of the next one (eq. 3 of Zhang & Zhang 2020):

      code_i = S_{beta_i step_i}(step_i D_i^T code_{i-1}),   code_0 = x

  S_b is the soft threshold. With `nonnegative=True` and steps of 1, the codes are the features of a
  plain convolutional network with filters D_i, biases -beta_i and ReLUs; with `IdentityAugmented`
  dictionaries, they are those of an MSDNet (Proposition 1 there). If a code has several parts, they are
  concatenated along the channels to be the signal of the next layer.

  Args:
    dictionaries: The dictionaries D_1, ..., D_K; the first one takes signals shaped like `x`, each of
      the others the code of the one before.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., n] for a dense dictionary).
    betas: Penalties, one entry per layer: a scalar, one value per channel, or an array that broadcasts
      against the code. A code of several parts takes one entry for all parts, or a tuple of one for
      each. Nonnegative, unless `nonnegative=True`: the bias of a ReLU may have either sign.
      `cscjax.relative(0.1)` is a tenth of the smallest penalty for which the code is zero.
    steps: Step sizes, one scalar per layer, positive. If None, each is 1/L by `lipschitz`, and no
      gradient flows through it.
    nonnegative: Whether to use the nonnegative soft threshold, a ReLU with a bias.

  Returns:
    A list of the codes of all layers, the deepest one last.

  Raises:
    ValueError: If the numbers of dictionaries, `betas` and `steps` differ, a value is out of range, or
      shapes do not fit.

  References:
    Papyan, V., Romano, Y. & Elad, M. (2017). Convolutional neural networks analyzed via convolutional
    sparse coding. Journal of Machine Learning Research 18(83).

    Zhang, Z. & Zhang, S. (2020). Towards understanding residual and dilated dense neural networks via
    convolutional sparse coding. National Science Review 8(3).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> first = cscjax.ConvDictionary(jax.random.normal(jax.random.key(0), (3, 3, 1, 4)), stride=2)
    >>> second = cscjax.ConvDictionary(jax.random.normal(jax.random.key(1), (3, 3, 4, 8)), stride=2)
    >>> x = jnp.ones((16, 16, 1))
    >>> betas = [jnp.full(4, 0.1), jnp.full(8, 0.2)]  # one bias per channel, as in a CNN with ReLUs
    >>> codes = cscjax.layered_thresholding(
    ...   [first, second], x, betas, steps=[1.0, 1.0], nonnegative=True
    ... )
    >>> [code.shape for code in codes]
    [(8, 8, 4), (4, 4, 8)]
  """
  check_one_per_dictionary(dictionaries, betas=betas, **({} if steps is None else {"steps": steps}))
  shrink = nonnegative_soft_threshold if checks.boolean("nonnegative", nonnegative) else soft_threshold
  codes, given = [], x
  for i, dictionary in enumerate(dictionaries):
    x = as_signal(dictionary, x)
    checks.all_at_least("betas", betas[i], -math.inf if nonnegative else 0)
    if i == 0:
      warn_about_signals(given, betas[0], dictionary.signal_ndim)
    step = as_step("steps", None if steps is None else steps[i], dictionary, x)
    code = dictionary.analysis(x)
    beta = as_penalty("betas", betas[i], code, x.ndim - dictionary.signal_ndim, nonnegative)
    code = jax.tree.map(lambda c, step=step: step * c, code)
    code = jax.tree.map(lambda c, b, step=step: shrink(c, b * step), code, beta)
    codes.append(code)
    x = join(code)
  return codes


@highest_precision
def ml_ista(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[Any],
  *,
  iterations: int = 100,
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

  The iterations converge to a point near the minimum, not to the minimum; smaller steps bring it nearer
  and take more iterations. The codes returned are the thresholded ones, for which code_{i-1} = D_i
  code_i holds only approximately. The objective is that of the codes which the deepest one implies.

  Args:
    dictionaries: The dictionaries D_1, ..., D_K; the first one takes signals shaped like `x`, each of
      the others the code of the one before.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., n] for a dense dictionary).
    betas: Penalties, one entry per layer, nonnegative: a scalar, one value per channel, or an array that
      broadcasts against the code. A code of several parts takes one entry for all parts, or one for
      each. `cscjax.relative(0.1)` is a tenth of the smallest penalty for which the code is zero.
    iterations: Number of iterations, nonnegative.
    steps: Step sizes, one scalar per layer, positive. If None, each is 1/L by `lipschitz`, and no
      gradient flows through it.
    nonnegative: Whether the codes are constrained to be nonnegative.
    callback: A function that is called with an `IterationStats` after every 10 iterations and after the
      last one: the number of iterations and the objective (the residual is None). It is called by
      `jax.debug.callback`, also under `jax.jit`; `IterationStats` describes the other transformations.
      Calls with the same function object share their compilation. None costs nothing.
    progress: Whether to show a progress bar on stderr, with the mean objective over the batch. This
      needs tqdm, which the extra `progress` installs.

  Returns:
    A `MultilayerResult`: the codes, the objective after each iteration, and whether the solver diverged.

  Raises:
    ValueError: If the numbers of dictionaries, `betas` and `steps` differ, a value is out of range, or
      shapes do not fit.
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
    >>> result = cscjax.ml_ista([first, second], jnp.ones(16), [0.1, 0.1], iterations=50)
    >>> [code.shape for code in result.codes]
    [(24,), (32,)]
    >>> bool(result.objective[-1] < result.objective[0])
    True
  """
  return _solve(dictionaries, x, betas, iterations, steps, nonnegative, "ista", callback, progress)


@highest_precision
def ml_fista(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[Any],
  *,
  iterations: int = 100,
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

  The iterations converge to a point near the minimum, not to the minimum; smaller steps bring it nearer
  and take more iterations. The codes returned are the thresholded ones, for which code_{i-1} = D_i
  code_i holds only approximately. The objective is that of the codes which the deepest one implies.

  Args:
    dictionaries: The dictionaries D_1, ..., D_K; the first one takes signals shaped like `x`, each of
      the others the code of the one before.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., n] for a dense dictionary).
    betas: Penalties, one entry per layer, nonnegative: a scalar, one value per channel, or an array that
      broadcasts against the code. A code of several parts takes one entry for all parts, or one for
      each. `cscjax.relative(0.1)` is a tenth of the smallest penalty for which the code is zero.
    iterations: Number of iterations, nonnegative.
    steps: Step sizes, one scalar per layer, positive. If None, each is 1/L by `lipschitz`, and no
      gradient flows through it.
    nonnegative: Whether the codes are constrained to be nonnegative.
    callback: A function that is called with an `IterationStats` after every 10 iterations and after the
      last one: the number of iterations and the objective (the residual is None). It is called by
      `jax.debug.callback`, also under `jax.jit`; `IterationStats` describes the other transformations.
      Calls with the same function object share their compilation. None costs nothing.
    progress: Whether to show a progress bar on stderr, with the mean objective over the batch. This
      needs tqdm, which the extra `progress` installs.

  Returns:
    A `MultilayerResult`: the codes, the objective after each iteration, and whether the solver diverged.

  Raises:
    ValueError: If the numbers of dictionaries, `betas` and `steps` differ, a value is out of range, or
      shapes do not fit.
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
    >>> result = cscjax.ml_fista([first, second], jnp.ones(16), [0.1, 0.1], iterations=50)
    >>> [code.shape for code in result.codes]
    [(24,), (32,)]
    >>> bool(result.objective[-1] < result.objective[0])
    True
  """
  return _solve(dictionaries, x, betas, iterations, steps, nonnegative, "fista", callback, progress)


@highest_precision
def layered_bp(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[Any],
  *,
  iterations: int = 100,
  steps: Sequence[ArrayLike] | None = None,
  nonnegative: bool = False,
  solver: str = "fista",
  callback: Callback | None = None,
  progress: bool = False,
) -> MultilayerResult:
  """Encodes a signal with layered basis pursuit (Papyan et al. 2017): solves one layer after the other.

  The code of a layer is the signal of the next one:

      code_i = argmin_code 1/2 ||code_{i-1} - D_i code||^2 + beta_i ||code||_1,   code_0 = x

  If a code has several parts, they are concatenated along the channels to be the signal of the next
  layer.

  Args:
    dictionaries: The dictionaries D_1, ..., D_K; the first one takes signals shaped like `x`, each of
      the others the code of the one before.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., n] for a dense dictionary).
    betas: Penalties, one entry per layer, nonnegative: a scalar, one value per channel, or an array that
      broadcasts against the code. A code of several parts takes one entry for all parts, or one for
      each. `cscjax.relative(0.1)` is a tenth of the smallest penalty for which the code is zero.
    iterations: Number of iterations in each layer, nonnegative.
    steps: Step sizes, one scalar per layer, positive. If None, each is 1/L by `lipschitz`, and no
      gradient flows through it.
    nonnegative: Whether the codes are constrained to be nonnegative.
    solver: The solver of each layer, `"fista"` or `"ista"`.
    callback: A function that is called with an `IterationStats` after every 10 iterations of a layer and
      after the last one: the number of iterations in this layer, the objective and the relative gradient
      mapping. It is called by `jax.debug.callback`, also under `jax.jit`; `IterationStats` describes the
      other transformations. Calls with the same function object share their compilation. None costs
      nothing.
    progress: Whether to show a progress bar for each layer on stderr, with the mean objective and the
      largest gradient mapping over the batch. This needs tqdm, which the extra `progress` installs.

  Returns:
    A `MultilayerResult`: the codes, the objective of each layer after each iteration, and whether the
    solver diverged in any layer.

  Raises:
    ValueError: If the numbers of dictionaries, `betas` and `steps` differ, a value is out of range,
      `solver` is unknown, or shapes do not fit.
    MissingExtraError: If `progress` is True and tqdm is not installed.

  References:
    Papyan, V., Romano, Y. & Elad, M. (2017). Convolutional neural networks analyzed via convolutional
    sparse coding. Journal of Machine Learning Research 18(83).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> first = cscjax.MatrixDictionary(jax.random.normal(jax.random.key(0), (16, 24)) / 4)
    >>> second = cscjax.MatrixDictionary(jax.random.normal(jax.random.key(1), (24, 32)) / 5)
    >>> result = cscjax.layered_bp([first, second], jnp.ones(16), [0.1, 0.1], iterations=50)
    >>> [code.shape for code in result.codes], result.objective.shape
    ([(24,), (32,)], (2, 51))
  """
  check_one_per_dictionary(dictionaries, betas=betas, **({} if steps is None else {"steps": steps}))
  checks.all_at_least("betas", betas, 0)
  given = [None] * len(dictionaries) if steps is None else steps
  solve = {"ista": ista, "fista": fista}[checks.one_of("solver", solver, SOLVERS)]
  options = {
    **{"iterations": iterations, "nonnegative": nonnegative},
    **{"callback": callback, "progress": progress},
  }
  results: list[SolverResult] = []
  signal = x
  for dictionary, beta, step in zip(dictionaries, betas, given, strict=True):
    result = solve(dictionary, signal, beta, step=step, **options)
    results.append(result)
    signal = join(result.code)
  objectives = [jnp.asarray(result.objective) for result in results]
  dtype = common_float(*objectives)
  return MultilayerResult(
    codes=[result.code for result in results],
    objective=jnp.stack([objective.astype(dtype) for objective in objectives]),
    iterations=results[0].iterations,
    diverged=jnp.any(jnp.stack([result.diverged for result in results]), axis=0),
  )


class _Problem(NamedTuple):
  """The checked arguments of a multi-layer solver; the lists have one entry per layer."""

  x: jax.Array
  codes: list[Code]  # zero codes
  betas: list[Code]
  steps: list[jax.Array]
  thresholds: list[Code]


class _State(NamedTuple):
  codes: list[Code]
  chain: Chain  # the chain of the deepest code
  previous: Chain
  t: jax.Array  # FISTA's t, a scalar
  weight: jax.Array  # weight of the next extrapolation, a scalar


def _solve(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[Any],
  iterations: int,
  steps: Sequence[ArrayLike] | None,
  nonnegative: bool,
  solver: str,
  callback: Callback | None,
  progress: bool,
) -> MultilayerResult:
  """Checks the arguments of a multi-layer solver and runs it."""
  checks.int_at_least("iterations", iterations, 0)
  checks.boolean("nonnegative", nonnegative)
  callbacks = as_callbacks(callback, progress, f"ml_{solver}", iterations)
  problem = _problem(dictionaries, x, betas, steps, bool(nonnegative))
  result = _iterate(tuple(dictionaries), problem, iterations, bool(nonnegative), solver, callbacks)
  if callbacks and not checks.is_traced(result):
    jax.effects_barrier()
  return result


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _iterate(
  dictionaries: tuple[Dictionary, ...],
  problem: _Problem,
  iterations: int,
  nonnegative: bool,
  solver: str,
  callbacks: tuple[Callback, ...],
) -> MultilayerResult:
  dictionaries, problem = vary_alike((dictionaries, problem))
  x, codes, betas, steps, thresholds = problem
  shrink = nonnegative_soft_threshold if nonnegative else soft_threshold
  proxes = [lambda point, t=threshold: jax.tree.map(shrink, point, t) for threshold in thresholds]
  batch = x.ndim - dictionaries[0].signal_ndim

  def objective(chain: Chain) -> jax.Array:
    value = 0.5 * sum_signals(jnp.square(x - chain.signals[0]), batch)
    for point, beta in zip(chain.points, betas, strict=True):
      penalty = jax.tree.map(lambda p, b: sum_signals(b * jnp.abs(p), batch), point, beta)
      value += sum(jax.tree.leaves(penalty))
    return value.astype(x.dtype)

  def body(state: _State, iteration: jax.Array | None) -> tuple[_State, jax.Array]:
    chain = state.chain
    if solver == "fista":  # by linearity, this extrapolates the whole chain
      chain = extrapolate(chain, state.previous, state.weight.astype(x.dtype))
    codes = bottom_up(dictionaries, x, chain, steps, proxes)
    chain = top_down(dictionaries, codes[-1], codes, x)
    t, weight = momentum(state.t)
    value = objective(chain)
    if iteration is not None:
      report_periodically(callbacks, iteration, iterations, lambda: (value, None))
    return _State(codes, chain, state.chain, t, weight), value

  chain = top_down(dictionaries, codes[-1], codes, x)
  one = jnp.ones((), at_least_float32(x.dtype))
  state = _State(codes, chain, chain, one, 0 * one)
  state, trace = lax.scan(body, state, iteration_numbers(callbacks, iterations), length=iterations)
  trace = jnp.concatenate([objective(chain)[None], trace])
  diverged = ~(trace[-1] <= 2 * trace[0])
  return MultilayerResult(state.codes, trace, jnp.int32(iterations), diverged)


def _problem(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[Any],
  steps: Sequence[ArrayLike] | None,
  nonnegative: bool,
) -> _Problem:
  """Checks the arguments and computes the zero codes, steps and thresholds of all layers."""
  check_one_per_dictionary(dictionaries, betas=betas, **({} if steps is None else {"steps": steps}))
  given = [None] * len(dictionaries) if steps is None else steps
  problem = _Problem(as_signal(dictionaries[0], x), [], [], [], [])
  signal, product = problem.x, jnp.ones((), problem.x.dtype)  # signal: D_{i-1}^T ... D_1^T x
  batch_ndim = problem.x.ndim - dictionaries[0].signal_ndim
  for dictionary, beta, step in zip(dictionaries, betas, given, strict=True):
    checks.all_at_least("betas", beta, 0)
    signal = as_signal(dictionary, signal)
    correlation = dictionary.analysis(signal)
    beta = as_penalty("betas", beta, correlation, batch_ndim, nonnegative)
    code, step = jax.tree.map(jnp.zeros_like, correlation), as_step("steps", step, dictionary, signal)
    product = product * step
    threshold = jax.tree.map(lambda b, product=product: b * product, beta)
    for values, value in zip(problem[1:], (code, beta, step, threshold), strict=True):
      values.append(value)
    signal = join(correlation)
  warn_about_signals(x, betas[0], dictionaries[0].signal_ndim)
  return problem
