"""ADMM for one layer as Douglas-Rachford splitting, with a linear solve in signal space."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary
from cscjax.ops import at_least_float32, compact_repr, highest_precision
from cscjax.solvers._arguments import check_scalar
from cscjax.solvers._callbacks import Callback
from cscjax.solvers._lasso._algorithm import Stop, relative_size
from cscjax.solvers._lasso._certificates import dual_value
from cscjax.solvers._lasso._embedded import ADMMPair, EmbeddedLasso, embed, embedding_of
from cscjax.solvers._lasso._iterate import Differentiate, SolverResult
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._signals import per_signal, safe_sqrt
from cscjax.solvers._lasso._solver import Solver

MIN_RHO = 0.1  # smallest default rho, for atoms of unit norm; without it, rho would vanish with beta


class ADMMState(NamedTuple):
  """The state of `ADMM`.

  Attributes:
    point: The pair P; prox(P) holds the solution, and P - prox(P) is the scaled dual.
    image: D of the code in P.
    reconstruction: D of the code in prox(P).
    rho: The penalty parameter, [batch...].
    embedded: What `init` computes once: the problem for a circular dictionary on larger signals, and the
      inverse of its linear system.
  """

  point: ADMMPair
  image: jax.Array
  reconstruction: jax.Array
  rho: jax.Array
  embedded: EmbeddedLasso

  def __repr__(self) -> str:
    return compact_repr(self)


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
  synthesis, as in `fista`, and far fewer iterations are usually needed. Zero boundaries and masks do not
  add to the cost.

  `iterations=` runs a fixed number of iterations; `tolerance=` stops at convergence. The default
  criterion is the norm of G, the smallest subgradient of the objective F at the code (the gradient
  mapping in the limit of short steps):

      ||G|| <= tolerance ||D^T x|| sqrt(5 F(code) / F(0)),

  where the root is clipped to 0.01..1. G is zero only at a solution, and the criterion does not depend
  on the scale of D and x. Convexity guarantees F(code) - min F <= ||G|| ||code - solution||; because the
  distance to the solution is unknown, this is not a numerical bound. The factor 5 makes a tolerance mean
  about the same for `ista`, `fista` and `admm`: on 48x48 crops of four photographs, with
  `tolerance=1e-3`, the final objective exceeded the minimum by 0.038 % to 0.16 %; on 64x64 crops with
  masks that hid 50 % to 80 % of the values, by 0.009 % to 0.11 %.

  With `stop="gap"`, the criterion is the duality gap for the best dual point of ADMM found so far,
  relative to F(code). It guarantees (F(code) - min F) / F(code) <= tolerance up to rounding, but takes
  more iterations, and `beta` or `ridge` must be positive (if both are traced and zero, the solver never
  converges).

  In float32, rounding leaves about 1e-6 of either criterion: with a smaller tolerance, the solver may
  stop at `max_iterations` with `converged` False. A signal whose solution is zero starts from the zero
  code and passes the first test.

  The function works under `jax.jit`, `jax.vmap` and `jax.grad`; a second call with the same shapes and
  options does not compile again.

  A batch is solved at once, until all signals have converged. `jax.lax.map` over the signals solves them
  one after the other: each stops at its own convergence, and temporary arrays have the size of one
  signal. On a CPU, this is often faster for images, and slower for one-dimensional signals and for a
  batch of many signals with a dense dictionary.

  Args:
    dictionary: The dictionary D: a `MatrixDictionary`, a `ConvDictionary` of stride 1 and any padding,
      an `IdentityAugmented` of such a convolution, a `StackedDictionary`, `ScaledDictionary` or
      `ChannelwiseDictionary` of these, a `SeparableDictionary` of stride 1, or an `AbstractDictionary`
      of your own with the method `circulant_embedding`.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
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
    rho: Penalty parameter of ADMM, a positive scalar. If None, it is chosen for each signal so that the
      dual variable and the code are about equally large: for atoms of unit norm, it is the norm of D^T
      mask x clipped at +-beta, divided by sqrt(sum mask x^2 / mean(mask)), and at least 0.1.
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
    were recorded, whether the solver converged or diverged, and its state. The code is the result of a
    soft threshold, and so it is sparse. To continue from the state, use `ADMM(rho, relaxation).run(
    problem, state=result.state)`.

  Raises:
    ValueError: If shapes do not fit, an argument is out of range, two arguments contradict each other,
      such as `iterations` and `tolerance`, or ADMM does not support the dictionary.
    MissingExtraError: If `progress` is True and tqdm is not installed.

  References:
    Parikh, N. & Boyd, S. (2014). Block splitting for distributed optimization. Mathematical Programming
    Computation 6(1).

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
  return ADMM(rho, relaxation).run(
    problem,
    iterations=iterations,
    tolerance=tolerance,
    max_iterations=max_iterations,
    stop=stop,
    init=init,
    record=record,
    differentiate=differentiate,
    callback=callback,
    progress=checks.boolean("progress", progress) and "admm",
  )


class ADMM(Solver):
  """The alternating direction method of multipliers (ADMM), as a `Solver`.

  An iteration is a step of over-relaxed Douglas-Rachford splitting for a pair P = (z, code) with z = D
  code (graph form; Parikh & Boyd 2014):

      Y <- prox(P)
      P <- P + relaxation (project(2 Y - P) - Y)

  `cscjax.admm` describes it and the criteria of `run`.

  Args:
    rho: Penalty parameter, a positive scalar. If None, it is chosen for each signal so that the dual
      variable and the code are about equally large: for atoms of unit norm, it is the norm of D^T mask x
      clipped at +-beta, divided by sqrt(sum mask x^2 / mean(mask)), and at least 0.1.
    relaxation: Relaxation parameter, in [1, 2).

  Raises:
    ValueError: If `rho` is not positive, or `relaxation` is out of range.

  References:
    Parikh, N. & Boyd, S. (2014). Block splitting for distributed optimization. Mathematical Programming
    Computation 6(1).

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> problem = cscjax.Lasso(dictionary, jnp.array([0.6, 0.8]), beta=0.1)
    >>> solver = cscjax.solvers.ADMM()
    >>> first = solver.run(problem, iterations=20)
    >>> second = solver.run(problem, iterations=20, state=first.state)
    >>> bool(jnp.allclose(second.code, solver.run(problem, iterations=40).code, atol=1e-6))
    True
  """

  rho: ArrayLike | None = None
  relaxation: float = struct.field(pytree_node=False, default=1.8)
  _objective_weight = 5.0

  def __post_init__(self):
    if self.rho is not None:
      check_scalar("rho", self.rho, positive=True)
    relaxation = checks.in_range("relaxation", self.relaxation, 1, 2)
    object.__setattr__(self, "relaxation", float(relaxation))

  @highest_precision
  def init(self, problem: Lasso, code: Code | None = None) -> ADMMState:
    """Returns the state before the first iteration. The dual variable is the residual of the code.

    Args:
      problem: The problem.
      code: The code to start from; the zero code if None.

    Returns:
      The state, which contains the inverse of the linear system.

    Raises:
      ValueError: If the code does not fit the problem, or ADMM does not support the dictionary.
    """
    embedding = embedding_of(problem)
    embedded = embed(embedding, problem)
    starts_at_zero = code is None  # and then the code after the first proximal step is zero, too
    code = problem.zero_code() if code is None else problem.as_code(code, "code")

    def synthesis(code: Code) -> jax.Array:
      return jnp.zeros_like(embedded.problem.x) if starts_at_zero else embedded.synthesis(code)

    rho = _default_rho(problem, embedded.ridge) if self.rho is None else self.rho
    rho = jnp.broadcast_to(jnp.asarray(rho, at_least_float32(problem.x.dtype)), problem.unit.shape)
    code = embedding.embed_code(code)
    reconstruction = synthesis(code)
    residual = embedded.weight * embedded.problem.residual(reconstruction)
    gradient = embedded.problem.dictionary.analysis(residual)
    moved = ADMMPair(
      reconstruction + residual * per_signal(embedded.ridge / rho, residual),
      jax.tree.map(lambda c, g: c - g / per_signal(rho, g), code, gradient),
    )
    # The scaled dual. At a solution, prox(moved) is the code; elsewhere, this makes the dual feasible,
    # also after rounding: otherwise, the first code would have tiny values instead of zeros.
    inside = 1 - 4 * float(jnp.finfo(problem.x.dtype).eps)
    dual = jax.tree.map(lambda m, p: inside * (m - p), moved, embedded.prox(moved, rho))
    point = jax.tree.map(jnp.add, ADMMPair(reconstruction, code), dual)
    image = embedded.synthesis(point.code)
    reconstruction = synthesis(embedded.prox(point, rho).code)
    return ADMMState(point, image, reconstruction, rho, embedded)

  @highest_precision
  def step(self, problem: Lasso, state: ADMMState) -> ADMMState:
    """Runs one iteration.

    Args:
      problem: The problem for which the state was made.
      state: The state before the iteration.

    Returns:
      The state after the iteration.
    """
    del problem
    # Otherwise XLA stores what two iterations share: one more array of the code's size, two on a GPU.
    state = lax.optimization_barrier(state)
    embedded = state.embedded
    near = embedded.prox(state.point, state.rho)
    dual = jax.tree.map(jnp.subtract, state.point, near)
    # Projects 2 prox(P) - P onto the graph of D. Its image follows by linearity, as that of P below.
    defect = near.signal - dual.signal - (2 * state.reconstruction - state.image)
    correction, along = embedded.invert(defect)
    move = ADMMPair(-embedded.ridge * correction, along)
    point = jax.tree.map(lambda p, u, m: p + self.relaxation * (m - u), state.point, dual, move)
    change = near.signal - dual.signal + move.signal - state.reconstruction
    image = state.image + self.relaxation * change
    reconstruction = embedded.synthesis(embedded.prox(point, state.rho).code)
    return ADMMState(point, image, reconstruction, state.rho, embedded)

  def solution(self, problem: Lasso, state: ADMMState) -> tuple[Code, jax.Array]:
    """Returns the approximate solution of the problem in a state.

    Args:
      problem: The problem for which the state was made.
      state: The state.

    Returns:
      The code, which is the result of a soft threshold, and its reconstruction D code.
    """
    embedding = embedding_of(problem)
    code = state.embedded.prox(state.point, state.rho).code
    return embedding.crop_code(code), embedding.crop_signal(state.reconstruction)

  def _dual(self, problem: Lasso, state: ADMMState, aux: None) -> jax.Array:
    signal = state.embedded.prox(state.point, state.rho).signal
    signal = embedding_of(problem).crop_signal(signal)
    correlation = jax.tree.map(jnp.negative, problem.gradient(signal))
    return dual_value(problem, signal, correlation)


def _default_rho(problem: Lasso, squared_norm: jax.Array) -> jax.Array:
  """Returns a rho for which the dual variable and the code are about equally large, [batch...].

  The dual variable is estimated by that of the correlation D^T mask x, which is clipped at beta, and the
  norm of the code by that of x, both for atoms of unit norm. The code also represents what the mask
  hides, and so the norm of x is estimated by the weighted mean of its squares.
  """
  # The absolute value, because the dual variable of a nonnegative code is not bounded below.
  correlation = jax.tree.map(lambda c: jnp.abs(c) / per_signal(squared_norm, c), problem.correlation())
  near = problem.prox(correlation, 1 / squared_norm)
  dual = problem.norm(jax.tree.map(jnp.subtract, correlation, near))
  energy = problem.energy(problem.x)
  if problem.mask is not None:
    energy = relative_size(
      energy, problem.mask.mean(tuple(range(problem.batch_ndim, problem.mask.ndim)))
    )
  size = safe_sqrt(energy)
  return squared_norm * jnp.maximum(relative_size(jnp.sqrt(squared_norm) * dual, size), MIN_RHO)
