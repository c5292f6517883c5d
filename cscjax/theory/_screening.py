"""Which coefficients of a Lasso solution can be nonzero when noise is added to the signal.

All signals are flattened and multiplied by the roots of the weights, all codes are flattened and their
parts concatenated, and everything is NumPy in float64. A ridge is part of the dictionary: an atom d_j is
followed by the root of its ridge at place j of p further samples, in which the signal is zero.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from cscjax.dictionaries import Dictionary, atom_norms
from cscjax.ops import highest_precision
from cscjax.solvers import Lasso
from cscjax.theory._restricted import SparseMatrix, atom_columns, float64_on_host

CHUNK = 2**16  # number of atoms whose weighted norms are computed together
ROUNDING = 8  # rounding errors of the largest |D^T x| that an inner product with an atom may have


class FlatProblems(NamedTuple):
  """Lasso problems with the same dictionary, one per signal.

  Attributes:
    dictionary: The dictionary D, in float64.
    shape: The shape of one signal.
    x: The signals, times the roots of the weights: [N, n], or [N, n + p] with a ridge.
    roots: The roots of the weights: [N, n].
    beta: The penalties: [N, p].
    ridge: The penalties of the squares: [N, p]; None if there are none.
    one_sided: Whether a coefficient is constrained to be nonnegative: [N, p].
    precision: The distance from 1 to the next number in the type in which the dictionary computes.
  """

  dictionary: Dictionary
  shape: tuple[int, ...]
  x: np.ndarray
  roots: np.ndarray
  beta: np.ndarray
  ridge: np.ndarray | None
  one_sided: np.ndarray
  precision: float

  @classmethod
  def of(cls, lasso: Lasso) -> Self:
    """Flattens the arrays of a problem."""
    batch, shape = lasso.x.shape[: lasso.batch_ndim], lasso.x.shape[lasso.batch_ndim :]
    weights = np.ones(()) if lasso.mask is None else np.asarray(lasso.mask, np.float64)
    roots = np.sqrt(np.broadcast_to(weights, lasso.x.shape)).reshape(-1, math.prod(shape))
    x = roots * np.asarray(lasso.x, np.float64).reshape(roots.shape)
    code, structure = jax.tree.flatten(jax.eval_shape(lasso.dictionary.analysis, lasso.x))
    parts = structure.flatten_up_to(lasso.regularizer)
    sides = [False if part.nonnegative is None else part.nonnegative for part in parts]
    one_sided = flatten(sides, code, batch).astype(bool)
    beta = flatten([part.beta for part in parts], code, batch)
    ridge = None
    if lasso.has_ridge:
      ridge = flatten([0 if part.ridge is None else part.ridge for part in parts], code, batch)
      x = np.concatenate([x, np.zeros_like(ridge)], axis=1)
    eps = float(jnp.finfo(lasso.x.dtype).eps)
    return cls(lasso.dictionary, shape, x, roots, beta, ridge, one_sided, eps)

  @highest_precision
  def analysis(self, i: int, signal: np.ndarray) -> np.ndarray:
    """Returns the inner products of the atoms of signal i with a weighted signal."""
    samples, further = np.split(signal, [self.roots.shape[1]])
    with float64_on_host():
      code = self.dictionary.analysis(jnp.asarray((self.roots[i] * samples).reshape(self.shape)))
    flat = np.concatenate([np.ravel(part) for part in jax.tree.leaves(code)]).astype(np.float64)
    return flat if self.ridge is None else flat + np.sqrt(self.ridge[i]) * further

  def atoms(self, i: int, indices: np.ndarray) -> SparseMatrix:
    """Returns atoms of signal i, with their ridge, as the columns of a matrix."""
    columns = self.weighted_atoms(i, indices)
    if self.ridge is None:
      return columns
    places = indices, np.arange(len(indices))
    shape = self.ridge.shape[1], len(indices)
    further = scipy.sparse.coo_array((np.sqrt(self.ridge[i, indices]), places), shape=shape)
    return scipy.sparse.vstack([columns, further], format="csc")

  def weighted_atoms(self, i: int, indices: np.ndarray) -> SparseMatrix:
    """Returns atoms of signal i without their ridge, times the roots of the weights."""
    columns = atom_columns(self.dictionary, self.shape, indices)
    if np.all(self.roots[i] == 1):
      return columns
    return scipy.sparse.csc_array(scipy.sparse.diags_array(self.roots[i]) @ columns)

  def norms(self, i: int) -> np.ndarray:
    """Returns the norms of all atoms of signal i, without their ridge."""
    if np.all(self.roots[i] == 1):
      with float64_on_host():
        norms = atom_norms(self.dictionary, self.shape)
      return np.concatenate([np.ravel(part) for part in jax.tree.leaves(norms)]).astype(np.float64)
    count = self.beta.shape[1]
    chunks = [np.arange(k, min(k + CHUNK, count)) for k in range(0, count, CHUNK)]
    norms = [scipy.sparse.linalg.norm(self.weighted_atoms(i, chunk), axis=0) for chunk in chunks]
    return np.concatenate(norms)


class Screening(NamedTuple):
  """The certificate of a code by duality.

  Attributes:
    gap: The duality gap of the code, up to rounding.
    radius: sqrt(2 gap) and what rounding may add: a bound on the distance from the dual point to the
      dual solution.
    levels: For each coefficient, the noise below which it is zero; at most 0 if it may be nonzero
      without noise, -inf on the support of the code.
    subgradient: The magnitudes of the smallest subgradient of the objective at the code.
  """

  gap: float
  radius: float
  levels: np.ndarray
  subgradient: np.ndarray


def screen(problem: FlatProblems, i: int, code: np.ndarray) -> Screening:
  """Finds the coefficients of signal i that stay zero under noise.

  The dual point is the residual, projected onto the complement of the atoms without a penalty and scaled
  until |d_j^T theta| <= beta_j. With this point the duality gap is

      1/2 ||x - D code - theta||^2 + sum_j (beta_j |code_j| - code_j d_j^T theta),

  a sum of nonnegative terms: unlike the difference of the objectives, it is exact if it is small.

  With a ridge, a coefficient is zero where |d_j^T (x - D code)| < beta_j without the ridge. This part of
  the residual moves at most as far as all of it, so the levels need the norms without the ridge.

  Args:
    problem: The problems.
    i: The signal.
    code: A code [p].
  """
  beta, one_sided, norms = problem.beta[i], problem.one_sided[i], problem.norms(i)
  support = np.flatnonzero(code)
  residual = problem.x[i] - problem.atoms(i, support) @ code[support]
  rounding = ROUNDING * problem.precision * np.max(np.abs(problem.analysis(i, problem.x[i])), initial=0)
  gradient = problem.analysis(i, residual)
  point, correlation = residual, gradient
  free = np.flatnonzero((beta == 0) & (~one_sided | (code != 0)))
  if len(free):
    point = residual - _projection(problem.atoms(i, free), residual)
    correlation = problem.analysis(i, point)
    correlation[free] = 0
  size = np.where(one_sided, correlation, np.abs(correlation))
  scale = min(1.0, np.min(beta[size > beta] / size[size > beta], initial=1.0))
  point, correlation, size = scale * point, scale * correlation, scale * size
  gap = 0.5 * np.sum((residual - point) ** 2) + np.sum(beta * np.abs(code) - code * correlation)
  gap = max(float(gap), 0.0)
  radius = math.sqrt(2 * (gap + rounding * float(np.sum(np.abs(code)))))
  distance = np.maximum(beta - size, 0) - rounding
  with np.errstate(over="ignore"):  # an atom may be tiny
    levels = np.where(norms > 0, distance / np.where(norms > 0, norms, 1) - radius, np.inf)
  levels[(norms == 0) & (beta == 0)] = -np.inf  # such a coefficient is arbitrary
  levels[free] = -np.inf
  levels[support] = -np.inf
  inside = np.where(one_sided, gradient, np.abs(gradient)) - beta
  subgradient = np.where(code == 0, np.maximum(inside, 0), np.abs(gradient - beta * np.sign(code)))
  return Screening(gap, radius, levels, subgradient + rounding)


def _projection(columns: SparseMatrix, signal: np.ndarray) -> np.ndarray:
  """Returns the projection of a signal onto the span of the columns."""
  solution = scipy.sparse.linalg.lsmr(columns, signal, atol=1e-15, btol=1e-15, conlim=0)[0]
  return columns @ solution


def flatten(values: Sequence[Any], code: Sequence[Any], batch: tuple[int, ...]) -> np.ndarray:
  """Broadcasts values to the parts of a code and flattens them to [N, p].

  Args:
    values: An array for each part of the code.
    code: The parts, arrays or shapes.
    batch: The batch axes.
  """
  parts = [np.broadcast_to(v, c.shape) for v, c in zip(values, code, strict=True)]
  return np.concatenate([p.reshape(math.prod(batch), -1) for p in parts], axis=1).astype(np.float64)
