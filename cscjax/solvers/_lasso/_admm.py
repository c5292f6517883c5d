"""ADMM for one layer, in its Douglas-Rachford form, with a linear solve in signal space."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, circulant_embedding
from cscjax.ops import at_least_float32, expand_rank, highest_precision, power_of_two
from cscjax.solvers._lasso._algorithm import Algorithm, Stop, relative
from cscjax.solvers._lasso._certificates import dual_value, gradient_mapping
from cscjax.solvers._lasso._iterate import Differentiate, Loop, SolverResult, solve
from cscjax.solvers._lasso._problem import Lasso, per_signal, safe_sqrt

COUPLING = (
  0.15  # weight of z in the metric, for atoms of unit norm: zero boundaries want less, circular more
)
BALANCE_TARGET = 1.1  # of primal / dual residual
SHORT = 1e-3  # step of the gradient mapping, for atoms of unit norm: that of no step, to rounding
LEAST_RHO = (
  0.25  # of a balanced rho, for atoms of unit norm: the dual vanishes with beta, and rho would too
)
OBJECTIVE_WEIGHT = 5.0  # of the stopping rule, see `Algorithm`
BALANCED_FIRST = 10  # iterations; then ever more rarely, as each change of rho sets it back


class _Pair(NamedTuple):
  """A signal z and a code of the circular dictionary; the metric is that of (coupling z, code)."""

  signal: jax.Array
  code: Code


class _State(NamedTuple):
  point: _Pair  # P; its prox is the answer, the rest the scaled dual
  image: jax.Array  # D of the code in P
  reconstruction: jax.Array  # D of the code in prox(P)
  rho: jax.Array  # [batch...], for which P is scaled
  factor: jax.Array  # [batch...], of rho, for the next iteration
  count: jax.Array


@highest_precision
def admm(
  dictionary: Dictionary,
  x: ArrayLike,
  beta: Any,
  *,
  iterations: int | None = None,
  tolerance: ArrayLike | None = None,
  max_iterations: int | None = None,
  stop: Stop = "gradient_mapping",
  rho: ArrayLike | None = None,
  relaxation: float = 1.8,
  nonnegative: bool = False,
  mask: ArrayLike | None = None,
  init: Code | None = None,
  record: Sequence[str] = ("objective",),
  differentiate: Differentiate | None = None,
) -> SolverResult:
  """The alternating direction method of multipliers for the problem of `ista`.

  Splits into prox steps, of the data term in z = D code and of the penalty in the code, and the
  projection onto {z = D code}, whose linear system (ridge I + D D^T) lives in signal space: one FFT of
  the image instead of one a code channel. Written as over-relaxed Douglas-Rachford splitting on the pair
  P = (z, code) (graph form; Parikh & Boyd 2014):

      Y <- prox(P);   P <- P + relaxation (project(2 Y - P) - Y)

  An iteration costs one analysis and one synthesis, as FISTA's, and there are usually far fewer. For
  dense dictionaries and convolutions of stride 1 with any padding: zero boundaries and masks cost
  nothing more.

  Args:
    dictionary: D, a MatrixDictionary, a ConvDictionary of stride 1, or the identity beside one.
    x: Signals [batch..., n], [batch..., L, C] or [batch..., H, W, C] after the dictionary.
    beta: Penalty >= 0: a scalar, per channel [m], or an array that broadcasts against the code. A code
      of several parts takes one for all parts or one for each.
    iterations: Number of iterations, >= 0; 100 if neither this nor a tolerance is given.
    tolerance: Instead of a number of iterations: stop when the measure named by `stop` has been at most
      this, >= 0, for each signal. It is computed in iterations 10, 20, ... and in the last one.
    max_iterations: With a tolerance, the largest number of iterations; 1000 if None.
    stop: "gradient_mapping" or "gap". "gradient_mapping" is that of `ista` at the code itself in the
      limit of short steps, where G is the smallest subgradient of the objective, and with w = 5.
      Convexity guarantees F(code) - min F <= ||G|| ||code - solution||. "gap" as in `ista`, with ADMM's
      own dual point.
    rho: Penalty parameter > 0, for atoms of unit norm around 1. If None, it is balanced for each
      signal until the two residuals fall together (He, Yang & Wang 2000; normalised as Wohlberg 2017).
    relaxation: In 1..2.
    nonnegative: Whether the code is constrained to be >= 0 (eq. 2).
    mask: Weights in 0..1 of the squared errors that broadcast against `x`; all 1 if None. The value of
      a pixel of weight 0, even NaN, does not matter.
    init: Code to start from, 0 if None; the dual is taken from its residual.
    record: Traces to keep, of "objective", "gradient_mapping", "gap", "support_size"; what is not named
      costs nothing. "gradient_mapping" and "gap" cost an analysis each in every iteration.
    differentiate: "unrolled" differentiates through the iterations; "remat" does the same and computes
      them again in the backward pass, with memory of about the square root of their number; "implicit"
      is the derivative of the solution near the code, found when a derivative is taken (see `polished`;
      traces have no derivative then). If None, unrolled for a fixed number of iterations, else implicit.

  Returns:
    A `SolverResult`: the code, what was recorded, and whether it converged or diverged. The code is
    sparse, the result of a threshold.

  Raises:
    ValueError: If shapes do not fit, an argument is out of range, two of them contradict each other, or
      the dictionary is none of those above.
  """
  problem = Lasso.make(dictionary, x, beta, mask, nonnegative)
  loop = Loop.make(
    problem, iterations, tolerance, max_iterations, stop, record, differentiate, searches=False
  )
  checks.in_range("relaxation", relaxation, 1, 2)
  if rho is not None:
    checks.all_at_least("rho", rho, 0, open_bound=True)
    if jnp.ndim(rho) != 0:
      checks.fail("rho", jnp.shape(rho), "a scalar")
  signal_shape = problem.x.shape[problem.batch_ndim :]
  circulant_embedding(problem.dictionary, signal_shape)  # raises where there is none
  return solve(problem, rho, init, tolerance, method=DouglasRachford(float(relaxation)), loop=loop)


class DouglasRachford(NamedTuple):
  """The method, see `Method`.

  Attributes:
    relaxation: In 1..2.
  """

  relaxation: float

  def __call__(self, problem: Lasso, parameter: jax.Array | None, init: Code) -> Algorithm:
    """ADMM with the penalty parameter `parameter`, balanced if None."""
    signal_shape = problem.x.shape[problem.batch_ndim :]
    embedding = circulant_embedding(problem.dictionary, signal_shape)
    squared_norm = _squared_atom_norm(embedding.dictionary)
    squared_norm = jnp.where(squared_norm > 0, squared_norm, 1)
    ridge = squared_norm / COUPLING
    invert = embedding.ridge_inverse(ridge)
    if problem.mask is None:
      weight = jnp.ones(signal_shape, problem.x.dtype)
    else:
      weight = jnp.broadcast_to(problem.mask, problem.x.shape)
    weight = expand_rank(embedding.embed_signal(weight), problem.x.ndim)
    beta, inside = _embedded_penalty(embedding, problem)
    larger = problem.replace(x=embedding.embed_signal(problem.x), mask=weight, beta=beta)
    synthesis = partial(embedding.dictionary.synthesis, signal_shape=larger.x.shape)

    def prox(point: _Pair, rho: jax.Array) -> _Pair:
      weight_of_point = per_signal(rho / ridge, larger.x)
      signal = (weight * larger.x + weight_of_point * point.signal) / (weight + weight_of_point)
      return _Pair(signal, jax.tree.map(jnp.multiply, inside, larger.prox(point.code, 1 / rho)))

    unit = power_of_two(1 / jnp.sqrt(ridge), axis=())  # a code is about as large as D of it times this

    def norm(pair):
      code = jax.tree.map(lambda c: c / per_signal(unit, c), pair.code)
      signal = problem.inner(pair.signal, pair.signal) / (ridge * unit**2)
      return safe_sqrt(signal + problem.inner(code, code))

    def parts(state):
      """prox(P), the scaled dual P - prox(P), and rho; a change of rho moves the dual alone."""
      near = prox(state.point, state.rho)
      return near, scaled_dual(state, state.point, near), state.rho * state.factor

    def scaled_dual(state, point, near):
      scale = 1 / state.factor
      return jax.tree.map(lambda p, y: (p - y) * per_signal(scale, p), point, near)

    def residuals(state, new):
      """Primal and dual, each relative to what it is the difference of."""
      near, dual, rho = parts(state)
      gap = jax.tree.map(lambda n, y, u: (n - y - u) / self.relaxation, new, near, dual)
      projected = jax.tree.map(jnp.add, near, gap)
      primal = relative(norm(gap), jnp.maximum(norm(near), norm(projected)))
      next_near = prox(new, rho)
      change = jax.tree.map(jnp.subtract, next_near, near)
      return primal, relative(norm(change), norm(jax.tree.map(jnp.subtract, new, next_near)))

    def balance(state, new):
      primal, dual = residuals(state, new)
      known = (primal > 0) & (dual > 0) & (dual < jnp.inf)
      ratio = jnp.where(known, primal, 1) / jnp.where(known, dual, 1)
      factor = jnp.clip(jnp.sqrt(ratio / BALANCE_TARGET), 1e-3, 1e3)
      factor = jnp.maximum(factor, LEAST_RHO * squared_norm / (state.rho * state.factor))
      return jnp.where(known, factor, 1)

    def advance(state):
      near, dual, rho = parts(state)
      dual_image = scaled_dual(state, state.image, state.reconstruction)
      # To the graph of D from 2 prox(P) - P, whose image follows by linearity, as P's does below.
      defect = near.signal - dual.signal - (state.reconstruction - dual_image)
      correction, along = invert(defect)
      move = _Pair(-ridge * correction, along)
      step = partial(jax.tree.map, lambda y, u, m: y + u + self.relaxation * (m - u))
      new = step(near, dual, move)
      image = step(state.reconstruction, dual_image, defect + move.signal)
      reconstruction = synthesis(prox(new, rho).code)
      factor = jnp.ones_like(rho)
      if parameter is None:
        tens, rest = jnp.divmod(state.count, BALANCED_FIRST)  # then at 10, 20, 40, 80, ...
        due = (tens == 0) | ((rest == 0) & (tens & (tens - 1) == 0))
        factor = lax.cond(due, balance, lambda *_: factor, state, new)
      return _State(new, image, reconstruction, rho, factor, state.count + 1), None

    def solution(state):
      return embedding.crop_code(prox(state.point, state.rho).code), embedding.crop_signal(
        state.reconstruction
      )

    def mapping(state, _):
      code, reconstruction = solution(state)
      gradient = problem.dictionary.analysis(problem.residual(reconstruction))
      return gradient_mapping(problem, code, gradient, SHORT / squared_norm)

    def dual_bound(state, _):
      signal = embedding.crop_signal(prox(state.point, state.rho).signal)
      correlation = problem.dictionary.analysis(-problem.residual(signal))
      return dual_value(problem, signal, correlation)

    rho = jnp.asarray(
      squared_norm if parameter is None else parameter, at_least_float32(problem.x.dtype)
    )
    rho = rho * jnp.ones_like(problem.unit, rho.dtype)
    code = embedding.embed_code(init)
    reconstruction = synthesis(code)
    residual = larger.residual(reconstruction)
    point = _Pair(
      reconstruction + residual * per_signal(ridge / rho, residual),
      jax.tree.map(
        lambda c, g: c - g / per_signal(rho, g), code, embedding.dictionary.analysis(residual)
      ),
    )
    image, reconstruction = synthesis(point.code), synthesis(prox(point, rho).code)
    state = _State(point, image, reconstruction, rho, jnp.ones_like(rho), jnp.zeros((), jnp.int32))
    return Algorithm(state, advance, solution, mapping, dual_bound, OBJECTIVE_WEIGHT)


def _embedded_penalty(embedding, problem):
  """beta of the circular dictionary, and 1 where the code of the problem is, 0 around it."""

  def embed(beta, code):
    return jnp.broadcast_to(beta, jnp.broadcast_shapes(beta.shape, code.shape))

  signal = jax.ShapeDtypeStruct(problem.x.shape[problem.batch_ndim :], problem.x.dtype)
  single = jax.eval_shape(problem.dictionary.analysis, signal)
  single = jax.tree.map(lambda c: jnp.ones((1,) * problem.batch_ndim + c.shape, c.dtype), single)
  inside = embedding.embed_code(single)
  if jax.tree.map(jnp.shape, inside) == jax.tree.map(jnp.shape, single):
    return problem.beta, inside
  return embedding.embed_code(jax.tree.map(embed, problem.beta, single)), inside


def _squared_atom_norm(dictionary: Dictionary) -> jax.Array:
  """||d||^2 of an uncut atom on average (one of F^T, where the identity is beside it)."""
  atoms = jax.tree.leaves(dictionary)[0]
  return jnp.sum(jnp.square(atoms)) / atoms.shape[-1]
