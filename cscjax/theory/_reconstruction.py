"""The dimensions of a signal that a code fails to reconstruct (Definition 1, Theorem 1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, MatrixDictionary, as_signal
from cscjax.ops import highest_precision
from cscjax.solvers import RelativePenalty, beta_max


class LassoProblem(NamedTuple):
  """The Lasso problem min_code 1/2 ||x - D code||^2 + beta ||code||_1.

  Attributes:
    dictionary: The dictionary D.
    x: One signal, of shape [n].
    beta: The penalty.
  """

  dictionary: MatrixDictionary
  x: jax.Array
  beta: float


@highest_precision
def failed_dimensions(dictionary: Dictionary, code: Code, x: ArrayLike, beta: ArrayLike) -> jax.Array:
  """Finds the dimensions of a signal that a code does not reconstruct (Definition 1).

  Reconstruction fails in dimension j if |(D code)_j - x_j| > 2 beta, or if the reconstruction is NaN.

  Theorem 1 states that no dimension fails in the MSD-CSC model. It holds for solutions of the Lasso over
  D = [I, F^T] with signed codes, and even with beta in place of 2 beta: the atoms of the identity are
  the unit vectors e_j, whose optimality condition is |x_j - (D code)_j| = |e_j^T (x - D code)| <= beta.
  The theorem does not hold

  - for nonnegative codes, because their optimality condition is only x_j - (D code)_j <= beta. Where
    F^T z must be too large in one dimension to be right in others, that dimension can fail;
  - before the solver has converged: for code = 0, every dimension with |x_j| > 2 beta fails;
  - for a dictionary without the identity; see `ill_conditioned_example`.

  Args:
    dictionary: The dictionary D.
    code: The codes, batch axes first.
    x: The signals, batch axes first.
    beta: The penalty, nonnegative: a scalar, or an array that broadcasts against `x`.
      `cscjax.relative(0.1)` is a tenth of `beta_max` for each signal.

  Returns:
    Booleans of the shape of `x`, True where the reconstruction fails. Sum over the axes of a signal to
    count the failures.

  Raises:
    ValueError: If `beta` is negative or not finite, or if the shapes do not match.

  References:
    Definition 1 and Theorem 1 of Zhang & Zhang, National Science Review 2020.

  Example:
    >>> import cscjax
    >>> D, x, beta = cscjax.theory.ill_conditioned_example()
    >>> code = cscjax.fista(D, x, beta, iterations=100).code
    >>> cscjax.failed_dimensions(D, code, x, beta).tolist()
    [True, True]
  """
  x = as_signal(dictionary, x)
  if isinstance(beta, RelativePenalty):
    beta = jnp.asarray(beta.fraction, x.dtype) * beta_max(dictionary, x)
  beta = checks.real_array("beta", beta)
  checks.all_at_least("beta", beta, 0)
  jax.eval_shape(dictionary.analysis, x)  # raises if the shapes do not match
  checks.broadcast_shape("beta", beta.shape, x.shape)
  return ~(jnp.abs(dictionary.residual(code, x)) <= 2 * beta)


def ill_conditioned_example() -> LassoProblem:
  """Returns the paper's example of a Lasso problem whose solution loses the whole signal.

  The solution is code = 0, because |D^T x| <= beta for every atom, and reconstruction fails in both
  dimensions of x.

  Returns:
    A `LassoProblem` with three atoms, D = [0.1 0.1 0.2; 0.1 0.2 0.1], x = (1, 1) and beta = 1/3.

  References:
    The example before Definition 1 of Zhang & Zhang, National Science Review 2020.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> D, x, beta = cscjax.theory.ill_conditioned_example()
    >>> bool(jnp.all(jnp.abs(D.analysis(x)) <= beta))
    True
  """
  atoms = jnp.array([[0.1, 0.1, 0.2], [0.1, 0.2, 0.1]])
  return LassoProblem(MatrixDictionary(atoms), jnp.ones(2), 1 / 3)
