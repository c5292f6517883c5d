"""Orthogonal matching pursuit over dense dictionaries."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import MatrixDictionary, as_signal
from cscjax.ops import highest_precision, shard_batch, vary_alike

BLOCK = 2**22  # numbers in the factorisations that are computed at a time


class OMPResult(NamedTuple):
  """What orthogonal matching pursuit found, after k picks at most.

  Attributes:
    code: [batch..., m], the least-squares fit on the support.
    residual_norm: [k + 1, batch...], ||x - D code|| before the first pick and after each; after a stop
      the last one is repeated.
    iterations: [batch...] int32, how many atoms were picked.
    converged: [batch...], whether the residual's norm is within the tolerance; None without one.
    support: [batch..., k] int32, the atoms in the order of their picking, then -1 after a stop.
  """

  code: jax.Array
  residual_norm: jax.Array
  iterations: jax.Array
  converged: jax.Array | None
  support: jax.Array


class _State(NamedTuple):
  """Of one signal. Picks to come have zero columns in `basis`, and those of the unit in `triangle`."""

  basis: jax.Array  # Q [n, k], orthonormal, with A = Q R for the unit atoms A picked
  triangle: jax.Array  # R [k, k]
  weights: jax.Array  # Q^T x [k]
  residual: jax.Array  # [n]
  picked: jax.Array  # bool [m]
  norm: jax.Array  # of the residual
  running: jax.Array  # bool


@highest_precision
def omp(
  dictionary: MatrixDictionary,
  x: ArrayLike,
  *,
  sparsity: int | None = None,
  tolerance: ArrayLike | None = None,
) -> OMPResult:
  """Orthogonal matching pursuit (Pati et al. 1993), greedily for min ||x - D code||, few non-zeros.

  Each pick is the atom that correlates most with the residual, by |<d, r>| / ||d||; the code is then
  the least-squares fit on all atoms picked, by a QR factorisation that grows by a column (Gram-Schmidt,
  done twice). Finds a code of s non-zeros exactly if s < (1 + 1/mu)/2 (Tropp 2004, Lemma 1's bound).

  A signal stops early where its residual is within `tolerance`, or no atom that is left correlates with
  it beyond rounding. Works under jit, vmap and grad (of the fit, at the support found). The scale of
  signals and atoms does not matter. The code of a signal that holds a NaN or an infinity is NaN, and
  every code where an atom holds one. Signals are coded in blocks, so that beyond a block only the memory
  of the result grows with their number.

  Args:
    dictionary: D, dense; atoms of any norm, one of norm 0 is never picked.
    x: Signals [batch..., n].
    sparsity: How many picks, 1 to min(n, m); min(n, m) if None.
    tolerance: Stop where ||x - D code||_2 <= tolerance, a scalar >= 0; 0 if None.

  Returns:
    An `OMPResult`: the code and its support, the residual's norms, and whether it converged.

  Raises:
    ValueError: If neither `sparsity` nor `tolerance` is given, one is out of range, the dictionary is
      not dense or shapes do not fit.
  """
  if not isinstance(dictionary, MatrixDictionary):
    checks.fail("dictionary", type(dictionary).__name__, "a MatrixDictionary")
  if sparsity is None and tolerance is None:
    checks.fail("sparsity", None, "a number of picks, or a tolerance")
  x = as_signal(dictionary, x)
  jax.eval_shape(dictionary.analysis, x)  # raises where the shapes do not fit
  atoms = dictionary.atoms.astype(x.dtype)
  largest = min(atoms.shape)
  picks = largest if sparsity is None else checks.positive_int("sparsity", sparsity)
  if picks > largest:
    checks.fail("sparsity", sparsity, f"at most {largest}, the smaller size of D {atoms.shape}")
  has_tolerance, tolerance = tolerance is not None, 0 if tolerance is None else tolerance
  checks.all_at_least("tolerance", tolerance, 0)
  if jnp.ndim(tolerance) != 0:
    checks.fail("tolerance", jnp.shape(tolerance), "a scalar")

  def pursue(x, atoms, tolerance):
    flat = _pursue_all(atoms, x.reshape(-1, x.shape[-1]), tolerance, picks)
    code, support, norms = (part.reshape(*x.shape[:-1], part.shape[-1]) for part in flat)
    return OMPResult(
      code=code,
      residual_norm=jnp.moveaxis(norms, -1, 0),
      iterations=jnp.sum(support >= 0, axis=-1, dtype=jnp.int32),
      converged=norms[..., -1] <= tolerance if has_tolerance else None,
      support=support,
    )

  tolerance = jnp.asarray(tolerance, x.dtype)
  layout = OMPResult._make((0, 1, 0, 0, 0))
  return shard_batch(pursue, x, atoms, tolerance, batch_ndim=x.ndim - 1, layout=layout)


@partial(jax.jit, static_argnames="picks")
def _pursue_all(atoms, x, tolerance, picks):
  """OMP of signals [b, n], in blocks whose factorisations take about `BLOCK` numbers."""
  size, n = x.shape
  atoms, x, tolerance = vary_alike((atoms, x, tolerance))
  # Atoms and signals of any scale: the largest entry becomes 1 before anything is squared.
  largest = _largest(atoms)
  norms = largest * _norm(atoms / largest[None])
  scale = jnp.where(norms == 0, 0, 1 / jnp.where(norms == 0, 1, norms))  # NaN stays
  atoms = (atoms / largest[None]) * (scale * largest)[None]

  @jax.checkpoint  # a backward pass does not keep the factorisations of all signals either
  def pursue(signal):
    unit = _largest(signal)
    code, support, norms = _pursue(atoms, scale, signal / unit, picks, tolerance / unit)
    return code * unit, support, norms * unit

  block = max(1, BLOCK // (picks * (n + picks)))
  return lax.map(pursue, x, batch_size=max(1, min(block, size)))


def _pursue(atoms, scale, x, picks, tolerance):
  """OMP of one signal over unit atoms; the code is of the atoms that `scale` made them from."""
  n, m = atoms.shape
  rounding = 4 * jnp.finfo(x.dtype).eps * n**0.5

  def pick(state, k):
    correlation = jnp.where(state.picked, 0, jnp.abs(state.residual @ atoms))
    best = jnp.argmax(correlation)
    # Beyond this bound the atom's part outside the span is more than rounding as well.
    running = state.running & (state.norm > tolerance) & (correlation[best] > rounding * start.norm)
    atom = atoms[:, best]
    column = state.basis.T @ atom
    rest = atom - state.basis @ column
    again = state.basis.T @ rest
    rest = rest - state.basis @ again
    length = _norm(rest)
    direction = jnp.where(running, rest / jnp.where(running, length, 1), 0)
    weight = direction @ state.residual
    residual = state.residual - weight * direction
    column = jnp.where(running, (column + again).at[k].set(length), jnp.eye(picks, dtype=x.dtype)[k])
    state = _State(
      basis=state.basis.at[:, k].set(direction),
      triangle=state.triangle.at[:, k].set(column),
      weights=state.weights.at[k].set(weight),
      residual=residual,
      picked=state.picked.at[best].set(state.picked[best] | running),
      norm=jnp.where(running, _norm(residual), state.norm),
      running=running,
    )
    return state, (jnp.where(running, best, -1).astype(jnp.int32), state.norm)

  start = _State(
    basis=jnp.zeros_like(x, shape=(n, picks)),
    triangle=jnp.zeros_like(x, shape=(picks, picks)),
    weights=jnp.zeros_like(x, shape=picks),
    residual=x,
    picked=jnp.zeros_like(x, bool, shape=m),
    norm=_norm(x),
    running=jnp.ones_like(x, bool, shape=()),
  )
  state, (support, norms) = lax.scan(pick, start, jnp.arange(picks))
  values = jax.scipy.linalg.solve_triangular(state.triangle, state.weights)
  code = (
    jnp.zeros_like(x, shape=m).at[jnp.where(support < 0, m, support)].set(values, mode="drop") * scale
  )
  known = jnp.isfinite(start.norm) & jnp.all(jnp.isfinite(scale))
  code, norms = (
    jnp.where(known, part, jnp.nan) for part in (code, jnp.concatenate([start.norm[None], norms]))
  )
  return code, support, norms


def _largest(array):
  """The largest |entry| along the first axis, 1 where that is 0: a scale, without a derivative."""
  largest = lax.stop_gradient(jnp.max(jnp.abs(array), axis=0))
  return jnp.where(largest == 0, 1, largest)


def _norm(array):
  """Norms over the first axis, with derivative 0 instead of NaN at 0."""
  square = jnp.sum(jnp.square(array), axis=0)
  return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
