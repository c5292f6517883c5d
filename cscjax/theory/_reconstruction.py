"""What a code loses of its signal (Definition 1, Theorem 1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, MatrixDictionary, as_signal
from cscjax.ops import highest_precision


class LassoProblem(NamedTuple):
  """A Lasso problem min 1/2 ||x - D code||^2 + beta ||code||_1.

  Attributes:
    dictionary: D.
    x: One signal.
    beta: The penalty.
  """

  dictionary: MatrixDictionary
  x: jax.Array
  beta: float


@highest_precision
def failed_dimensions(dictionary: Dictionary, code: Code, x: ArrayLike, beta: ArrayLike) -> jax.Array:
  """Dimensions of the signal that are not reconstructed: |(D code)_j - x_j| > 2 beta (Definition 1).

  A dimension whose reconstruction is NaN is not reconstructed either.

  Theorem 1, that MSD-CSC has none, holds for a solution of the Lasso over D = [I, F^T] with signed
  codes, and with beta for 2 beta: the identity's atoms are unit vectors e_j, for which the optimality
  condition is |x_j - (D code)_j| = |e_j^T (x - D code)| <= beta. It does not hold

  - for non-negative codes, whose condition is x_j - (D code)_j <= beta only. Where F^T z has to be too
    large in one dimension to be right in others, that dimension can fail;
  - before the solver has converged: the code 0 of a signal fails wherever |x_j| > 2 beta;
  - over a dictionary without the identity: see `ill_conditioned_example`.

  Args:
    dictionary: D.
    code: Codes, batch axes first.
    x: Signals, batch axes first.
    beta: The penalty, >= 0: a scalar, or what broadcasts against `x`.

  Returns:
    Booleans shaped like `x`; sum them over a signal's axes to count.

  Raises:
    ValueError: If shapes do not fit or beta is negative.
  """
  beta = checks.real_array("beta", beta)
  checks.all_at_least("beta", beta, 0)
  x = as_signal(dictionary, x)
  jax.eval_shape(dictionary.analysis, x)  # raises where the shapes do not fit
  checks.broadcast_shape("beta", beta.shape, x.shape)
  return ~(jnp.abs(dictionary.residual(code, x)) <= 2 * beta)


def ill_conditioned_example() -> LassoProblem:
  """The paper's example of a penalty that loses everything: its code is 0, and both dimensions fail."""
  atoms = jnp.array([[0.1, 0.1, 0.2], [0.1, 0.2, 0.1]])
  return LassoProblem(MatrixDictionary(atoms), jnp.ones(2), 1 / 3)
