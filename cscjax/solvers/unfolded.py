"""The few iterations that a network unfolds in one layer."""

from collections.abc import Sequence

import jax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary
from cscjax.solvers.steps import Prox, extrapolate, momentum, proximal_gradient_step


def unfolded_pursuit(
  dictionary: Dictionary,
  x: jax.Array,
  proxes: Sequence[Prox],
  *,
  step: ArrayLike,
  accelerate: bool = False,
) -> Code:
  """Layered thresholding followed by len(proxes) - 1 iterations of ISTA or FISTA.

      code <- prox_0(D^T x),   then for each further k   code <- prox_k(y - step D^T (D y - x))

  with y = code for ISTA and the extrapolated code for FISTA (t_0 = 1 at the first iteration, so that
  the two agree up to one unfolding). Written out, not scanned: each prox may hold its own batch
  statistics.

  Args:
    dictionary: D.
    x: The layer's signal.
    proxes: Unfolding + 1 proximal operators, or what the network puts in their place.
    step: 1/L, or any other > 0; the first iteration takes none (it is part of the filters, eq. 5).
    accelerate: FISTA instead of ISTA.

  Returns:
    The code.

  Raises:
    ValueError: If there is no proximal operator, the step is not positive, or shapes do not fit.
  """
  if not proxes:
    checks.fail("proxes", proxes, "at least one")
  if len(proxes) > 1:
    checks.all_at_least("step", step, 0, open_bound=True)
  code = proxes[0](dictionary.analysis(x))
  previous, t = code, 1.0
  for prox in proxes[1:]:
    t, weight = momentum(t)
    point = extrapolate(code, previous, weight) if accelerate and weight > 0 else code
    residual = dictionary.residual(point, x)
    previous, code = code, proximal_gradient_step(dictionary, point, residual, step, prox)
  return code
