"""Rematerialization: which intermediate results the backward pass of a network recomputes."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

REMAT = ("none", "elementwise", "all")
"""The choices of what the backward pass recomputes, see the field `remat` of `ResCSC` and `MSDCSC`."""

# Primitives whose results are kept. The others are cheap: thresholds, scalings and sums of arrays.
_KEPT = ("csc_conv", "csc_conv_input_transpose", "reduce_sum", "dot_general")


def rematerialized(body: Callable[..., Any], remat: str, *, scanned: bool = False) -> Callable[..., Any]:
  """Returns a function like `body` that keeps fewer intermediate results for its gradient.

  Args:
    body: A part of a network, (module, inputs...) -> outputs, as `nn.remat` and `nn.scan` take it.
    remat: "none" keeps everything that the gradient needs. "elementwise" keeps the results of
      convolutions and the statistics of the batch, and recomputes the elementwise operations. "all"
      keeps only the inputs, and the backward pass repeats the whole forward pass.
    scanned: Whether the part is the body of a loop, across which XLA cannot merge the recomputation with
      the forward pass. Outside of a loop an optimization barrier forbids the merging, but XLA's CPU
      backend ignores it (JAX 0.10).

  Returns:
    `body`, or `body` wrapped in `nn.remat`.
  """
  if remat == "none":
    return body
  policy = None if remat == "all" else lambda primitive, *_, **__: primitive.name in _KEPT
  return nn.remat(body, prevent_cse=not scanned, policy=policy)
