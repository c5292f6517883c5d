"""What a network keeps of its forward pass, and what it computes again in the backward one."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

REMAT = ("none", "elementwise", "all")

# Results worth their memory; the rest are thresholds, scalings and sums of arrays.
_KEPT = ("csc_conv", "csc_conv_input_transpose", "reduce_sum", "dot_general")


def rematerialized(body: Callable[..., Any], remat: str, *, scanned: bool = False) -> Callable[..., Any]:
  """A part of a network, (module, inputs...) -> outputs, that keeps less for its gradient.

  Args:
    body: The part, as `nn.remat` and `nn.scan` take it.
    remat: "none": all is kept that the gradient needs. "elementwise": results of convolutions and the
      batch's statistics are kept, the cheap rest is computed again. "all": nothing but the inputs is
      kept, and the backward pass does the forward one again.
    scanned: Whether the part is the body of a loop, where XLA cannot undo this by itself. Elsewhere it
      is told not to; its CPU backend does so all the same (jax 0.10).
  """
  if remat == "none":
    return body
  policy = None if remat == "all" else lambda primitive, *_, **__: primitive.name in _KEPT
  return nn.remat(body, prevent_cse=not scanned, policy=policy)
