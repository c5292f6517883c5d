"""Which coefficients of a Lasso solution can be nonzero when noise is added to the signal.

All signals are flattened and multiplied by the roots of the weights, all codes are flattened and their
parts concatenated, and everything is NumPy in float64. A ridge is part of the dictionary: an atom d_j is
followed by the root of its ridge at place j of p further samples, in which the signal is zero. These
samples also contain a penalty on the part of a group that its atoms map to zero. This part is zero in
all solutions, so that the penalty does not change them.
"""

import dataclasses
import functools
import math
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from cscjax.dictionaries import Dictionary, atom_norms
from cscjax.ops import highest_precision
from cscjax.solvers import Lasso
from cscjax.theory._float64 import flatten, flatten_batch, float64_on_host
from cscjax.theory._groups import CHUNK, Groups
from cscjax.theory._restricted import SparseMatrix, atom_columns
from cscjax.theory._sparsity import patch_norm

ROUNDING = 4  # rounding errors of the product of the norms that an inner product with an atom may have
DENSE_PROJECTION = 2**22  # largest number of entries of atoms without a penalty that are orthonormalized
LEAK = 100  # the same, of the inner products of a projection with atoms to which it is orthogonal


@dataclasses.dataclass(frozen=True, eq=False)
class FlatProblems:
  """Lasso problems with the same dictionary, one per signal.

  Attributes:
    dictionary: The dictionary D, in float64.
    shape: The shape of one signal.
    x: The signals, times the roots of the weights: [N, n], or [N, n + p] with a ridge or groups.
    roots: The roots of the weights: [N, n].
    beta: The penalties: [N, p].
    ridge: The penalties of the squares: [N, p]; None if there are neither these nor groups.
    one_sided: Whether a coefficient is constrained to be nonnegative: [N, p].
    groups: The coefficients that are zero jointly; each is a group of its own without `joint_axes`.
    precision: The distance from 1 to the next number in the type in which the dictionary computes.
  """

  dictionary: Dictionary
  shape: tuple[int, ...]
  x: np.ndarray
  roots: np.ndarray
  beta: np.ndarray
  ridge: np.ndarray | None
  one_sided: np.ndarray
  groups: Groups
  precision: float
  _further: dict[int, SparseMatrix] = dataclasses.field(default_factory=dict)
  _weighted_spectra: dict[int, "Spectra"] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, lasso: Lasso) -> Self:
    """Flattens the arrays of a problem."""
    batch, shape = lasso.x.shape[: lasso.batch_ndim], lasso.x.shape[lasso.batch_ndim :]
    weights = np.ones(()) if lasso.mask is None else np.asarray(lasso.mask, np.float64)
    roots = np.broadcast_to(np.sqrt(weights), lasso.x.shape)
    roots = roots.reshape(math.prod(batch), math.prod(shape))
    x = roots * np.asarray(lasso.x, np.float64).reshape(roots.shape)
    code, structure = jax.tree.flatten(jax.eval_shape(lasso.dictionary.analysis, lasso.x))
    parts = structure.flatten_up_to(lasso.regularizer)
    sides = [False if part.nonnegative is None else part.nonnegative for part in parts]
    one_sided = flatten_batch(sides, code, batch).astype(bool)
    beta = flatten_batch([part.beta for part in parts], code, batch)
    places, count = [], 0
    for part, regularizer in zip(code, parts, strict=True):
      axes = part.shape[len(batch) :]
      kept = [1 if k - len(axes) in regularizer.joint_axes else n for k, n in enumerate(axes)]
      group = count + np.arange(math.prod(kept)).reshape(kept)
      places.append(np.broadcast_to(group, axes).ravel())
      count += group.size
    groups, ridge = Groups(np.concatenate(places)), None
    if lasso.has_ridge or len(groups.sizes) < len(groups.of):
      ridge = flatten_batch([0 if part.ridge is None else part.ridge for part in parts], code, batch)
      x = np.concatenate([x, np.zeros_like(ridge)], axis=1)
    eps = float(jnp.finfo(lasso.x.dtype).eps)
    return cls(lasso.dictionary, shape, x, roots, beta, ridge, one_sided, groups, eps)

  @highest_precision
  def analysis(self, i: int, signal: np.ndarray) -> np.ndarray:
    """Returns the inner products of the atoms of signal i with a weighted signal."""
    samples, further = np.split(signal, [self.roots.shape[1]])
    with float64_on_host():
      code = self.dictionary.analysis(jnp.asarray((self.roots[i] * samples).reshape(self.shape)))
    flat = flatten(code)
    return flat if self.ridge is None else flat + self.further(i).T @ further

  def rounding(self, magnitudes: np.ndarray) -> float:
    """Bounds the rounding errors of the inner products of atoms of norm 1 with a signal.

    Args:
      magnitudes: The sums of the magnitudes from which the samples of the signal are computed.
    """
    with float64_on_host():
      patch = patch_norm(self.dictionary, magnitudes[: self.roots.shape[1]].reshape(self.shape))
    return ROUNDING * self.precision * float(patch)

  def atoms(self, i: int, indices: np.ndarray) -> SparseMatrix:
    """Returns atoms of signal i, with their further samples, as the columns of a matrix."""
    columns = self.weighted_atoms(i, indices)
    if self.ridge is None:
      return columns
    return scipy.sparse.vstack([columns, self.further(i)[:, indices]], format="csc")

  def further(self, i: int) -> SparseMatrix:
    """Returns the further samples of all atoms of signal i: a matrix [p, p]."""
    if i not in self._further:
      penalties = scipy.sparse.diags_array(self.spectra(i).groups[self.groups.of]) @ self.kernels(i)
      if self.ridge is not None:
        penalties = penalties + scipy.sparse.diags_array(np.sqrt(self.ridge[i]))
      self._further[i] = scipy.sparse.csc_array(penalties)
      self._further[i].eliminate_zeros()
    return self._further[i]

  def kernels(self, i: int) -> SparseMatrix:
    """Returns the projections onto the parts of groups that are zero in all solutions: [p, p].

    A group of a solution is a multiple of D_g^T r, so that its part in the kernel of D_g is zero, unless
    it has no penalty or a constraint. With a ridge, its atoms are independent already.
    """
    excluded = self.one_sided[i] | (self.beta[i] == 0)
    if self.ridge is not None:
      excluded |= self.ridge[i] > 0
    included = self.groups.largest(excluded)[self.groups.of] == 0
    return self.spectra(i).kernels @ scipy.sparse.diags_array(included.astype(float))

  def weighted_atoms(self, i: int, indices: np.ndarray) -> SparseMatrix:
    """Returns atoms of signal i without their further samples, times the roots of the weights."""
    columns = atom_columns(self.dictionary, self.shape, indices)
    if np.all(self.roots[i] == 1):
      return columns
    return scipy.sparse.csc_array(scipy.sparse.diags_array(self.roots[i]) @ columns)

  def spectra(self, i: int) -> "Spectra":
    """Returns what is known of the atoms of signal i, without their further samples."""
    if np.all(self.roots[i] == 1):
      return self._unweighted_spectra
    if i in self._weighted_spectra:
      return self._weighted_spectra[i]
    count = self.beta.shape[1]
    chunks = [np.arange(k, min(k + CHUNK, count)) for k in range(0, count, CHUNK)]
    norms = [scipy.sparse.linalg.norm(self.weighted_atoms(i, chunk), axis=0) for chunk in chunks]
    norms = np.concatenate(norms)
    found = Spectra(norms, *self.groups.spectra(functools.partial(self.weighted_atoms, i), norms))
    self._weighted_spectra[i] = found
    return found

  @functools.cached_property
  def _unweighted_spectra(self) -> "Spectra":
    """The same where all weights are 1."""
    with float64_on_host():
      norms = flatten(atom_norms(self.dictionary, self.shape))
    atoms = functools.partial(atom_columns, self.dictionary, self.shape)
    return Spectra(norms, *self.groups.spectra(atoms, norms))


