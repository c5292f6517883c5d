"""Orthogonal matching pursuit, with any dictionary."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import AbstractDictionary, Code, Dictionary, as_signal, atom_norms, with_methods
from cscjax.ops import compact_repr, highest_precision, norm, shard_batch, vary_alike
from cscjax.solvers._arguments import check_scalar
from cscjax.solvers._lasso._regularizer import as_axes
from cscjax.solvers._lasso._signals import in_precision, safe_sqrt

BLOCK = 2**22  # number of entries of the factorizations in a block of signals


class OMPResult(NamedTuple):
  """The result of orthogonal matching pursuit with at most k picks.

  Attributes:
    code: The least-squares fit of the signal on the support, of the shape of `dictionary.analysis(x)`.
    residual_norm: ||x - D code|| before the first pick and after each pick, [k + 1, batch...]; after a
      stop, the last value is repeated.
    iterations: Number of picks for each signal, int32 [batch...].
    converged: Whether the norm of the residual is within the tolerance, [batch...]; None without a
      tolerance.
    support: Indices of the atoms in the order in which they were picked, int32 [batch..., k]; -1 after a
      stop. They count the coefficients of one code in row-major order, as the columns of `to_matrix`:
      for a single array, `jnp.unravel_index(support, code_shape)` returns the position and the channel.
      With `joint_axes`, [batch..., k g] for groups of g atoms, which follow one another.
  """

  code: Code
  residual_norm: jax.Array
  iterations: jax.Array
  converged: jax.Array | None
  support: jax.Array

  def __repr__(self) -> str:
    return compact_repr(self, traces=("residual_norm",))


class _State(NamedTuple):
  """The state of the pursuit of one signal.

  For picks that have not been made, and for an atom that depends on those before it, `basis` has zero
  columns, and `triangle` those of the identity.
  """

  basis: jax.Array  # Q [n, k g], orthonormal; A = Q R, where A are the picked atoms at unit norm
  triangle: jax.Array  # R [k g, k g]
  weights: jax.Array  # Q^T x [k g]
  residual: jax.Array  # [n]
  picked: jax.Array  # bool, one for each group
  norm: jax.Array  # norm of the residual
  running: jax.Array  # bool: the pursuit has not stopped


@highest_precision
def omp(
  dictionary: Dictionary,
  x: ArrayLike,
  *,
  sparsity: int | None = None,
  tolerance: ArrayLike | None = None,
  joint_axes: int | Sequence[int] | None = None,
) -> OMPResult:
  """Finds a code with few nonzero coefficients by orthogonal matching pursuit (Pati et al. 1993).

  The method minimizes ||x - D code|| greedily: each iteration picks the atom d with the largest
  correlation `|<d, r>| / ||d||` with the residual r, and then fits the signal by least squares on all
  atoms picked so far (by a QR factorization that grows by one column, with Gram-Schmidt applied twice).
  A code with s nonzero coefficients is recovered exactly if s < (1 + 1/mu) / 2, where mu is the mutual
  coherence of D (Tropp 2004).

  With `joint_axes`, each iteration picks the group of atoms whose correlations `<d, r> / ||d||` have the
  largest Euclidean norm (block OMP: Eldar, Kuppinger & Bölcskei 2010). For a `ComplexDictionary`, whose
  groups are the real and the imaginary part of a coefficient, this is complex OMP: the norm is the
  modulus of the complex correlation. Without `joint_axes`, the two parts count as different atoms.

  A signal stops early if its residual is within `tolerance`, or if no remaining atom correlates with the
  residual beyond rounding. The result does not depend on the scale of signals and atoms. The code of a
  signal that contains NaN or infinity is NaN, and so are all codes if an atom contains one.

  Each pick costs one analysis, one synthesis (none for a `MatrixDictionary`, whose atoms are columns)
  and two products with the factor Q, which has as many entries as the signal for each atom picked.
  Signals are encoded in blocks, so that the memory of these factors does not grow with the number of
  signals. For a convolutional dictionary, each atom is one filter at one position.

  The function works under `jax.jit`, `jax.vmap` and `jax.grad`; a gradient is that of the least-squares
  fit on the support found.

  Args:
    dictionary: The dictionary D. Its atoms may have any norm; an atom of norm zero is never picked.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    sparsity: Largest number of atoms to pick: an integer in 1..min(n, m) for signals of n samples and
      codes of m coefficients. If None, it is min(n, m). With
      `joint_axes`, groups are picked, and m is their number.
    tolerance: Stops a signal when ||x - D code|| is at most this value, a nonnegative scalar; 0 if None.
      At least one of `sparsity` and `tolerance` must be given.
    joint_axes: Axis or axes of the code, negative, along which coefficients are picked together, such as
      -1 for the channels or -2 for the parts of a dense `ComplexDictionary`. The groups have the same
      size in all parts of a code. None (the default) picks each coefficient on its own.

  Returns:
    An `OMPResult`: the code and its support, the norm of the residual after each pick, and whether the
    pursuit converged.

  Raises:
    ValueError: If neither `sparsity` nor `tolerance` is given, a value is out of range, shapes do not
      fit, or the groups of the parts of a code differ in size.

  References:
    Pati, Y. C., Rezaiifar, R. & Krishnaprasad, P. S. (1993). Orthogonal matching pursuit: recursive
    function approximation with applications to wavelet decomposition. Asilomar Conference on Signals,
    Systems and Computers.

    Tropp, J. A. (2004). Greed is good: algorithmic results for sparse approximation. IEEE Transactions
    on Information Theory 50(10).

    Eldar, Y. C., Kuppinger, P. & Bölcskei, H. (2010). Block-sparse signals: uncertainty relations and
    efficient recovery. IEEE Transactions on Signal Processing 58(6).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> atoms = jax.random.normal(jax.random.key(0), (32, 64))
    >>> x = 2 * atoms[:, 5] - 3 * atoms[:, 40]
    >>> result = cscjax.omp(cscjax.MatrixDictionary(atoms), x, sparsity=2)
    >>> sorted(result.support.tolist())
    [5, 40]
    >>> bool(jnp.allclose(result.code[jnp.array([5, 40])], jnp.array([2.0, -3.0]), atol=1e-4))
    True
    >>> filters = jax.random.normal(jax.random.key(1), (5, 1, 4))  # four atoms of 5 samples, shifted
    >>> conv = cscjax.ConvDictionary(filters)
    >>> code = jnp.zeros((32, 4)).at[10, 2].set(1.0).at[12, 0].set(-2.0)
    >>> result = cscjax.omp(conv, conv.synthesis(code), sparsity=2)
    >>> [index.tolist() for index in jnp.unravel_index(result.support, code.shape)]
    [[12, 10], [0, 2]]
    >>> import numpy as np
    >>> atoms = np.fft.ifft(np.eye(8))  # complex exponentials
    >>> parts = (cscjax.MatrixDictionary(jnp.asarray(part)) for part in (atoms.real, atoms.imag))
    >>> fourier = cscjax.dictionaries.ComplexDictionary(*parts)
    >>> x = (1 + 2j) * atoms[:, 3]
    >>> result = cscjax.omp(fourier, np.stack([x.real, x.imag]), sparsity=1, joint_axes=-2)
    >>> [[round(abs(value), 3) for value in part] for part in result.code[:, 2:5].tolist()]
    [[0.0, 1.0, 0.0], [0.0, 2.0, 0.0]]
  """
  if sparsity is None and tolerance is None:
    checks.fail("sparsity", None, "a number of picks if there is no tolerance")
  x, dictionary = as_signal(dictionary, x), with_methods(dictionary)
  batch, shape = x.shape[: x.ndim - dictionary.signal_ndim], x.shape[x.ndim - dictionary.signal_ndim :]
  code = jax.eval_shape(dictionary.analysis, jax.ShapeDtypeStruct(shape, x.dtype))
  axes = as_axes(joint_axes, code, batch_ndim=0)
  sizes = [math.prod(part.shape[axis] for axis in axes) for part in jax.tree.leaves(code)]
  if len(set(sizes)) > 1:
    checks.fail("joint_axes", joint_axes, f"groups of one size in all parts of the code, not {sizes}")
  atoms = sum(part.size for part in jax.tree.leaves(code))
  largest = min(math.prod(shape), atoms // sizes[0])
  picks = largest if sparsity is None else checks.positive_int("sparsity", sparsity)
  if picks > largest:
    checks.fail("sparsity", sparsity, f"at most {largest}, the largest number of independent atoms")
  has_tolerance, tolerance = tolerance is not None, 0 if tolerance is None else tolerance
  check_scalar("tolerance", tolerance)

  def pursue(x: jax.Array, dictionary: AbstractDictionary, tolerance: jax.Array) -> OMPResult:
    flat = _pursue_all(dictionary, x.reshape(-1, *shape), tolerance, picks, axes)
    code, support, norms = jax.tree.map(lambda part: part.reshape(*batch, *part.shape[1:]), flat)
    return OMPResult(
      code=code,
      residual_norm=jnp.moveaxis(norms, -1, 0),
      iterations=jnp.sum(support[..., :: sizes[0]] >= 0, axis=-1, dtype=jnp.int32),
      converged=norms[..., -1] <= tolerance if has_tolerance else None,
      support=support,
    )

  tolerance = jnp.asarray(tolerance, x.dtype)
  layout = OMPResult._make((0, 1, 0, 0, 0))
  return shard_batch(pursue, x, dictionary, tolerance, batch_ndim=len(batch), layout=layout)


@partial(jax.jit, static_argnames=("picks", "axes"))
def _pursue_all(
  dictionary: AbstractDictionary, x: jax.Array, tolerance: jax.Array, picks: int, axes: tuple[int, ...]
) -> tuple[Code, jax.Array, jax.Array]:
  """Encodes signals [b, ...] in blocks whose factorizations have about `BLOCK` entries.

  Returns:
    The codes [b, ...], supports [b, picks g] and residual norms [b, picks + 1].
  """
  dictionary, x, tolerance = vary_alike((dictionary, x, tolerance))
  # Without the barrier, XLA's compiler would compute the norms of constant atoms, in seconds.
  dictionary = lax.optimization_barrier(dictionary)
  dtype = x.dtype
  # In half precision, no basis is orthonormal.
  x, dictionary, tolerance = in_precision((x, dictionary, tolerance), dtype)
  count, size = x.shape[0], math.prod(x.shape[1:])
  by_part = atom_norms(dictionary, x.shape[1:])
  norms, unravel = ravel_pytree(by_part)
  scale = jnp.where(norms == 0, 0, 1 / jnp.where(norms == 0, 1, norms))  # NaN stays NaN
  scale = jnp.where(jnp.isfinite(norms), scale, jnp.nan)
  groups = _grouped_indices(by_part, axes)

  def strength(correlation: jax.Array) -> jax.Array:
    parts = jax.tree.leaves(unravel(correlation))
    return jnp.concatenate([(norm(part, axes) if axes else jnp.abs(part)).ravel() for part in parts])

  @jax.checkpoint  # the backward pass does not keep the factorizations of all signals
  def pursue(signal: jax.Array) -> tuple[Code, jax.Array, jax.Array]:
    unit = _largest(signal)  # signals have a largest entry of 1, so that no square overflows
    found = _pursue(dictionary, scale, groups, strength, signal / unit, picks, tolerance / unit)
    code, support, norms = found
    code, norms = jax.tree.map(lambda a: a.astype(dtype), (unravel(code * unit), norms * unit))
    return code, support, norms

  columns = picks * groups.shape[1]
  block = max(1, BLOCK // (columns * (size + columns)))
  return lax.map(pursue, x, batch_size=max(1, min(block, count)))


def _pursue(
  dictionary: AbstractDictionary,
  scale: jax.Array,
  groups: jax.Array,
  strength: Callable[[jax.Array], jax.Array],
  signal: jax.Array,
  picks: int,
  tolerance: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Encodes one signal with unit atoms, which are those of the dictionary times `scale`.

  Args:
    dictionary: The dictionary.
    scale: One factor for each atom [m].
    groups: The indices of the atoms of each group [m / g, g].
    strength: Returns the norms of the groups [m / g] of a vector [m].
    signal: The signal.
    picks: Largest number of picks.
    tolerance: Norm of the residual at which the pursuit stops.

  Returns:
    The code as a vector [m], the support [picks g] and the residual norms [picks + 1].
  """
  x, m, size = signal.ravel(), scale.size, groups.shape[1]
  columns = picks * size

  def correlate(residual: jax.Array) -> jax.Array:
    return scale * ravel_pytree(dictionary.analysis(residual.reshape(signal.shape)))[0]

  def unit_atom(index: jax.Array) -> jax.Array:
    return scale[index] * dictionary.atom(index, signal.shape).ravel()

  rounding = 4 * jnp.finfo(x.dtype).eps * x.size**0.5

  def pick(state: _State, k: jax.Array) -> tuple[_State, tuple[jax.Array, jax.Array]]:
    correlation = jnp.where(state.picked, 0, strength(correlate(state.residual)))
    best = jnp.argmax(correlation)
    # Above this bound, the component of an atom of the group outside the span exceeds rounding, too.
    is_correlated = correlation[best] > rounding * size**0.5 * start.norm
    running = state.running & (state.norm > tolerance) & is_correlated
    state = state._replace(
      picked=state.picked.at[best].set(state.picked[best] | running), running=running
    )
    state, _ = lax.scan(add, state, (k * size + jnp.arange(size), groups[best]))
    state = state._replace(norm=jnp.where(running, _norm(state.residual), state.norm))
    return state, (jnp.where(running, groups[best], -1).astype(jnp.int32), state.norm)

  def add(state: _State, place: tuple[jax.Array, jax.Array]) -> tuple[_State, None]:
    k, index = place
    column, rest = split_by_basis(unit_atom(index), state.basis)
    length = _norm(rest)
    is_new = state.running & (length > rounding)
    direction = jnp.where(is_new, rest / jnp.where(is_new, length, 1), 0)
    weight = direction @ state.residual
    column = jnp.where(is_new, column.at[k].set(length), jnp.eye(columns, dtype=x.dtype)[k])
    state = state._replace(
      basis=state.basis.at[:, k].set(direction),
      triangle=state.triangle.at[:, k].set(column),
      weights=state.weights.at[k].set(weight),
      residual=state.residual - weight * direction,
    )
    return state, None

  start = _State(
    basis=jnp.zeros_like(x, shape=(x.size, columns)),
    triangle=jnp.zeros_like(x, shape=(columns, columns)),
    weights=jnp.zeros_like(x, shape=columns),
    residual=x,
    picked=jnp.zeros_like(x, bool, shape=len(groups)),
    norm=_norm(x),
    running=jnp.ones_like(x, bool, shape=()),
  )
  state, (support, norms) = lax.scan(pick, start, jnp.arange(picks))
  support = support.ravel()
  values = jax.scipy.linalg.solve_triangular(state.triangle, state.weights)
  code = (
    jnp.zeros_like(x, shape=m).at[jnp.where(support < 0, m, support)].set(values, mode="drop") * scale
  )
  known = jnp.isfinite(start.norm) & jnp.all(jnp.isfinite(scale))
  code, norms = (
    jnp.where(known, part, jnp.nan) for part in (code, jnp.concatenate([start.norm[None], norms]))
  )
  return code, support, norms


