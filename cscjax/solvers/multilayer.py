"""Unfolded pursuits over several layers: x = D_1 code_1, code_1 = D_2 code_2, ..., each code sparse."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, join
from cscjax.solvers.arguments import check_lengths
from cscjax.solvers.steps import Prox, extrapolate, momentum, proximal_gradient_step
from cscjax.solvers.unfolded import unfolded_pursuit


class Chain(NamedTuple):
  """All that the deepest code implies: `points[i]` for code_i, `signals[i]` = D_i points[i]."""

  points: list[Code]
  signals: list[jax.Array]


def multilayer_pursuit(
  dictionaries: Sequence[Dictionary],
  x: jax.Array,
  proxes: Sequence[Sequence[Prox]],
  *,
  steps: Sequence[ArrayLike],
  accelerate: bool = False,
) -> list[Code]:
  """Layered thresholding, then iterations of ML-ISTA or ML-FISTA (Sulam et al. 2020), written out.

      start           code_i <- prox_i0(D_i^T code_{i-1}),  code_0 = x
      each unfolding  p_K = code_K, for FISTA extrapolated;  p_{i-1} = D_i p_i from the top down
                      code_i <- prox_ik(p_i - step_i D_i^T (D_i p_i - code_{i-1})) from the bottom up

  A code of several parts is joined along the channels to be the signal of the layer above, and what
  that layer rebuilds is split into such parts. D_i p_i is made once. With one layer this is
  `unfolded_pursuit`.

  Args:
    dictionaries: D_1 ... D_K, the first for signals shaped like `x`.
    x: Signals, batch axes first.
    proxes: For each layer unfolding + 1 proximal operators, or what the network puts in their place.
    steps: One a layer; the first iteration takes none (it is part of the filters, eq. 5).
    accelerate: ML-FISTA: the deepest code is extrapolated, t_0 = 1 at the first iteration.

  Returns:
    The codes of all layers.

  Raises:
    ValueError: If the numbers of dictionaries, proxes and steps differ, or shapes do not fit.
  """
  check_lengths(dictionaries, proxes=proxes, steps=steps)
  for layer in proxes:
    if not layer or len(layer) != len(proxes[0]):
      checks.fail("proxes", [len(p) for p in proxes], "as many for each layer, at least one")
  if len(proxes[0]) > 1:
    checks.all_at_least("steps", steps, 0, open_bound=True)
  codes, signal = [], x
  for dictionary, layer in zip(dictionaries, proxes, strict=True):
    codes.append(layer[0](dictionary.analysis(signal)))
    signal = join(codes[-1])
  previous, t = codes[-1], 1.0
  for k in range(1, len(proxes[0])):
    t, weight = momentum(t)
    deepest = codes[-1]
    point = extrapolate(deepest, previous, weight) if accelerate and weight > 0 else deepest
    chain = top_down(dictionaries, point, codes, x)
    codes = bottom_up(dictionaries, x, chain, steps, [layer[k] for layer in proxes])
    previous = deepest
  return codes


def layered_pursuit(
  dictionaries: Sequence[Dictionary],
  x: jax.Array,
  proxes: Sequence[Sequence[Prox]],
  *,
  steps: Sequence[ArrayLike],
  accelerate: bool = False,
) -> list[Code]:
  """Layered basis pursuit, unfolded: each layer's `unfolded_pursuit` ends before the next one's begins.

  Arguments, result and errors are those of `multilayer_pursuit`, but that layers may differ in their
  number of iterations.
  """
  check_lengths(dictionaries, proxes=proxes, steps=steps)
  codes = []
  for dictionary, layer, step in zip(dictionaries, proxes, steps, strict=True):
    codes.append(unfolded_pursuit(dictionary, x, layer, step=step, accelerate=accelerate))
    x = join(codes[-1])
  return codes


def top_down(dictionaries, deepest, codes, x) -> Chain:
  """The chain of a deepest code; `codes` tell the parts and shapes of the layers below it."""
  points, signals = [deepest], []
  for dictionary, below in zip(reversed(dictionaries), [*reversed(codes[:-1]), x], strict=True):
    shape = jax.eval_shape(join, below).shape
    signals.insert(0, dictionary.synthesis(points[0], shape))
    points.insert(0, _split_like(signals[0], below))
  return Chain(points[1:], signals)


def bottom_up(dictionaries, x, chain, steps, proxes) -> list[Code]:
  """One proximal-gradient step a layer, each against the new code below."""
  codes, below = [], x
  layers = zip(dictionaries, chain.points, chain.signals, steps, proxes, strict=True)
  for dictionary, point, signal, step, prox in layers:
    codes.append(proximal_gradient_step(dictionary, point, signal - below, step, prox))
    below = join(codes[-1])
  return codes


def _split_like(signal: jax.Array, code: Code) -> Code:
  """The inverse of `join`: the signal's channels as the parts of a code."""
  parts, structure = jax.tree.flatten(code)
  ends = [sum(p.shape[-1] for p in parts[: i + 1]) for i in range(len(parts) - 1)]
  return jax.tree.unflatten(structure, jnp.split(signal, ends, axis=-1))