class Spectra(NamedTuple):
  """Norms and kernels of the atoms for one signal.

  Attributes:
    norms: The norm of each atom: [p].
    groups: The spectral norm of the atoms of each group.
    kernels: The projections onto the coefficients of groups that their atoms map to zero: [p, p].
  """

  norms: np.ndarray
  groups: np.ndarray
  kernels: SparseMatrix


class Screening(NamedTuple):
  """The certificate of a code by duality.

  Attributes:
    gap: The duality gap of the code, up to rounding.
    radius: sqrt(2 gap) and what rounding may add: a bound on the distance from the dual point to the
      dual solution.
    levels: For each coefficient, the noise below which it is zero; at most 0 if it may be nonzero
      without noise, -inf on the support of the code.
    subgradient: The smallest subgradient of the objective at the code.
    rounding: Bounds on the rounding errors of the coefficients of the subgradient: [p].
  """

  gap: float
  radius: float
  levels: np.ndarray
  subgradient: np.ndarray
  rounding: np.ndarray


def screen(problem: FlatProblems, i: int, code: np.ndarray) -> Screening:
  """Finds the coefficients of signal i that stay zero under noise.

  The dual point is the residual, projected onto the complement of the atoms without a penalty and scaled
  until the group sizes of D^T theta are at most beta. With this point the duality gap is

      1/2 ||x - D code - theta||^2 + sum_g beta_g ||code_g|| - <code, D^T theta>,

  a sum of nonnegative terms: unlike the difference of the objectives, it is exact if it is small.

  With a ridge, a group is zero where the size of D_g^T (x - D code) is below beta_g without the ridge.
  This part of the residual moves at most as far as all of it, so the levels need the norms without the
  ridge.

  Args:
    problem: The problems.
    i: The signal.
    code: A code [p], nonnegative where the problem is.
  """
  beta, one_sided, groups = problem.beta[i], problem.one_sided[i], problem.groups
  norms, group_norms, _ = problem.spectra(i)
  group_beta = groups.largest(beta)
  support = np.flatnonzero(code)
  columns = problem.atoms(i, support)
  residual = problem.x[i] - columns @ code[support]
  rounding = norms * problem.rounding(np.abs(problem.x[i]) + abs(columns) @ np.abs(code[support]))
  gradient = problem.analysis(i, residual)
  point, correlation = residual, gradient
  free = np.flatnonzero((beta == 0) & (~one_sided | (code != 0)))
  scale = 1.0
  if len(free):
    point = residual - _projection(problem.atoms(i, free), residual)
    correlation = problem.analysis(i, point)
    # The projection may not have converged. Zero is orthogonal to these atoms, and always feasible.
    leak = LEAK * problem.precision * norms[free] * np.linalg.norm(residual)
    scale = float(np.all(np.abs(correlation[free]) <= leak))
    correlation[free] = 0
  size = _group_sizes(groups, correlation, one_sided)
  outside = size > group_beta
  scale = min(scale, np.min(group_beta[outside] / size[outside], initial=1.0))
  point, correlation, size = scale * point, scale * correlation, scale * size
  code_norms = groups.norms(code)
  terms = group_beta * code_norms - groups.sums(code * correlation)
  gap = max(float(0.5 * np.sum((residual - point) ** 2) + np.sum(terms)), 0.0)
  radius = math.sqrt(2 * (gap + float(rounding @ np.abs(code))))
  distance = np.maximum(group_beta - size, 0) - groups.norms(rounding)
  levels = (_ratio(distance, group_norms) - radius)[groups.of]
  # In a group that is not zero, a coefficient is still zero if its constraint is active.
  own = _ratio(-correlation - rounding, norms) - radius
  levels = np.where(one_sided, np.maximum(levels, own), levels)
  levels[norms == 0] = np.inf
  levels[(norms == 0) & (beta == 0)] = -np.inf  # such a coefficient is arbitrary
  levels[free] = -np.inf
  levels[support] = -np.inf
  subgradient = _subgradient(groups, gradient, code, code_norms[groups.of], beta, one_sided)
  return Screening(gap, radius, levels, subgradient, rounding)


