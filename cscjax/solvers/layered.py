"""Layered thresholding: the forward pass of a CNN as a pursuit."""

import math
from collections.abc import Sequence

import jax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, join
from cscjax.ops import highest_precision, nonnegative_soft_threshold, soft_threshold
from cscjax.solvers.arguments import as_signal, as_step, check_lengths, per_part


@highest_precision
def layered_thresholding(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[ArrayLike],
  *,
  steps: Sequence[ArrayLike] | None = None,
  nonnegative: bool = True,
) -> list[Code]:
  """One ISTA iteration from code 0 in each layer, the layer below as its signal (eq. 3).

      code_i = S_{beta_i step_i}(step_i D_i^T code_{i-1}),   code_0 = x

  With non-negative codes and steps 1 it is a plain network: filters D_i, biases -beta_i. Over
  `IdentityAugmented` dictionaries it is the MSDNet (Proposition 1); a code (a, z) is joined along the
  channels to be the next signal.

  Args:
    dictionaries: D_1 ... D_k, the first for signals shaped like `x`.
    x: Signals, batch axes first.
    betas: One a layer, >= 0 with the signed threshold (the bias of a ReLU is free); for a code of
      several parts a tuple, one for each part, or one for all.
    steps: One a layer, > 0; 1/L each by `lipschitz` if None (no gradient flows through it).
    nonnegative: Whether to use S^+ (ReLU) or the signed soft threshold.

  Returns:
    The codes of all layers.

  Raises:
    ValueError: If the numbers of dictionaries, betas and steps differ, a value is out of range, or
      shapes do not fit.
  """
  check_lengths(dictionaries, betas=betas, **({} if steps is None else {"steps": steps}))
  shrink = nonnegative_soft_threshold if checks.boolean("nonnegative", nonnegative) else soft_threshold
  codes = []
  for i, dictionary in enumerate(dictionaries):
    x = as_signal(dictionary, x)
    checks.all_at_least("betas", betas[i], -math.inf if nonnegative else 0)
    step = as_step("steps", None if steps is None else steps[i], dictionary, x)
    code = jax.tree.map(lambda c, step=step: step * c, dictionary.analysis(x))
    beta = per_part("betas", betas[i], code)
    code = jax.tree.map(lambda c, b, step=step: shrink(c, b * step), code, beta)
    codes.append(code)
    x = join(code)
  return codes
