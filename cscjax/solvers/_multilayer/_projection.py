"""The projection onto the multi-layer model, whose constraints count nonzeros: a greedy heuristic."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, check_one_per_dictionary
from cscjax.ops import highest_precision, norm, shard_batch, vary_alike
from cscjax.solvers._lasso._omp import split_by_basis
from cscjax.solvers._multilayer._problem import MultilayerProblem
from cscjax.solvers._multilayer._result import RESULT_LAYOUT, MultilayerResult, layer_statistics


@highest_precision
def ml_projection(
  dictionaries: Sequence[Dictionary], x: ArrayLike, sparsities: Sequence[int]
) -> MultilayerResult:
  """Projects a signal onto the multi-layer model with the greedy heuristic of Sulam et al. (2018).

  The projection is the signal nearest to x whose codes satisfy all constraints exactly,

      min 1/2 ||x - D_1 code_1||^2   such that   code_{i-1} = D_i code_i and ||code_i||_0 <= sparsity_i,

  where ||code||_0 is the number of nonzero coefficients. The problem is not convex, and this heuristic
  need not find its solution: orthogonal matching pursuit adds atoms of the effective
  dictionary D_1 ... D_K one after the other. After each, the deepest code implies those of all other
  layers. The pursuit stops before the first atom that violates a constraint. Its result is therefore
  always feasible, but often far from the solution: if a single atom of the deepest layer has more than
  sparsity_{K-1} nonzeros, the codes are zero. Sparse atoms in all layers but the first one are a
  condition for other codes.

  Sulam et al. bound the number of nonzeros in each stripe of a code, here it is that of the whole code.
  The penalized problem of `ml_bp` is convex and needs no sparse atoms.

  The norms of the effective atoms cost one analysis for each sample of a signal. The codes of a signal
  that contains NaN or infinity are NaN, and so are all codes if an atom contains one. The function works
  under `jax.jit` and `jax.vmap`.

  Args:
    dictionaries: The dictionaries D_1, ..., D_K. The signals of D_1 are shaped like `x`, and the signals
      of each other dictionary are the codes of the previous one.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    sparsities: The largest number of nonzeros of each layer's code, one integer of at least 1 per layer.

  Returns:
    A `MultilayerResult`. `iterations` is the number of atoms of each signal, [batch...]. `objective` is
    1/2 ||x - D_1 code_1||^2 before the first and after each atom, [k + 1, batch...], where k is the
    sparsity of the deepest layer or the number of samples of a signal, if that is smaller; after a stop,
    the last value is repeated. `residuals[1:]` are the violations of code_{i-1} = D_i code_i, zero up to
    rounding, and `support_sizes` is at most `sparsities`.

  Raises:
    ValueError: If the numbers of dictionaries and `sparsities` differ, a sparsity is not an integer of
      at least 1, or shapes do not fit.

  References:
    Sulam, J., Papyan, V., Romano, Y. & Elad, M. (2018). Multilayer convolutional sparse modeling:
    pursuit and dictionary learning. IEEE Transactions on Signal Processing 66(15).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> first = cscjax.MatrixDictionary(jax.random.normal(jax.random.key(0), (16, 24)) / 4)
    >>> pairs = jnp.eye(24) + jnp.roll(jnp.eye(24), 1, axis=0)  # atoms with two nonzeros
    >>> second = cscjax.MatrixDictionary(pairs)
    >>> code = jnp.zeros(24).at[jnp.array([3, 15])].set(jnp.array([1.0, -2.0]))
    >>> x = first.synthesis(second.synthesis(code))
    >>> result = cscjax.ml_projection([first, second], x, sparsities=[4, 2])
    >>> result.support_sizes.tolist(), bool(jnp.allclose(result.codes[1], code, atol=1e-4))
    ([4, 2], True)
    >>> cscjax.ml_projection([first, second], x, sparsities=[3, 2]).support_sizes.tolist()
    [2, 1]
  """
  check_one_per_dictionary(dictionaries, sparsities=sparsities)
  limits = tuple(checks.positive_int("sparsities", limit) for limit in sparsities)
  problem = MultilayerProblem.make(dictionaries, x, [0] * len(dictionaries), nonnegative=False)
  return shard_batch(
    lambda _, problem: _project(problem, limits),
    *(problem.x, problem),
    batch_ndim=problem.batch_ndim,
    layout=RESULT_LAYOUT._replace(iterations=0),
  )


class _State(NamedTuple):
  """The pursuit of one signal; the arrays of atoms are zero (`triangle`: the identity) from k on."""

  code: jax.Array  # the flat deepest code
  residual: jax.Array  # the flat residual of the signal
  support: jax.Array  # [k] indices of the atoms
  basis: jax.Array  # [n, k] orthonormal basis of the atoms
  triangle: jax.Array  # [k, k] the atoms in this basis
  weights: jax.Array  # [k] the signal in this basis
  running: jax.Array


@partial(jax.jit, static_argnames="limits")
def _project(problem: MultilayerProblem, limits: tuple[int, ...]) -> MultilayerResult:
  problem = vary_alike(problem)
  single = problem.zero_signal()
  batch = problem.x.shape[: problem.batch_ndim]
  picks = min(limits[-1], single.x.size)
  zero, unravel = ravel_pytree(single.zeros[-1])
  norms = _atom_norms(single)
  scale = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0)
  rounding = 4 * jnp.finfo(problem.x.dtype).eps * math.sqrt(single.x.size)

  def flat_correlation(residual: jax.Array) -> jax.Array:
    return ravel_pytree(single.correlation(residual.reshape(single.x.shape)))[0] * scale

  def is_feasible(code: jax.Array) -> jax.Array:
    points = single.chain(unravel(code)).points[:-1]
    counts = [sum(map(jnp.count_nonzero, jax.tree.leaves(point))) for point in points]
    return jnp.all(jnp.asarray(counts, jnp.int32) <= jnp.asarray(limits[:-1], jnp.int32))

  def pick(state: _State, k: jax.Array, size: jax.Array) -> tuple[_State, tuple[Any, Any]]:
    correlation = jnp.abs(flat_correlation(state.residual)).at[state.support].set(0, mode="drop")
    best = jnp.argmax(correlation).astype(jnp.int32)
    unit = jnp.zeros_like(zero).at[best].set(scale[best])
    atom = jnp.ravel(single.chain(unravel(unit)).signals[0])
    column, rest = split_by_basis(atom, state.basis)
    length = norm(rest)
    found = state.running & (correlation[best] > rounding * size) & (length > rounding)
    direction = rest / jnp.where(found, length, 1)
    weight = direction @ state.residual
    new = _State(
      code=state.code,
      residual=state.residual - weight * direction,
      support=state.support.at[k].set(best),
      basis=state.basis.at[:, k].set(direction),
      triangle=state.triangle.at[:, k].set(column.at[k].set(length)),
      weights=state.weights.at[k].set(weight),
      running=found,
    )
    values = jax.scipy.linalg.solve_triangular(new.triangle, new.weights)
    code = jnp.zeros_like(zero).at[new.support].set(values, mode="drop") * scale
    feasible = found & is_feasible(code)
    new = new._replace(code=code, running=feasible)
    kept = jax.tree.map(partial(jnp.where, feasible), new, state._replace(running=feasible))
    return kept, (0.5 * jnp.sum(jnp.square(kept.residual)), feasible)

  def pursue(x: jax.Array) -> tuple[Code, jax.Array, jax.Array]:
    x = jnp.ravel(x)
    start = _State(
      code=zero,
      residual=x,
      support=jnp.full(picks, zero.size, jnp.int32),
      basis=jnp.zeros((x.size, picks), x.dtype),
      triangle=jnp.eye(picks, dtype=x.dtype),
      weights=jnp.zeros(picks, x.dtype),
      running=jnp.asarray(True),
    )
    start = vary_alike(start, problem)
    state, (objective, accepted) = lax.scan(
      lambda state, k: pick(state, k, norm(x)), start, jnp.arange(picks, dtype=jnp.int32)
    )
    first = 0.5 * jnp.sum(jnp.square(x))
    count = jnp.sum(accepted, dtype=jnp.int32)
    known = jnp.isfinite(first) & jnp.all(jnp.isfinite(norms))
    code = jnp.where(known, state.code, jnp.nan)
    return unravel(code), jnp.concatenate([first[None], objective]), count

  flat = problem.x.reshape(-1, *single.x.shape)
  deepest, objective, counts = jax.tree.map(
    lambda a: a.reshape(*batch, *a.shape[1:]), lax.map(pursue, flat)
  )
  objective = jnp.moveaxis(objective, -1, 0)
  codes = problem.chain(deepest).points
  residuals, support_sizes = layer_statistics(problem.dictionaries, problem.x, codes)
  return MultilayerResult(
    codes=problem.scaled_back(codes),
    objective=problem.squares_scaled_back(objective),
    iterations=counts,
    converged=None,
    diverged=~jnp.isfinite(objective[-1]),
    gap=None,
    residuals=residuals,
    support_sizes=support_sizes,
  )


def _atom_norms(single: MultilayerProblem) -> jax.Array:
  """Returns the norms of the atoms of D_1 ... D_K, flat: the columns of a matrix, computed by rows."""
  size = single.x.size

  def add_row(i: jax.Array, total: jax.Array) -> jax.Array:
    unit = jnp.zeros(size, single.x.dtype).at[i].set(1).reshape(single.x.shape)
    return total + jnp.square(ravel_pytree(single.correlation(unit))[0])

  zeros = vary_alike(ravel_pytree(single.zeros[-1])[0], single)
  return jnp.sqrt(lax.fori_loop(0, size, add_row, zeros))
