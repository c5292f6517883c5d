"""ISTA and FISTA for one layer, a fixed number of iterations under `lax.scan`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary
from cscjax.ops import nonnegative_soft_threshold, soft_threshold
from cscjax.solvers.arguments import as_signal, as_step, per_part
from cscjax.solvers.steps import extrapolate, momentum, proximal_gradient_step


class SolverResult(NamedTuple):
  """What a solver found.

  Attributes:
    code: The code, batch axes as in the signal.
    objective: [iterations + 1, batch...], 1/2 ||x - D code||^2 + beta ||code||_1 of each signal
      before the first iteration and after each.
  """

  code: Code
  objective: jax.Array


class _State(NamedTuple):
  code: Code
  rebuilt: jax.Array  # D code
  previous: Code
  previous_rebuilt: jax.Array
  t: jax.Array  # scalar, FISTA's t
  weight: jax.Array  # scalar, of the next extrapolation


def ista(
  dictionary: Dictionary,
  x: ArrayLike,
  beta: Any,
  *,
  iterations: int = 100,
  step: ArrayLike | None = None,
  nonnegative: bool = False,
  init: Code | None = None,
) -> SolverResult:
  """Iterative soft thresholding (eq. 1) for min 1/2 ||x - D code||^2 + beta ||code||_1.

      code <- S_{beta step}(code - step D^T (D code - x))

  Works under jit, vmap and grad (through all iterations).

  Args:
    dictionary: D.
    x: Signals [batch..., n], [batch..., L, C] or [batch..., H, W, C] after the dictionary.
    beta: Penalty >= 0: a scalar, per channel [m], or whatever broadcasts against the code. A code of
      several parts takes one for all or one for each part.
    iterations: How many, >= 0.
    step: A scalar > 0, and < 2/L to converge; 1/L by `lipschitz` if None (no gradient flows through
      it). Where that is not exact it comes from below, and the step can be 1 % or so above 1/L.
    nonnegative: Whether the code is constrained to be >= 0 (eq. 2).
    init: Code to start from; 0 if None.

  Returns:
    The code and the trace of its objective, which never rises at a step <= 1/L.

  Raises:
    ValueError: If shapes do not fit, or beta, step or iterations is out of range.
  """
  return _solve(dictionary, x, beta, iterations, step, nonnegative, init, accelerate=False)


def fista(
  dictionary: Dictionary,
  x: ArrayLike,
  beta: Any,
  *,
  iterations: int = 100,
  step: ArrayLike | None = None,
  nonnegative: bool = False,
  init: Code | None = None,
) -> SolverResult:
  """Fast iterative soft thresholding (Beck & Teboulle 2009) for the problem of `ista`.

      y     <- code + (t_old - 1) / t (code - code_old),   t <- (1 + sqrt(1 + 4 t^2)) / 2
      code  <- S_{beta step}(y - step D^T (D y - x))

  At step 1/L its objective is within 2 L ||init - code*||^2 / (k + 1)^2 of the optimum after k
  iterations (their Theorem 4.4), where ISTA's bound falls as 1/k. It can rise in between. D y comes from
  D code by linearity, so an iteration costs one analysis and one synthesis, as ISTA's.

  Arguments, result and errors are those of `ista`; a step above 1/L can diverge.
  """
  return _solve(dictionary, x, beta, iterations, step, nonnegative, init, accelerate=True)


def _solve(dictionary, x, beta, iterations, step, nonnegative, init, accelerate):
  x = as_signal(dictionary, x)
  checks.int_at_least("iterations", iterations, 0)
  checks.all_at_least("beta", beta, 0)
  signal_ndim = dictionary.signal_ndim
  step = as_step("step", step, dictionary, x)
  code = _initial_code(dictionary, x, init)
  beta = per_part("beta", beta, code)
  shrink = nonnegative_soft_threshold if nonnegative else soft_threshold

  def prox(point):
    return jax.tree.map(lambda p, b: shrink(p, b * step), point, beta)

  def objective(code, rebuilt):
    batch = x.ndim - signal_ndim
    penalty = jax.tree.map(lambda c, b: _sum(b * jnp.abs(c), batch), code, beta)
    return 0.5 * _sum(jnp.square(x - rebuilt), batch) + sum(jax.tree.leaves(penalty))

  def body(state, _):
    point, rebuilt = state.code, state.rebuilt
    if accelerate:
      weight = state.weight.astype(x.dtype)
      point = extrapolate(point, state.previous, weight)
      rebuilt = extrapolate(rebuilt, state.previous_rebuilt, weight)
    code = proximal_gradient_step(dictionary, point, rebuilt - x, step, prox)
    rebuilt = dictionary.synthesis(code, x.shape)
    t, weight = momentum(state.t)
    state = _State(code, rebuilt, state.code, state.rebuilt, t, weight)
    return state, objective(code, rebuilt)

  rebuilt = jnp.zeros_like(x) if init is None else dictionary.synthesis(code, x.shape)
  one = jnp.ones((), jnp.promote_types(x.dtype, jnp.float32))  # t^2 overflows in half precision
  state, trace = lax.scan(body, _State(code, rebuilt, code, rebuilt, one, 0 * one), length=iterations)
  return SolverResult(state.code, jnp.concatenate([objective(code, rebuilt)[None], trace]))


def _initial_code(dictionary, x, init):
  shapes = jax.eval_shape(dictionary.analysis, x)
  if init is None:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  got, expected = jax.tree.structure(init), jax.tree.structure(shapes)
  if got != expected:
    checks.fail("init", got, f"a code of structure {expected}")
  for part, shape in zip(jax.tree.leaves(init), jax.tree.leaves(shapes), strict=True):
    if jnp.shape(part) != shape.shape:
      checks.fail("init", jnp.shape(part), f"a code of shape {shape.shape}")
  return jax.tree.map(lambda part, s: jnp.asarray(part, s.dtype), init, shapes)


def _sum(array, batch):
  """Sum over all axes but the first `batch`."""
  return jnp.sum(array, axis=tuple(range(batch, array.ndim)))
