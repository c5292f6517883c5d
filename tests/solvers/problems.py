"""Problems that the tests of the solvers share: a dictionary, its dense matrix and a signal."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import cscjax
from tests import references


class Problem(NamedTuple):
  dictionary: cscjax.Dictionary
  d: np.ndarray  # D as a dense matrix
  x: np.ndarray  # one signal

  @property
  def step(self):
    return 1 / references.lipschitz(self.d)


def dense(seed, n=8, m=12):
  rng = np.random.default_rng(seed)
  atoms = rng.normal(size=(n, m)) / np.sqrt(n)
  return Problem(cscjax.MatrixDictionary(jnp.asarray(atoms)), atoms, rng.normal(size=n))


def convolutional(seed=0, kernel=(3, 2), spatial=(5, 4), channels=2, m=3, **geometry):
  rng = np.random.default_rng(seed)
  filters = rng.normal(size=(*kernel, channels, m)) / np.sqrt(np.prod(kernel) * channels)
  d = references.conv_matrix(filters, spatial, **geometry)
  dictionary = cscjax.ConvDictionary(jnp.asarray(filters), **geometry)
  return Problem(dictionary, d, rng.normal(size=(*spatial, channels)))


def augmented(seed=0, **geometry):
  conv = convolutional(seed, kernel=(3, 3), **geometry)
  d = np.hstack([np.eye(conv.x.size), conv.d])
  return Problem(cscjax.IdentityAugmented(conv.dictionary), d, conv.x)


PROBLEMS = {
  "dense": lambda: dense(0),
  "circular": lambda: convolutional(padding="CIRCULAR", dilation=2),
  "same_strided": lambda: convolutional(padding="SAME", stride=2),
  "valid_1d": lambda: convolutional(kernel=(3,), spatial=(8,), padding="VALID"),
  "augmented": lambda: augmented(padding="SAME"),
}


def as_function(solver):
  """Returns the method `run` of a solver as a function like `cscjax.fista`."""

  def solve(dictionary, x, beta, *, nonnegative=False, mask=None, ridge=None, **options):
    problem = cscjax.Lasso(dictionary, x, beta, nonnegative=nonnegative, mask=mask, ridge=ridge)
    return solver.run(problem, **options)

  return solve


working_set = as_function(cscjax.solvers.WorkingSet())


def accepted_by(solve, problem):
  """Returns a problem as a solver accepts it: `WorkingSet` gets the dense matrix of a convolution."""
  if solve is not working_set:
    return problem
  return Problem(cscjax.MatrixDictionary(jnp.asarray(problem.d)), problem.d, problem.x.ravel())


def period_of(solve):
  """Returns the number of iterations between two tests of a tolerance."""
  return 1 if solve is working_set else cscjax.solvers.TEST_PERIOD


def flat(code):
  """Flattens a code to one vector; several parts are concatenated."""
  return np.concatenate([np.ravel(part) for part in jax.tree.leaves(code)])


def flat_batch(code):
  return np.stack([flat(jax.tree.map(lambda p, i=i: p[i], code)) for i in range(_length(code))])


def _length(code):
  return jax.tree.leaves(code)[0].shape[0]
