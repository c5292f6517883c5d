"""Coordinate descent on working sets, for dense dictionaries of which a code uses few atoms."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cscjax import checks
from cscjax.dictionaries import Code, with_methods
from cscjax.ops import at_least_float32, compact_repr, highest_precision, shard_batch
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._regularizer import Regularizer, regularizers_of
from cscjax.solvers._lasso._solver import Solver

SIZES = (256, 1024, 4096)  # sizes of working sets; few, because each is compiled
SWEEPS = 20  # sweeps of coordinate descent; they cost about as much as the Gram matrix of the set


class WorkingSetState(NamedTuple):
  """The state of `WorkingSet`.

  Attributes:
    code: The code.
    reconstruction: D of the code.
    gradient: The gradient of the data term, from which the next working set is chosen.
  """

  code: Code
  reconstruction: jax.Array
  gradient: Code

  def __repr__(self) -> str:
    return compact_repr(self)


class WorkingSet(Solver):
  """Coordinate descent on working sets, as a `Solver`, for dense dictionaries.

  An iteration chooses a working set of atoms, at least twice as many as the code uses, and lowers the
  objective in their coefficients by 20 sweeps of coordinate descent on the Gram matrix of these atoms.
  All other coefficients stay as they are. Half of the set are the atoms that violate the optimality
  conditions most; then come those with a nonzero coefficient, and those that are nearest to a violation.
  No iteration raises the objective beyond rounding. If the solution uses few of many atoms, two or three
  iterations, each of which costs as much as a few iterations of FISTA, reach the accuracy of float32.

  The set has 256, 1024 or 4096 atoms, as the support grows, but at most 2 n for signals of n values. A
  code with a larger support converges, too, by descent on one set after the other, but `cscjax.fista`
  may be faster. Signals of a batch are solved one after the other, which is fast on a CPU. Pass a batch
  as `x`; `jax.vmap` computes each iteration for sets of all sizes. Coordinate descent is sequential, so
  that it cannot use a GPU well. `cscjax.fista` describes the criteria of `run`.

  The dictionary of the problem must have vectors as signals, as a `MatrixDictionary` and compositions of
  them do. `joint_axes` is not supported.

  References:
    Friedman, J., Hastie, T. & Tibshirani, R. (2010). Regularization paths for generalized linear models
    via coordinate descent. Journal of Statistical Software 33(1).

    Massias, M., Gramfort, A. & Salmon, J. (2018). Celer: a fast solver for the Lasso with dual
    extrapolation. ICML.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> atoms = jax.random.normal(jax.random.key(0), (100, 300)) / 10
    >>> dictionary = cscjax.MatrixDictionary(atoms)
    >>> problem = cscjax.Lasso(dictionary, 2 * atoms[:, 5] - 3 * atoms[:, 40], cscjax.relative(0.3))
    >>> result = cscjax.solvers.WorkingSet().run(problem, tolerance=1e-5, stop="gap")
    >>> bool(result.converged), jnp.flatnonzero(result.code).tolist()
    (True, [5, 40])
  """

  _test_period = 1

  @highest_precision
  def init(self, problem: Lasso, code: Code | None = None) -> WorkingSetState:
    """Returns the state before the first iteration.

    Args:
      problem: The problem.
      code: The code to start from; the zero code if None.

    Returns:
      The state.

    Raises:
      ValueError: If the code does not fit the problem, if signals of the dictionary are not vectors, or
        if the problem has `joint_axes`.
    """
    dictionary = with_methods(problem.dictionary)
    if dictionary.signal_ndim != 1:
      expected = "a dictionary whose signals are vectors (use fista or admm for convolutions)"
      checks.fail("dictionary", dictionary.name, expected)
    regularizers = regularizers_of(problem.regularizer)
    if any(r.joint_axes for r in regularizers):
      checks.fail("joint_axes", regularizers[0].joint_axes, "None for WorkingSet")
    code = problem.zero_code() if code is None else problem.as_code(code, "code")
    return self._state(problem, problem.project(code))

  @highest_precision
  def step(self, problem: Lasso, state: WorkingSetState) -> WorkingSetState:
    """Runs one iteration.

    Args:
      problem: The problem for which the state was made.
      state: The state before the iteration.

    Returns:
      The state after the iteration.
    """
    code = shard_batch(
      lambda _, *arguments: _next_code(*arguments),
      *(problem.x, problem, state),
      batch_ndim=problem.batch_ndim,
    )
    return self._state(problem, code)

  def solution(self, problem: Lasso, state: WorkingSetState) -> tuple[Code, jax.Array]:
    """Returns the approximate solution of the problem in a state.

    Args:
      problem: The problem for which the state was made.
      state: The state.

    Returns:
      The code and its reconstruction D code.
    """
    del problem
    return state.code, state.reconstruction

  def _state(self, problem: Lasso, code: Code) -> WorkingSetState:
    reconstruction = problem.dictionary.synthesis(code, problem.x.shape)
    return WorkingSetState(code, reconstruction, problem.gradient(reconstruction))

  def _gradient(self, problem: Lasso, state: WorkingSetState) -> Code:
    del problem
    return state.gradient


def _next_code(problem: Lasso, state: WorkingSetState) -> Code:
  """Returns the code after an iteration; its signals are independent of each other."""
  batch = problem.x.shape[: problem.batch_ndim]
  parts, structure = jax.tree.flatten(state.code)

  def flat(tree: Any, examples: Sequence[jax.Array] = parts) -> jax.Array:
    """Concatenates arrays that broadcast against the parts of the code: [signals, m]."""
    arrays = [
      jnp.broadcast_to(_precise(array), example.shape).reshape(-1, example.shape[-1])
      for array, example in zip(jax.tree.leaves(tree), examples, strict=True)
    ]
    return jnp.concatenate(arrays, axis=-1)

  regularizer = jax.tree.map(lambda *fields: flat(fields), *regularizers_of(problem.regularizer))
  mask = None if problem.mask is None else flat(problem.mask, [problem.x])
  minimized = lax.map(
    lambda signal: _minimize(problem, *signal),
    (flat(state.code), flat(state.gradient), regularizer, mask),
  )
  ends = np.cumsum([part.shape[-1] for part in parts])[:-1]
  return structure.unflatten(
    part.reshape(*batch, part.shape[-1]).astype(problem.x.dtype)
    for part in jnp.split(minimized, ends, axis=-1)
  )


def _minimize(
  problem: Lasso,
  code: jax.Array,
  gradient: jax.Array,
  regularizer: Regularizer,
  mask: jax.Array | None,
) -> jax.Array:
  """Minimizes the objective of one signal over the coefficients of a working set: a new code [m]."""
  violation = regularizer.distance(gradient, code)
  largest = min(problem.x.shape[-1], code.size)  # support of a solution
  sizes = sorted({min(size, 2 * largest, code.size) for size in SIZES})
  support = jnp.count_nonzero(code)
  branch = sum((2 * support > size).astype(jnp.int32) for size in sizes[:-1])

  def minimize(size: int, code: jax.Array) -> jax.Array:
    # Those that violate most come first, for convergence also if the support is larger than the set.
    first = lax.top_k(violation, (size + 1) // 2)[1]
    priority = jnp.where(code != 0, jnp.finfo(code.dtype).max, violation)
    chosen = lax.top_k(priority.at[first].set(jnp.inf), size)[1]
    return code.at[chosen].set(
      _descend(problem, chosen, code[chosen], gradient[chosen], _take(regularizer, chosen), mask)
    )

  return lax.switch(branch, [partial(minimize, size) for size in sizes], code)


def _descend(
  problem: Lasso,
  chosen: jax.Array,
  code: jax.Array,
  gradient: jax.Array,
  regularizer: Regularizer,
  mask: jax.Array | None,
) -> jax.Array:
  """Does the sweeps of coordinate descent for the chosen coefficients [size], and returns them."""
  dictionary, shape = with_methods(problem.dictionary), problem.x.shape[-1:]
  atoms = _precise(jax.vmap(lambda index: dictionary.atom(index, shape))(chosen))
  if mask is not None:
    atoms = atoms * jnp.sqrt(mask)[None]
  gram = atoms @ atoms.T
  # An atom that is zero gets a very long step, so that the penalty sets its coefficient to zero.
  steps = 1 / jnp.maximum(jnp.diagonal(gram), jnp.finfo(gram.dtype).tiny)

  def update(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    code, gradient = carry
    j = i % code.size
    new = _take(regularizer, j).prox(code[j] - steps[j] * gradient[j], steps[j])
    return code.at[j].set(new), gradient + (new - code[j]) * gram[j]

  return lax.fori_loop(0, SWEEPS * code.size, update, (code, gradient))[0]


def _precise(array: jax.Array) -> jax.Array:
  """Converts an array of floating-point numbers to float32 or wider."""
  return array.astype(at_least_float32(array.dtype)) if array.dtype != bool else array


def _take(regularizer: Regularizer, index: jax.Array) -> Regularizer:
  """Returns the regularizer of some coefficients."""
  return jax.tree.map(lambda field: field[index], regularizer)