def split_by_basis(vector: jax.Array, basis: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the coefficients of a vector [n] in an orthonormal basis [n, k], and the rest of the vector.

  The vector is projected twice, because the first projection leaves rounding errors (Gram-Schmidt).
  """
  first = basis.T @ vector
  rest = vector - basis @ first
  second = basis.T @ rest
  return first + second, rest - basis @ second


def _grouped_indices(code: Code, axes: tuple[int, ...]) -> jax.Array:
  """Returns the indices [m / g, g] of the coefficients of a code, those along `axes` as one group."""
  found, start = [], 0
  for part in jax.tree.leaves(code):
    indices = jnp.arange(start, start + part.size).reshape(part.shape)
    size = math.prod(part.shape[axis] for axis in axes)
    found.append(jnp.moveaxis(indices, axes, range(-len(axes), 0)).reshape(-1, size))
    start += part.size
  return jnp.concatenate(found)


def _largest(array: jax.Array) -> jax.Array:
  """Returns the largest |entry|, 1 if it is 0, without a gradient: a scale."""
  largest = lax.stop_gradient(jnp.max(jnp.abs(array)))
  return jnp.where(largest == 0, 1, largest)


def _norm(vector: jax.Array) -> jax.Array:
  """Returns the norm, with derivative 0 at 0 instead of NaN."""
  return safe_sqrt(jnp.sum(jnp.square(vector)))
