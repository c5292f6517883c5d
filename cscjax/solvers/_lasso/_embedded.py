"""The Lasso of a circular dictionary in graph form, which ADMM solves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from cscjax.dictionaries import CirculantEmbedding, Code, circulant_embedding
from cscjax.ops import expand_rank
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._regularizer import map_arrays
from cscjax.solvers._lasso._signals import per_signal


class ADMMPair(NamedTuple):
  """The pair P = (z, code) of ADMM, on the signals of a circular dictionary.

  Attributes:
    signal: The signal z.
    code: The code of the circular dictionary.
  """

  signal: jax.Array
  code: Code


class EmbeddedLasso(NamedTuple):
  """The problem that ADMM solves: the Lasso of a circular dictionary, in graph form.

  Attributes:
    problem: The problem on larger signals.
    weight: The weights of the squared errors: the mask of the problem, and 0 around the given signal.
    code_mask: Weights of one channel: 1 on the given code and 0 around it.
    ridge: The weight of the identity in the linear system, a scalar; its inverse is the weight of z in
      the metric. One near rho needs the fewest iterations. The mean squared norm of the atoms is near
      it, and does not depend on the signal.
    invert: The inverse of the linear system, see `circulant_embedding`.
  """

  problem: Lasso
  weight: jax.Array
  code_mask: Code
  ridge: jax.Array
  invert: Partial

  def synthesis(self, code: Code) -> jax.Array:
    """Returns D code."""
    return self.problem.dictionary.synthesis(code, self.problem.x.shape)

  def prox(self, point: ADMMPair, rho: jax.Array) -> ADMMPair:
    """Returns the proximal operator of the data term in z and the penalty in the code."""
    x, weight = self.problem.x, self.weight
    weight_of_point = per_signal(rho / self.ridge, x)
    signal = (weight * x + weight_of_point * point.signal) / (weight + weight_of_point)
    # The mask comes first: the norm of a group must not count what is around the code.
    code = self.problem.prox(jax.tree.map(jnp.multiply, self.code_mask, point.code), 1 / rho)
    return ADMMPair(signal, code)


def embedding_of(problem: Lasso) -> CirculantEmbedding:
  """Returns the embedding of the dictionary in a circular one."""
  return circulant_embedding(problem.dictionary, problem.x.shape[problem.batch_ndim :])


def embed(embedding: CirculantEmbedding, problem: Lasso) -> EmbeddedLasso:
  """Returns the problem that ADMM solves, with all that does not change between iterations."""
  ridge = jnp.asarray(embedding.squared_norm, problem.x.dtype)
  ridge = jnp.where(ridge > 0, ridge, 1)
  shape = problem.x.shape[problem.batch_ndim :]
  if problem.mask is None:
    weight = jnp.ones(shape, problem.x.dtype)
  else:
    weight = jnp.broadcast_to(problem.mask, problem.x.shape)
  weight = expand_rank(embedding.embed_signal(weight), problem.x.ndim)
  regularizer, code_mask = _embedded_regularizer(embedding, problem)
  embedded = problem.replace(
    dictionary=embedding.dictionary,
    x=embedding.embed_signal(problem.x),
    mask=None,
    regularizer=regularizer,
  )
  return EmbeddedLasso(embedded, weight, code_mask, ridge, embedding.ridge_inverse(ridge))


def _embedded_regularizer(embedding: CirculantEmbedding, problem: Lasso) -> tuple[Any, Code]:
  """Returns the regularizer of the embedded code, and a mask: 1 on the code and 0 around it.

  The mask has one channel. Arrays that do not depend on the position remain as they are.
  """
  signal = jax.ShapeDtypeStruct(problem.x.shape[problem.batch_ndim :], problem.x.dtype)
  single = jax.eval_shape(problem.dictionary.analysis, signal)
  ones = jax.tree.map(
    lambda c: jnp.ones((1,) * problem.batch_ndim + c.shape[:-1] + (1,), c.dtype), single
  )

  def embed(arrays: Code) -> Code:
    sizes = [a.shape[problem.batch_ndim : -1] for a in jax.tree.leaves(arrays)]
    if all(n == 1 for spatial in sizes for n in spatial):
      return arrays
    return embedding.embed_code(
      jax.tree.map(
        lambda a, one: jnp.broadcast_to(a, jnp.broadcast_shapes(a.shape, one.shape)), arrays, ones
      )
    )

  return map_arrays(embed, problem.regularizer, ones), embedding.embed_code(ones)
