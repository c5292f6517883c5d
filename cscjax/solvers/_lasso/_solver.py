"""The base class of the one-layer solvers: pure functions of a state, and the method that runs them."""

import abc
import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax.dictionaries import Code
from cscjax.ops import PyTree, highest_precision
from cscjax.solvers._callbacks import TEST_PERIOD, Callback
from cscjax.solvers._lasso._algorithm import Algorithm, Stop
from cscjax.solvers._lasso._certificates import dual_value, gradient_mapping
from cscjax.solvers._lasso._iterate import Differentiate, Loop, SolverResult, solve
from cscjax.solvers._lasso._problem import Lasso

SHORT_STEP = 1e-3  # step of the default gradient mapping, as a fraction of ||code|| / ||gradient||


class Solver(PyTree, abc.ABC):
  """An iterative solver of the Lasso, as pure functions of its state: the base class of all solvers.

  A subclass implements `init`, `step` and `solution`, and inherits `run`, which adds iterations to a
  tolerance, traces, callbacks and derivatives. The three functions work under `jax.jit` and `jax.vmap`,
  and so a loop of your own can call `jax.jit(solver.step)`.

  A subclass becomes a frozen dataclass and a pytree: its annotated fields are the arguments of its
  constructor. Those declared with `flax.struct.field(pytree_node=False)` are static, as are strings. All
  others may be traced, such as a step size for which a gradient is taken.

  A state is a pytree of arrays. Arrays that depend on the signal start with its batch axes; values that
  are costly to compute, such as a Lipschitz constant, are computed by `init` and kept in the state.

  Example:
    >>> from typing import Any, NamedTuple
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> class State(NamedTuple):
    ...   code: Any
    ...   reconstruction: jax.Array
    >>> class FixedStep(cscjax.solvers.Solver):
    ...   size: float
    ...   def init(self, problem, code=None):
    ...     code = problem.zero_code() if code is None else code
    ...     return State(code, problem.dictionary.synthesis(code, problem.x.shape))
    ...   def step(self, problem, state):
    ...     gradient = problem.gradient(state.reconstruction)
    ...     moved = jax.tree.map(lambda c, g: c - self.size * g, state.code, gradient)
    ...     return self.init(problem, problem.prox(moved, self.size))
    ...   def solution(self, problem, state):
    ...     return state.code, state.reconstruction
    >>> dictionary = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> problem = cscjax.Lasso(dictionary, jnp.array([0.6, 0.8]), beta=0.1)
    >>> result = FixedStep(0.5).run(problem, tolerance=1e-5, record=("gap",))
    >>> bool(result.converged), [round(value, 3) for value in result.code.tolist()]
    (True, [0.0, 0.0, 0.9])
  """

  # A lower weight makes the criterion of a tolerance stricter, see `Algorithm`.
  _objective_weight = 1.0
  # Number of iterations between two tests of a tolerance: a test may cost as much as an iteration.
  _test_period = TEST_PERIOD

  @staticmethod
  def _is_static(field: dataclasses.Field, value: Any) -> bool:
    return PyTree._is_static(field, value) or isinstance(value, str)  # such as step="adaptive"

  @abc.abstractmethod
  def init(self, problem: Lasso, code: Code | None = None) -> Any:
    """Returns the state before the first iteration.

    Args:
      problem: The problem.
      code: The code to start from; the zero code if None.

    Returns:
      The state, a pytree of arrays.
    """

  @abc.abstractmethod
  def step(self, problem: Lasso, state: Any) -> Any:
    """Runs one iteration.

    Args:
      problem: The problem for which the state was made.
      state: The state before the iteration.

    Returns:
      The state after the iteration, with the same shapes and types.
    """

  @abc.abstractmethod
  def solution(self, problem: Lasso, state: Any) -> tuple[Code, jax.Array]:
    """Returns the approximate solution of the problem in a state.

    Args:
      problem: The problem for which the state was made.
      state: The state.

    Returns:
      The code, and its reconstruction D code.
    """

  @highest_precision
  def run(
    self,
    problem: Lasso,
    *,
    iterations: int | None = None,
    tolerance: ArrayLike | None = None,
    max_iterations: int | None = None,
    stop: Stop = "gradient_mapping",
    init: Code | None = None,
    state: Any = None,
    record: Sequence[str] = ("objective",),
    differentiate: Differentiate | None = None,
    callback: Callback | None = None,
    progress: bool | str = False,
  ) -> SolverResult:
    """Runs the solver for a number of iterations, or to a tolerance.

    With `state=result.state`, it continues the run that returned this result: 20 and then 20 iterations
    give the code of 40. (The best dual point of the criterion `"gap"` is not part of the state: the
    criterion starts anew.) The state belongs to the solver and to the problem; to start from the code of
    another problem, pass `init=result.code`.

    Args:
      problem: The problem.
      iterations: Number of iterations, nonnegative; 100 if neither this nor `tolerance` is given.
      tolerance: Stops the solver at convergence, instead of after a fixed number of iterations: when the
        criterion named by `stop` has been at most this value, a nonnegative scalar, for each signal. The
        criterion is computed every 10 iterations and after the last one; by `WorkingSet`, whose
        iterations are long, in each iteration.
      max_iterations: Largest number of iterations with a tolerance; 1000 if None. It cannot be combined
        with `iterations`.
      stop: Stopping criterion of `tolerance`. `"gradient_mapping"` is the norm of the gradient mapping,
        relative to ||D^T x|| and to the square root of the objective; `"gap"` is the duality gap,
        relative to the objective. `fista` describes both.
      init: The code to start from; the zero code if None.
      state: The state to continue from, returned by `init`, `step` or `run`; None for a new run. It
        cannot be combined with `init`.
      record: Traces to keep, any of `"objective"`, `"gradient_mapping"`, `"gap"` and `"support_size"`. A
        trace that is not named is not computed.
      differentiate: How derivatives of the code are computed: `"unrolled"` through the iterations,
        `"remat"` through recomputed iterations, which saves memory, or `"implicit"` at the solution near
        the code (see `polished`). If None, it is `"implicit"` with a tolerance, and `"unrolled"`
        otherwise.
      callback: A function that is called with an `IterationStats` after every 10 iterations and after
        the last one; with a tolerance, whenever the criterion is computed.
      progress: Whether to show a progress bar on stderr. This needs tqdm, which the extra `progress`
        installs. A string is the title of the bar, instead of the name of the solver.

    Returns:
      A `SolverResult`: the code, the traces that were recorded, whether the solver converged or
      diverged, and the state after the last iteration.

    Raises:
      ValueError: If an argument is out of range, two arguments contradict each other, such as `init` and
        `state`, or the code or the state do not fit the problem.
      MissingExtraError: If `progress` is True and tqdm is not installed.
    """
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
      name=type(self).__name__,
      test_period=self._test_period,
    )
    return solve(self, problem, init, state, tolerance, loop=loop)

  def _apply(self, problem: Lasso, state: Any) -> Algorithm:
    """Returns the solver as functions of the state alone."""
    return Algorithm(
      state,
      advance=partial(self._advance, problem),
      solution=partial(self.solution, problem),
      objective=lambda state: problem.scaled_objective(*self.solution(problem, state)),
      mapping=partial(self._mapping, problem),
      dual=partial(self._dual, problem),
      objective_weight=self._objective_weight,
    )

  # The criteria below cost an analysis. A solver for which an iteration has computed them, or which
  # knows a better dual point, overrides them.

  def _advance(self, problem: Lasso, state: Any) -> tuple[Any, Any]:
    """Returns the state after an iteration, and intermediate values for `_mapping` and `_dual`."""
    return self.step(problem, state), None

  def _mapping(self, problem: Lasso, state: Any, aux: Any) -> jax.Array:
    """Returns the norm of a gradient mapping, [batch...], in units: here at the solution.

    The step is so short that the norm is that of the smallest subgradient of the objective, up to
    rounding.
    """
    del aux
    code, _ = self.solution(problem, state)
    gradient = self._gradient(problem, state)
    sizes = lax.stop_gradient((problem.norm(code), problem.norm(gradient)))
    known = (sizes[0] > 0) & (sizes[1] > 0)
    ratio = jnp.where(known, sizes[0], 1) / jnp.where(known, sizes[1], 1)
    return problem.norm(gradient_mapping(problem, code, gradient, SHORT_STEP * ratio))

  def _dual(self, problem: Lasso, state: Any, aux: Any) -> jax.Array:
    """Returns a lower bound of the minimum, [batch...], in unit^2: here from the residual."""
    del aux
    _, reconstruction = self.solution(problem, state)
    correlation = jax.tree.map(jnp.negative, self._gradient(problem, state))
    return dual_value(problem, reconstruction, correlation)

  def _gradient(self, problem: Lasso, state: Any) -> Code:
    """Returns the gradient of the data term at the solution, which the two criteria above use."""
    _, reconstruction = self.solution(problem, state)
    return problem.gradient(reconstruction)
