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
  highest_precision,
  nonnegative_soft_threshold,
  soft_threshold,
  vary_alike,
)
from cscjax.solvers._arguments import as_step, per_part
from cscjax.solvers._lasso._iterate import SolverResult
from cscjax.solvers._lasso._problem import sum_signals
from cscjax.solvers._lasso._proximal_gradient import fista, ista
from cscjax.solvers._steps import SOLVERS, extrapolate, momentum
from cscjax.solvers._unrolled import Chain, bottom_up, top_down


class MultilayerResult(NamedTuple):
  """What a multi-layer solver found.

  Attributes:
    codes: Of all layers, batch axes as in the signal.
    objective: [iterations + 1, batch...], see `ml_ista`, before the first iteration and after each;
      [layers, iterations + 1, batch...] of `layered_bp`, where each layer has an objective of its own.
    iterations: int32 scalar, how many were done (in each layer).
    diverged: [batch...], whether the objective (of a layer) is not finite, or above twice that of the
      code 0: a step was too large.
  """

  codes: list[Code]
  objective: jax.Array
  iterations: jax.Array
  diverged: jax.Array


@highest_precision
def layered_thresholding(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[ArrayLike],
  *,
  steps: Sequence[ArrayLike] | None = None,
  nonnegative: bool = False,
) -> list[Code]:
  """One ISTA iteration from code 0 in each layer, the layer below as its signal (eq. 3).

      code_i = S_{beta_i step_i}(step_i D_i^T code_{i-1}),   code_0 = x

  With `nonnegative` and steps 1 it is a plain network: filters D_i, biases -beta_i. Over
  `IdentityAugmented` dictionaries it is the MSDNet (Proposition 1); a code (a, z) is joined along the
  channels to be the next signal.

  Args:
    dictionaries: D_1 ... D_k, the first for signals shaped like `x`.
    x: Signals, batch axes first.
    betas: One a layer, >= 0 with the signed threshold (the bias of a ReLU is free); for a code of
      several parts a tuple, one for each part, or one for all.
    steps: One a layer, > 0; 1/L each by `lipschitz` if None (no gradient flows through it).
    nonnegative: Whether to use S^+ (ReLU) in place of the signed soft threshold.

  Returns:
    The codes of all layers.

  Raises:
    ValueError: If the numbers of dictionaries, betas and steps differ, a value is out of range, or
      shapes do not fit.
  """
  check_one_per_dictionary(dictionaries, betas=betas, **({} if steps is None else {"steps": steps}))
  shrink = nonnegative_soft_threshold if checks.boolean("nonnegative", nonnegative) else soft_threshold
  codes = []
  for i, dictionary in enumerate(dictionaries):
    x = as_signal(dictionary, x)
    checks.all_at_least("betas", betas[i], -math.inf if nonnegative else 0)
    step = as_step("steps", None if steps is None else steps[i], dictionary, x)
    code = jax.tree.map(lambda c, step=step: step * c, dictionary.analysis(x))
    beta = per_part("betas", betas[i], code)
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
) -> MultilayerResult:
  """Multi-layer ISTA (Sulam et al. 2020), from codes 0.

  For the multi-layer basis pursuit

      min over code_K of 1/2 ||x - D_1 code_1||^2 + sum_i beta_i ||code_i||_1,  code_{i-1} = D_i code_i,

  whose value is the objective returned. An iteration is that of `multilayer_pursuit` with soft
  thresholds beta_i step_1 ... step_i: the gradient reaches layer i through the updates of those below,
  so that this is its step as seen from the objective. It ends near the minimum, not in it: the smaller
  the steps, the nearer, and the more iterations. The codes returned are the thresholded ones, for which
  code_{i-1} = D_i code_i holds but approximately.

  Args:
    dictionaries: D_1 ... D_K, the first for signals shaped like `x`.
    x: Signals, batch axes first.
    betas: One a layer, >= 0, each as in `ista`.
    iterations: How many, >= 0.
    steps: One a layer, > 0; 1/L each by `lipschitz` if None (no gradient flows through it).
    nonnegative: Whether the codes are constrained to be >= 0.

  Returns:
    A `MultilayerResult`: the codes, the trace of the objective, and whether it diverged.

  Raises:
    ValueError: If the numbers of dictionaries, betas and steps differ, a value is out of range, or
      shapes do not fit.
  """
  return _solve(dictionaries, x, betas, iterations, steps, nonnegative, solver="ista")


