"""ADMM for one layer as Douglas-Rachford splitting, with a linear solve in signal space."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import CirculantEmbedding, Code, Dictionary, circulant_embedding
from cscjax.ops import at_least_float32, expand_rank, highest_precision, power_of_two
from cscjax.solvers._callbacks import Callback
from cscjax.solvers._lasso._algorithm import Algorithm, Stop, relative
from cscjax.solvers._lasso._certificates import dual_value, gradient_mapping
from cscjax.solvers._lasso._iterate import Differentiate, Loop, SolverResult, solve
from cscjax.solvers._lasso._problem import Lasso, per_signal, safe_sqrt
from cscjax.solvers._lasso._regularizer import map_arrays

# COUPLING, SHORT_STEP and MIN_RHO are for atoms of unit norm.
COUPLING = 0.15  # weight of z in the metric: less suits zero boundaries better, more suits circular ones
BALANCE_TARGET = 1.1  # target of the primal residual / the dual residual
SHORT_STEP = 1e-3  # step of the gradient mapping: up to rounding, the limit of short steps
MIN_RHO = 0.25  # bound of an adapted rho, which would vanish with beta as the dual variable does
OBJECTIVE_WEIGHT = 5.0  # see `Algorithm`
BALANCED_ITERATIONS = 10  # rho changes in each of these; then more rarely, as a change slows ADMM down


class _Pair(NamedTuple):
  """A signal z and a code of the circular dictionary; its norm is that of (coupling z, code)."""

  signal: jax.Array
  code: Code


class _State(NamedTuple):
  point: _Pair  # P; prox(P) holds the solution, and P - prox(P) is the scaled dual
  image: jax.Array  # D of the code in P
  reconstruction: jax.Array  # D of the code in prox(P)
  rho: jax.Array  # [batch...], the rho for which P is scaled
  factor: jax.Array  # [batch...], the change of rho for the next iteration
  count: jax.Array  # number of iterations so far


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
  nonnegative: Any = False,
  mask: ArrayLike | None = None,
  ridge: Any = None,
  joint_axes: int | Sequence[int] | None = None,
  init: Code | None = None,
  record: Sequence[str] = ("objective",),
  differentiate: Differentiate | None = None,
  callback: Callback | None = None,
  progress: bool = False,
) -> SolverResult:
  """Solves the Lasso, min_code 1/2 ||x - D code||^2 + beta ||code||_1, with ADMM.

  The alternating direction method of multipliers takes proximal steps of the data term, in z = D code,
  and of the penalty, in the code, and projects the pair P = (z, code) onto the pairs with z = D code.
  Written as over-relaxed Douglas-Rachford splitting (graph form; Parikh & Boyd 2014), an iteration is

      Y <- prox(P)
      P <- P + relaxation (project(2 Y - P) - Y)

  The linear system of the projection, ridge I + D D^T, is in signal space, so that an iteration needs
  one FFT of the image instead of one for each code channel. Otherwise it costs one analysis and one
  synthesis, as in `fista`, and there are usually far fewer iterations. Zero boundaries and masks do not
  add to the cost.

  `iterations=` runs a fixed number of iterations; `tolerance=` stops at convergence. The default
  criterion is the norm of G, the smallest subgradient of the objective F at the code (the gradient
  mapping in the limit of short steps):

      ||G|| <= tolerance ||D^T x|| sqrt(5 F(code) / F(0)),

  where the root is clipped to 0.01..1. G is zero only at a solution, and the criterion does not depend
  on the scale of D and x. Convexity guarantees F(code) - min F <= ||G|| ||code - solution||; because the
  distance to the solution is unknown, this is not a numerical bound. The factor 5 makes a tolerance mean
  about the same for `ista`, `fista` and `admm`: on 48x48 crops of four photographs, with
  `tolerance=1e-3`, the final objective exceeded the minimum by 0.010 % to 0.061 %.

  With `stop="gap"`, the criterion is the duality gap for the best dual point of ADMM found so far,
  relative to F(code). It guarantees (F(code) - min F) / F(code) <= tolerance up to rounding, but takes
  more iterations, and `beta` or `ridge` must be positive (if both are traced and zero, the solver never
  converges).

  In float32, rounding leaves about 1e-6 of either criterion: with a smaller tolerance, the solver may
  stop at `max_iterations` with `converged` False. A signal whose solution is zero starts from the zero
  code and passes the first test.

  The function works under `jax.jit`, `jax.vmap` and `jax.grad`; a second call with the same shapes and
  options does not compile again.

  Args:
    dictionary: The dictionary D: a `MatrixDictionary`, a `ConvDictionary` of stride 1 and any padding,
      or an `IdentityAugmented` of such a convolution.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., n] for a dense dictionary).
    beta: Penalty, nonnegative: a scalar, one value per channel [m], or an array that broadcasts against
      the code. A code of several parts takes one value for all parts, or one for each part.
      `cscjax.relative(0.1)` is a tenth of `beta_max` for each signal.
    iterations: Number of iterations, nonnegative; 100 if neither this nor `tolerance` is given.
    tolerance: Stops the solver at convergence, instead of after a fixed number of iterations: when the
      criterion named by `stop` has been at most this value, a nonnegative scalar, for each signal. The
      criterion is computed every 10 iterations and after the last one.
    max_iterations: Largest number of iterations with a tolerance; 1000 if None. It cannot be combined
      with `iterations`.
    stop: Stopping criterion of `tolerance`, `"gradient_mapping"` or `"gap"`, as described above.
    rho: Penalty parameter of ADMM, a positive scalar; for atoms of unit norm, about 1. If None, it is
      adapted for each signal so that the primal and the dual residual decrease together (He, Yang & Wang
      2000, with the normalised residuals of Wohlberg 2017).
    relaxation: Relaxation parameter, in [1, 2).
    nonnegative: Whether the code is constrained to be nonnegative: a bool, or an array of bools, one per
      channel [m] or of any shape that broadcasts against the code. A code of several parts takes one
      value for all parts, or one for each part.
    mask: Weights of the squared errors, in 0..1, that broadcast against `x`, or against `x` without its
      last axis, such as [H, W] for all channels of an image; 1 if None. Where the weight is zero, the
      value of `x` is ignored, even if it is NaN.
    ridge: Penalty of the squares mu, which adds mu/2 ||code||^2 to the objective (the elastic net):
      nonnegative, in any of the shapes of `beta`; no such term if None.
    joint_axes: Axis or axes of the code, negative, along which coefficients are zero only jointly (joint
      sparsity): the penalty is beta times the Euclidean norm along these axes, in which `beta` and
      `ridge` have size 1. None for the absolute value of each coefficient.
    init: The code to start from; the zero code if None. The dual variable starts from its residual.
    record: Traces to keep, any of `"objective"`, `"gradient_mapping"`, `"gap"` and `"support_size"`. A
      trace that is not named is not computed. `"gradient_mapping"` and `"gap"` cost one analysis each in
      every iteration.
    differentiate: How derivatives of the code are computed. `"unrolled"` differentiates through the
      iterations. `"remat"` does the same, but recomputes the iterations in the backward pass, so that
      the memory grows as the square root of their number. `"implicit"` computes the derivative of the
      solution near the code by the implicit function theorem (see `polished`): the memory does not grow
      with the number of iterations, and the traces have no derivative. If None, it is `"implicit"` with
      a tolerance, and `"unrolled"` otherwise.
    callback: A function that is called with an `IterationStats` after every 10 iterations and after the
      last one: the number of iterations, the objective and the value of the criterion named by `stop`.
      It is called by `jax.debug.callback`, also under `jax.jit`; `IterationStats` describes the other
      transformations. Calls with the same function object share their compilation. None costs nothing.
    progress: Whether to show a progress bar on stderr, with the mean objective and the largest value of
      the criterion over the batch. This needs tqdm, which the extra `progress` installs.

  Returns:
    A `SolverResult`: the code (`result.code` has the shape of `dictionary.analysis(x)`), the traces that
    were recorded, and whether the solver converged or diverged. The code is the result of a soft
    threshold, and so it is sparse.

  Raises:
    ValueError: If shapes do not fit, an argument is out of range, two arguments contradict each other,
      such as `iterations` and `tolerance`, or ADMM does not support the dictionary.
    MissingExtraError: If `progress` is True and tqdm is not installed.

  References:
    He, B. S., Yang, H. & Wang, S. L. (2000). Alternating direction method with self-adaptive penalty
    parameters for monotone variational inequalities. Journal of Optimization Theory and Applications
    106(2).

    Parikh, N. & Boyd, S. (2014). Block splitting for distributed optimization. Mathematical Programming
    Computation 6(1).

    Wohlberg, B. (2017). ADMM penalty parameter selection by residual balancing. arXiv:1704.06209.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> filters = jax.random.normal(jax.random.key(0), (5, 5, 1, 8)) / 5  # 8 atoms of 5x5 pixels
    >>> dictionary = cscjax.ConvDictionary(filters)
    >>> x = jax.random.normal(jax.random.key(1), (16, 16, 1))
    >>> result = cscjax.admm(dictionary, x, beta=1.0, tolerance=1e-3)
    >>> bool(result.converged), result.code.shape
    (True, (16, 16, 8))
    >>> float(jnp.mean(result.code != 0)) < 0.1  # the code is sparse
    True
    >>> history = []
    >>> result = cscjax.admm(dictionary, x, beta=1.0, iterations=25, callback=history.append)
    >>> [stats.iteration for stats in history]
    [10, 20, 25]
  """
  problem = Lasso(
    dictionary, x, beta, nonnegative=nonnegative, mask=mask, ridge=ridge, joint_axes=joint_axes
  )
  loop = Loop.make(
    problem,
    iterations,
    tolerance,
    max_iterations,
    stop,
    record,
    differentiate,
    callback,
    progress,
    name="admm",
    searches_step=False,
  )
  checks.in_range("relaxation", relaxation, 1, 2)
  if rho is not None:
    checks.all_at_least("rho", rho, 0, open_bound=True)
    if jnp.ndim(rho) != 0:
      checks.fail("rho", jnp.shape(rho), "a scalar")
  signal_shape = problem.x.shape[problem.batch_ndim :]
  circulant_embedding(problem.dictionary, signal_shape)  # raises if the dictionary has none
  return solve(problem, rho, init, tolerance, method=DouglasRachford(float(relaxation)), loop=loop)


class DouglasRachford(NamedTuple):
  """The `Method` that sets up ADMM.

  Attributes:
    relaxation: Relaxation parameter, in [1, 2).
  """

  relaxation: float

  def __call__(self, problem: Lasso, parameter: jax.Array | None, init: Code) -> Algorithm:
    """Returns ADMM with the penalty parameter `parameter`, which is adapted if None."""
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
    regularizer, code_mask = _embedded_regularizer(embedding, problem)
    embedded = problem.replace(x=embedding.embed_signal(problem.x), mask=weight, regularizer=regularizer)
    synthesis = partial(embedding.dictionary.synthesis, signal_shape=embedded.x.shape)

    def prox(point: _Pair, rho: jax.Array) -> _Pair:
      weight_of_point = per_signal(rho / ridge, embedded.x)
      signal = (weight * embedded.x + weight_of_point * point.signal) / (weight + weight_of_point)
      # The mask comes first: the norm of a group must not count what is around the code.
      code = embedded.prox(jax.tree.map(jnp.multiply, code_mask, point.code), 1 / rho)
      return _Pair(signal, code)

    # The norm of a code is about this times the norm of its image D code.
    unit = power_of_two(1 / jnp.sqrt(ridge), axis=())

    def norm(pair: _Pair) -> jax.Array:
      code = jax.tree.map(lambda c: c / per_signal(unit, c), pair.code)
      signal = problem.inner(pair.signal, pair.signal) / (ridge * unit**2)
      return safe_sqrt(signal + problem.inner(code, code))

    def parts(state: _State) -> tuple[_Pair, _Pair, jax.Array]:
      """Returns prox(P), the scaled dual P - prox(P) and rho; a change of rho rescales the dual only."""
      near = prox(state.point, state.rho)
      return near, scaled_dual(state, state.point, near), state.rho * state.factor

    def scaled_dual(state: _State, point: Any, near: Any) -> Any:
      scale = 1 / state.factor
      return jax.tree.map(lambda p, y: (p - y) * per_signal(scale, p), point, near)

    def residuals(state: _State, new: _Pair) -> tuple[jax.Array, jax.Array]:
      """Returns the primal and the dual residual, normalised as in Wohlberg (2017)."""
      near, dual, rho = parts(state)
      gap = jax.tree.map(lambda n, y, u: (n - y - u) / self.relaxation, new, near, dual)
      projected = jax.tree.map(jnp.add, near, gap)
      primal = relative(norm(gap), jnp.maximum(norm(near), norm(projected)))
      next_near = prox(new, rho)
      change = jax.tree.map(jnp.subtract, next_near, near)
      return primal, relative(norm(change), norm(jax.tree.map(jnp.subtract, new, next_near)))

    def balance(state: _State, new: _Pair) -> jax.Array:
      """Returns the factor of rho that balances the residuals."""
      primal, dual = residuals(state, new)
      known = (primal > 0) & (dual > 0) & (dual < jnp.inf)
      ratio = jnp.where(known, primal, 1) / jnp.where(known, dual, 1)
      factor = jnp.clip(jnp.sqrt(ratio / BALANCE_TARGET), 1e-3, 1e3)
      factor = jnp.maximum(factor, MIN_RHO * squared_norm / (state.rho * state.factor))
      return jnp.where(known, factor, 1)

    def advance(state: _State) -> tuple[_State, None]:
      near, dual, rho = parts(state)
      dual_image = scaled_dual(state, state.image, state.reconstruction)
      # Projects 2 prox(P) - P onto the graph of D. Its image follows by linearity, as that of P below.
      defect = near.signal - dual.signal - (state.reconstruction - dual_image)
      correction, along = invert(defect)
      move = _Pair(-ridge * correction, along)
      step = partial(jax.tree.map, lambda y, u, m: y + u + self.relaxation * (m - u))
      new = step(near, dual, move)
      image = step(state.reconstruction, dual_image, defect + move.signal)
      reconstruction = synthesis(prox(new, rho).code)
      factor = jnp.ones_like(rho)
      if parameter is None:
        # Due in iterations 0 to 9, then in 10, 20, 40, 80, ...
        tens, rest = jnp.divmod(state.count, BALANCED_ITERATIONS)
        due = (tens == 0) | ((rest == 0) & (tens & (tens - 1) == 0))
        factor = lax.cond(due, balance, lambda *_: factor, state, new)
      return _State(new, image, reconstruction, rho, factor, state.count + 1), None

    def solution(state: _State) -> tuple[Code, jax.Array]:
      return embedding.crop_code(prox(state.point, state.rho).code), embedding.crop_signal(
        state.reconstruction
      )

    def mapping(state: _State, _: None) -> jax.Array:
      code, reconstruction = solution(state)
      gradient = problem.dictionary.analysis(problem.residual(reconstruction))
      return gradient_mapping(problem, code, gradient, SHORT_STEP / squared_norm)

    def dual_bound(state: _State, _: None) -> jax.Array:
      signal = embedding.crop_signal(prox(state.point, state.rho).signal)
      correlation = problem.dictionary.analysis(-problem.residual(signal))
      return dual_value(problem, signal, correlation)

    rho = jnp.asarray(
      squared_norm if parameter is None else parameter, at_least_float32(problem.x.dtype)
    )
    rho = rho * jnp.ones_like(problem.unit, rho.dtype)
    code = embedding.embed_code(init)
    reconstruction = synthesis(code)
    residual = embedded.residual(reconstruction)
    point = _Pair(
      reconstruction + residual * per_signal(ridge / rho, residual),
      jax.tree.map(
        lambda c, g: c - g / per_signal(rho, g), code, embedding.dictionary.analysis(residual)
      ),
    )
    image, reconstruction = synthesis(point.code), synthesis(prox(point, rho).code)
    state = _State(point, image, reconstruction, rho, jnp.ones_like(rho), jnp.zeros((), jnp.int32))
    return Algorithm(state, advance, solution, mapping, dual_bound, OBJECTIVE_WEIGHT)


def _embedded_regularizer(embedding: CirculantEmbedding, problem: Lasso) -> tuple[Any, Code]:
  """Returns the regularizer of the embedded code, and a mask: 1 on the code and 0 around it."""
  signal = jax.ShapeDtypeStruct(problem.x.shape[problem.batch_ndim :], problem.x.dtype)
  single = jax.eval_shape(problem.dictionary.analysis, signal)
  single = jax.tree.map(lambda c: jnp.ones((1,) * problem.batch_ndim + c.shape, c.dtype), single)
  code_mask = embedding.embed_code(single)
  if jax.tree.map(jnp.shape, code_mask) == jax.tree.map(jnp.shape, single):
    return problem.regularizer, code_mask

  def embed(arrays: Code) -> Code:
    return embedding.embed_code(
      jax.tree.map(
        lambda a, c: jnp.broadcast_to(a, jnp.broadcast_shapes(a.shape, c.shape)), arrays, single
      )
    )

  return map_arrays(embed, problem.regularizer, single), code_mask


def _squared_atom_norm(dictionary: Dictionary) -> jax.Array:
  """Returns the mean ||d||^2 of the atoms (those of F^T, for [I, F^T]), not cut off by the boundary."""
  atoms = jax.tree.leaves(dictionary)[0]
  return jnp.sum(jnp.square(atoms)) / atoms.shape[-1]
