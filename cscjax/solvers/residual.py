"""One iteration from a given code instead of 0: the layers of Res-CSC and what it contains."""

from collections.abc import Callable

import jax
from jax.typing import ArrayLike

from cscjax.dictionaries import Dictionary
from cscjax.solvers.steps import Prox


def initialized_thresholding(
  dictionary: Dictionary,
  x: jax.Array,
  init: jax.Array,
  prox: Prox,
  *,
  c: ArrayLike | None = None,
  keep: bool = True,
  transform: Callable[[jax.Array], jax.Array] = lambda z: z,
) -> jax.Array:
  """A proximal-gradient step from the code `init` (eq. 5), in which terms can be left out.

      prox(init + N(D^T (x + c D init)))

  For D scaled by 1/L (the network's filters, D^T D then has the largest eigenvalue 1/L), c = -L and N
  the identity it is one iteration of ISTA from `init` (eq. 4). As D^T is linear, the correction
  c D^T D init costs one synthesis and no further analysis.

  Args:
    dictionary: D.
    x: The signal.
    init: The code to start from.
    prox: The threshold.
    c: A scalar, -L in theory; None leaves the correction out (ResNet).
    keep: Whether `init` itself is added; else with c the simplified Res-CSC, without c a plain layer.
    transform: N, the batch norm of a network; acts before `init` is added.

  Returns:
    The code.
  """
  point = x if c is None else x + c * dictionary.synthesis(init, x.shape)
  update = transform(dictionary.analysis(point))
  return prox(init + update if keep else update)