@highest_precision
def ml_fista(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[Any],
  *,
  iterations: int = 100,
  steps: Sequence[ArrayLike] | None = None,
  nonnegative: bool = False,
) -> MultilayerResult:
  """Multi-layer FISTA (Sulam et al. 2020): `ml_ista` with the deepest code extrapolated.

  Arguments, result and errors are those of `ml_ista`.
  """
  return _solve(dictionaries, x, betas, iterations, steps, nonnegative, solver="fista")


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
) -> MultilayerResult:
  """Layered basis pursuit (Papyan et al. 2017): each layer solved before the next, whose signal it is.

  Args:
    dictionaries: As in `ml_ista`.
    x: As in `ml_ista`.
    betas: As in `ml_ista`.
    iterations: In each layer.
    steps: As in `ml_ista`.
    nonnegative: As in `ml_ista`.
    solver: "fista" or "ista", by which a layer is solved.

  Returns:
    A `MultilayerResult`: the codes, each layer's trace of its objective, and whether one diverged.

  Raises:
    ValueError: As `ml_ista`.
  """
  check_one_per_dictionary(dictionaries, betas=betas, **({} if steps is None else {"steps": steps}))
  checks.all_at_least("betas", betas, 0)
  given = [None] * len(dictionaries) if steps is None else steps
  solve = {"ista": ista, "fista": fista}[checks.one_of("solver", solver, SOLVERS)]
  results: list[SolverResult] = []
  signal = x
  for dictionary, beta, step in zip(dictionaries, betas, given, strict=True):
    result = solve(dictionary, signal, beta, iterations=iterations, step=step, nonnegative=nonnegative)
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
  """Checked arguments, one entry a layer."""

  x: jax.Array
  codes: list[Code]  # zeros
  betas: list[Code]
  steps: list[jax.Array]
  thresholds: list[Code]


class _State(NamedTuple):
  codes: list[Code]
  chain: Chain  # of the deepest code
  previous: Chain
  t: jax.Array  # scalar, FISTA's t
  weight: jax.Array  # scalar, of the next extrapolation


def _solve(dictionaries, x, betas, iterations, steps, nonnegative, solver):
  checks.int_at_least("iterations", iterations, 0)
  checks.boolean("nonnegative", nonnegative)
  problem = _problem(dictionaries, x, betas, steps)
  return _iterate(tuple(dictionaries), problem, iterations, bool(nonnegative), solver)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _iterate(dictionaries, problem, iterations, nonnegative, solver):
  dictionaries, problem = vary_alike((dictionaries, problem))
  x, codes, betas, steps, thresholds = problem
  shrink = nonnegative_soft_threshold if nonnegative else soft_threshold
  proxes = [lambda point, t=threshold: jax.tree.map(shrink, point, t) for threshold in thresholds]
  batch = x.ndim - dictionaries[0].signal_ndim

  def objective(chain):
    value = 0.5 * sum_signals(jnp.square(x - chain.signals[0]), batch)
    for point, beta in zip(chain.points, betas, strict=True):
      penalty = jax.tree.map(lambda p, b: sum_signals(b * jnp.abs(p), batch), point, beta)
      value += sum(jax.tree.leaves(penalty))
    return value.astype(x.dtype)

  def body(state, _):
    chain = state.chain
    if solver == "fista":  # by linearity the whole chain is extrapolated with the deepest code
      chain = extrapolate(chain, state.previous, state.weight.astype(x.dtype))
    codes = bottom_up(dictionaries, x, chain, steps, proxes)
    chain = top_down(dictionaries, codes[-1], codes, x)
    t, weight = momentum(state.t)
    return _State(codes, chain, state.chain, t, weight), objective(chain)

  chain = top_down(dictionaries, codes[-1], codes, x)
  one = jnp.ones((), at_least_float32(x.dtype))
  state, trace = lax.scan(body, _State(codes, chain, chain, one, 0 * one), length=iterations)
  trace = jnp.concatenate([objective(chain)[None], trace])
  diverged = ~(trace[-1] <= 2 * trace[0])
  return MultilayerResult(state.codes, trace, jnp.int32(iterations), diverged)


def _problem(dictionaries, x, betas, steps) -> _Problem:
  check_one_per_dictionary(dictionaries, betas=betas, **({} if steps is None else {"steps": steps}))
  given = [None] * len(dictionaries) if steps is None else steps
  problem = _Problem(as_signal(dictionaries[0], x), [], [], [], [])
  signal, product = problem.x, jnp.ones((), problem.x.dtype)
  for dictionary, beta, step in zip(dictionaries, betas, given, strict=True):
    checks.all_at_least("betas", beta, 0)
    signal = as_signal(dictionary, signal)
    code = jax.tree.map(jnp.zeros_like, dictionary.analysis(signal))
    beta, step = per_part("betas", beta, code), as_step("steps", step, dictionary, signal)
    product = product * step
    threshold = jax.tree.map(lambda b, product=product: b * product, beta)
    for values, value in zip(problem[1:], (code, beta, step, threshold), strict=True):
      values.append(value)
    signal = join(code)
  return problem