def _group_sizes(groups: Groups, correlation: np.ndarray, one_sided: np.ndarray) -> np.ndarray:
  """Returns the largest <correlation, z> over the unit vectors z of each group that meet the constraint.

  It is what beta is compared with: a group is zero where it is less. For a single coefficient, it is the
  magnitude of the correlation, or the correlation if the coefficient is constrained.
  """
  size = groups.norms(np.where(one_sided, np.maximum(correlation, 0), correlation))
  return np.where(size > 0, size, groups.largest(correlation))


def _subgradient(
  groups: Groups,
  gradient: np.ndarray,
  code: np.ndarray,
  code_norms: np.ndarray,
  beta: np.ndarray,
  one_sided: np.ndarray,
) -> np.ndarray:
  """Returns the negative of the smallest subgradient of the objective at a code.

  Args:
    groups: The groups.
    gradient: The negative gradient of the squared error at the code.
    code: The code.
    code_norms: The norm of the group of each coefficient.
    beta: The penalty of each coefficient.
    one_sided: Which coefficients are constrained.
  """
  inside = np.where(one_sided, np.maximum(gradient, 0), gradient)
  sizes = groups.norms(inside)[groups.of]
  inside = inside * np.maximum(1 - np.divide(beta, sizes, out=np.ones_like(beta), where=sizes > 0), 0)
  outside = gradient - beta * np.divide(code, code_norms, out=np.zeros_like(code), where=code_norms > 0)
  outside = np.where(one_sided & (code == 0), np.maximum(outside, 0), outside)
  return np.where(code_norms == 0, inside, outside)


def _ratio(distance: np.ndarray, norms: np.ndarray) -> np.ndarray:
  """Returns distance / norms, inf where the norm is zero."""
  with np.errstate(over="ignore"):  # an atom may be tiny
    return np.where(norms > 0, distance / np.where(norms > 0, norms, 1), np.inf)


def _projection(columns: SparseMatrix, signal: np.ndarray) -> np.ndarray:
  """Returns the projection of a signal onto the span of the columns."""
  if math.prod(columns.shape) <= DENSE_PROJECTION:
    basis = np.linalg.qr(columns.toarray())[0]
    return basis @ (basis.T @ signal)
  solution = scipy.sparse.linalg.lsmr(columns, signal, atol=1e-15, btol=1e-15, conlim=0)[0]
  return columns @ solution
