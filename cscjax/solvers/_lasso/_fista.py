"""The functions `ista` and `fista`."""

from collections.abc import Sequence
from typing import Any

from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary
from cscjax.ops import highest_precision
from cscjax.solvers._callbacks import Callback
from cscjax.solvers._lasso._algorithm import Stop
from cscjax.solvers._lasso._iterate import Differentiate, SolverResult
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._proximal_gradient import FISTA, ISTA, Step


@highest_precision
def ista(
  dictionary: Dictionary,
  x: ArrayLike,
  beta: Any,
  *,
  iterations: int | None = None,
  tolerance: ArrayLike | None = None,
  max_iterations: int | None = None,
  stop: Stop = "gradient_mapping",
  step: Step = None,
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
  """Solves the Lasso, min_code 1/2 ||x - D code||^2 + beta ||code||_1, with ISTA.

  The iterative shrinkage-thresholding algorithm takes proximal gradient steps (eq. 1 of Zhang & Zhang
  2020):

      code <- S_{beta step}(code - step D^T (D code - x))

  S_b(z) = sign(z) max(|z| - b, 0) is the soft threshold. With a step of at most 1/L, where L is the
  largest eigenvalue of D^T D, the objective never rises. `fista` usually needs far fewer iterations.

  `iterations=` runs a fixed number of iterations; `tolerance=` stops at convergence. The default
  criterion is the norm of the gradient mapping G at the code y from which an iteration starts,

      G = (y - S_{beta step}(y - step D^T (D y - x))) / step,
      ||G|| <= tolerance ||D^T x|| sqrt(0.45 F(code) / F(0)),

  where F is the objective and the root is clipped to 0.01..1. G is zero only at a solution, and the
  criterion does not depend on the scale of D and x. With a step of at most 1/L or a searched step,
  convexity guarantees F(code) - min F <= ||G|| ||y - solution||; because the distance to the solution is
  unknown, this is not a numerical bound. The factor 0.45 makes a tolerance mean about the same for
  `ista`, `fista` and `admm`: on 48x48 crops of four photographs, with `tolerance=1e-3`, the final
  objective exceeded the minimum by 0.16 % to 0.47 %.

  With `stop="gap"`, the criterion is the duality gap for the best dual point found so far, relative to
  F(code). It guarantees (F(code) - min F) / F(code) <= tolerance up to rounding, but takes about five
  times as many iterations, and `beta` or `ridge` must be positive (if both are traced and zero, the
  solver never converges).

  In float32, rounding leaves about 1e-6 of either criterion: with a smaller tolerance, the solver may
  stop at `max_iterations` with `converged` False. A signal whose solution is zero starts from the zero
  code and passes the first test.

  The function works under `jax.jit`, `jax.vmap` and `jax.grad`; a second call with the same shapes and
  options does not compile again.

  A batch is solved at once, until all signals have converged. `jax.lax.map` over the signals solves them
  one after the other: each stops at its own convergence, and temporary arrays have the size of one
  signal. On a CPU, this is often faster for images, and slower for a batch of many signals with a dense
  dictionary.

  Args:
    dictionary: The dictionary D.
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
    step: Step size: a positive scalar; a step above 2/L can diverge. If None, it is `"adaptive"` with a
      tolerance; with a number of iterations it is 1/L by `lipschitz` (or shorter, where that is an upper
      bound), and no gradient flows through it. `"backtracking"` and `"adaptive"` search a step for each
      signal, through which no gradient flows either, and do not need L. `"backtracking"` starts from a
      step that may be too long, and shortens it after each iteration to at most ||d||^2 / ||D d||^2 for
      the move d of the iteration; a move is discarded if its step exceeds this by more than 25 %.
      `"adaptive"` does the same, and lengthens the step by up to 3 % in each iteration, so that it
      follows the curvature where the code moves, which is often far below L.
    nonnegative: Whether the code is constrained to be nonnegative (eq. 2 of Zhang & Zhang 2020): a bool,
      or an array of bools, one per channel [m] or of any shape that broadcasts against the code. A code
      of several parts takes one value for all parts, or one for each part.
    mask: Weights of the squared errors, in 0..1, that broadcast against `x`, or against `x` without its
      last axis, such as [H, W] for all channels of an image; 1 if None. Where the weight is zero, the
      value of `x` is ignored, even if it is NaN.
    ridge: Penalty of the squares mu, which adds mu/2 ||code||^2 to the objective (the elastic net):
      nonnegative, in any of the shapes of `beta`; no such term if None.
    joint_axes: Axis or axes of the code, negative, along which coefficients are zero only jointly (joint
      sparsity): the penalty is beta times the Euclidean norm along these axes, in which `beta` and
      `ridge` have size 1. None for the absolute value of each coefficient.
    init: The code to start from; the zero code if None.
    record: Traces to keep, any of `"objective"`, `"gradient_mapping"`, `"gap"` and `"support_size"`. A
      trace that is not named is not computed.
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
    were recorded, whether the solver converged or diverged, and its state. To continue from the state,
    use `ISTA(step).run(problem, state=result.state)` with the same step, `"adaptive"` if that was the
    default.

  Raises:
    ValueError: If shapes do not fit, an argument is out of range, or two arguments contradict each
      other, such as `iterations` and `tolerance`.
    MissingExtraError: If `progress` is True and tqdm is not installed.

  References:
    Beck, A. & Teboulle, M. (2009). A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems. SIAM Journal on Imaging Sciences 2(1).

    Zhang, Z. & Zhang, S. (2020). Towards understanding residual and dilated dense neural networks via
    convolutional sparse coding. National Science Review 8(3).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jax.random.normal(jax.random.key(0), (16, 32)) / 4)
    >>> x = jax.random.normal(jax.random.key(1), (16,))
    >>> result = cscjax.ista(dictionary, x, beta=0.5, iterations=50)
    >>> result.code.shape, result.objective.shape
    ((32,), (51,))
    >>> bool(jnp.all(jnp.diff(result.objective) < 1e-5))  # the objective never rises
    True
    >>> history = []
    >>> result = cscjax.ista(dictionary, x, beta=1.0, iterations=25, callback=history.append)
    >>> [stats.iteration for stats in history]
    [10, 20, 25]
  """
  problem = Lasso(
    dictionary, x, beta, nonnegative=nonnegative, mask=mask, ridge=ridge, joint_axes=joint_axes
  )
  return ISTA(_step(step, tolerance)).run(
    problem,
    iterations=iterations,
    tolerance=tolerance,
    max_iterations=max_iterations,
    stop=stop,
    init=init,
    record=record,
    differentiate=differentiate,
    callback=callback,
    progress=checks.boolean("progress", progress) and "ista",
  )


@highest_precision
def fista(
  dictionary: Dictionary,
  x: ArrayLike,
  beta: Any,
  *,
  iterations: int | None = None,
  tolerance: ArrayLike | None = None,
  max_iterations: int | None = None,
  stop: Stop = "gradient_mapping",
  step: Step = None,
  restart: bool = False,
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
  """Solves the Lasso, min_code 1/2 ||x - D code||^2 + beta ||code||_1, with FISTA.

  The fast iterative shrinkage-thresholding algorithm takes proximal gradient steps from extrapolated
  points y (Beck & Teboulle 2009, eq. 4.1-4.3), starting with y_1 = init and t_1 = 1:

      code_k  = S_{beta step}(y_k - step D^T (D y_k - x))
      t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2
      y_{k+1} = code_k + (t_k - 1) / t_{k+1} (code_k - code_{k-1})

  S_b(z) = sign(z) max(|z| - b, 0) is the soft threshold. With a step of 1/L, where L is the largest
  eigenvalue of D^T D, the objective exceeds the minimum by at most 2 L ||init - solution||^2 / (k + 1)^2
  after k iterations (their Theorem 4.4); it need not fall in each iteration. An iteration costs one
  analysis and one synthesis, because D y is extrapolated like y.

  `iterations=` runs a fixed number of iterations; `tolerance=` stops at convergence. The default
  criterion is the norm of the gradient mapping G at the extrapolated point y,

      G = (y - S_{beta step}(y - step D^T (D y - x))) / step,
      ||G|| <= tolerance ||D^T x|| sqrt(1.25 F(code) / F(0)),

  where F is the objective and the root is clipped to 0.01..1. G is zero only at a solution, and the
  criterion does not depend on the scale of D and x. With a step of at most 1/L or a searched step,
  convexity guarantees F(code) - min F <= ||G|| ||y - solution||; because the distance to the solution is
  unknown, this is not a numerical bound. The factor 1.25 makes a tolerance mean about the same for
  `ista`, `fista` and `admm`: on 48x48 crops of four photographs, with `tolerance=1e-3`, the final
  objective exceeded the minimum by 0.02 % to 0.16 %.

  With `stop="gap"`, the criterion is the duality gap for the best dual point found so far, relative to
  F(code). It guarantees (F(code) - min F) / F(code) <= tolerance up to rounding, but takes about five
  times as many iterations, and `beta` or `ridge` must be positive (if both are traced and zero, the
  solver never converges).

  In float32, rounding leaves about 1e-6 of either criterion: with a smaller tolerance, the solver may
  stop at `max_iterations` with `converged` False. A signal whose solution is zero starts from the zero
  code and passes the first test.

  The function works under `jax.jit`, `jax.vmap` and `jax.grad`; a second call with the same shapes and
  options does not compile again.

  A batch is solved at once, until all signals have converged. `jax.lax.map` over the signals solves them
  one after the other: each stops at its own convergence, and temporary arrays have the size of one
  signal. On a CPU, this is often faster for images, and slower for a batch of many signals with a dense
  dictionary.

  Args:
    dictionary: The dictionary D.
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
    step: Step size: a positive scalar; a step above 1/L can diverge. If None, it is `"adaptive"` with a
      tolerance; with a number of iterations it is 1/L by `lipschitz` (or shorter, where that is an upper
      bound), and no gradient flows through it. `"backtracking"` and `"adaptive"` search a step for each
      signal, through which no gradient flows either, and do not need L. `"backtracking"` starts from a
      step that may be too long, and shortens it after each iteration to at most ||d||^2 / ||D d||^2 for
      the move d of the iteration; a move is discarded if its step exceeds this by more than 25 %.
      `"adaptive"` does the same, and lengthens the step by up to 3 % in each iteration, so that it
      follows the curvature where the code moves, which is often far below L.
    restart: Whether to reset t to 1 for each signal whose last move opposes the momentum (the gradient
      scheme of O'Donoghue & Candes 2015). Set it for a tolerance far below the usual 1e-3: on
      photographs, it saves a third of the iterations to 1e-6 above the minimum, and none to 1e-3.
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
    init: The code to start from; the zero code if None.
    record: Traces to keep, any of `"objective"`, `"gradient_mapping"`, `"gap"` and `"support_size"`. A
      trace that is not named is not computed.
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
    were recorded, whether the solver converged or diverged, and its state. To continue from the state,
    use `FISTA(step).run(problem, state=result.state)` with the same step, `"adaptive"` if that was the
    default.

  Raises:
    ValueError: If shapes do not fit, an argument is out of range, or two arguments contradict each
      other, such as `iterations` and `tolerance`.
    MissingExtraError: If `progress` is True and tqdm is not installed.

  References:
    Beck, A. & Teboulle, M. (2009). A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems. SIAM Journal on Imaging Sciences 2(1).

    O'Donoghue, B. & Candes, E. (2015). Adaptive restart for accelerated gradient schemes. Foundations of
    Computational Mathematics 15(3).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> filters = jax.random.normal(jax.random.key(0), (5, 5, 1, 8)) / 5  # 8 atoms of 5x5 pixels
    >>> dictionary = cscjax.ConvDictionary(filters)
    >>> x = jax.random.normal(jax.random.key(1), (16, 16, 1))
    >>> result = cscjax.fista(dictionary, x, beta=1.0, tolerance=1e-3)
    >>> bool(result.converged), result.code.shape
    (True, (16, 16, 8))
    >>> float(jnp.mean(result.code != 0)) < 0.1  # the code is sparse
    True
    >>> history = []
    >>> result = cscjax.fista(dictionary, x, beta=1.0, iterations=25, callback=history.append)
    >>> [stats.iteration for stats in history]
    [10, 20, 25]
  """
  problem = Lasso(
    dictionary, x, beta, nonnegative=nonnegative, mask=mask, ridge=ridge, joint_axes=joint_axes
  )
  return FISTA(_step(step, tolerance), restart).run(
    problem,
    iterations=iterations,
    tolerance=tolerance,
    max_iterations=max_iterations,
    stop=stop,
    init=init,
    record=record,
    differentiate=differentiate,
    callback=callback,
    progress=checks.boolean("progress", progress) and "fista",
  )


def _step(step: Step, tolerance: ArrayLike | None) -> Step:
  """Returns the step, or its default: to a tolerance, a searched step takes the least time."""
  return "adaptive" if step is None and tolerance is not None else step
