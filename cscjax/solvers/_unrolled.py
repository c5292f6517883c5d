"""What networks unroll: iterations written out, with a proximal operator of its own for each.

`unfolded_pursuit` is a layer of MSD-CSC, `initialized_thresholding` one of Res-CSC. `layered_pursuit`
and `multilayer_pursuit` go over several layers: x = D_1 code_1, code_1 = D_2 code_2, ..., with each code
sparse.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, check_one_per_dictionary, join, split
from cscjax.solvers._steps import SOLVERS, Prox, extrapolate, momentum, proximal_gradient_step


def unfolded_pursuit(
  dictionary: Dictionary,
  x: jax.Array,
  proxes: Sequence[Prox],
  *,
  step: ArrayLike,
  solver: str = "ista",
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
    solver: "ista" or "fista"; the same up to one unfolding.

  Returns:
    The code.

  Raises:
    ValueError: If there is no proximal operator, the solver is another, the step is not positive, or
      shapes do not fit.
  """
  checks.one_of("solver", solver, SOLVERS)
  if not proxes:
    checks.fail("proxes", proxes, "at least one")
  if len(proxes) > 1:
    checks.all_at_least("step", step, 0, open_bound=True)
  code = proxes[0](dictionary.analysis(x))
  previous, t = code, 1.0
  for prox in proxes[1:]:
    t, weight = momentum(t)
    point = extrapolate(code, previous, weight) if solver == "fista" and weight > 0 else code
    residual = dictionary.residual(point, x)
    previous, code = code, proximal_gradient_step(dictionary, point, residual, step, prox)
  return code


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
  solver: str = "ista",
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
    solver: "ista" or "fista"; the latter extrapolates the deepest code, t_0 = 1 at the first iteration.

  Returns:
    The codes of all layers.

  Raises:
    ValueError: If the numbers of dictionaries, proxes and steps differ, the solver is another, or shapes
      do not fit.
  """
  checks.one_of("solver", solver, SOLVERS)
  check_one_per_dictionary(dictionaries, proxes=proxes, steps=steps)
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
    point = extrapolate(deepest, previous, weight) if solver == "fista" and weight > 0 else deepest
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
  solver: str = "ista",
) -> list[Code]:
  """Layered basis pursuit, unfolded: each layer's `unfolded_pursuit` ends before the next one's begins.

  Arguments, result and errors are those of `multilayer_pursuit`, but that layers may differ in their
  number of iterations.
  """
  check_one_per_dictionary(dictionaries, proxes=proxes, steps=steps)
  codes = []
  for dictionary, layer, step in zip(dictionaries, proxes, steps, strict=True):
    codes.append(unfolded_pursuit(dictionary, x, layer, step=step, solver=solver))
    x = join(codes[-1])
  return codes


def top_down(dictionaries, deepest, codes, x) -> Chain:
  """The chain of a deepest code; `codes` tell the parts and shapes of the layers below it."""
  points, signals = [deepest], []
  for dictionary, below in zip(reversed(dictionaries), [*reversed(codes[:-1]), x], strict=True):
    shape = jax.eval_shape(join, below).shape
    signals.insert(0, dictionary.synthesis(points[0], shape))
    points.insert(0, split(signals[0], below))
  return Chain(points[1:], signals)


def bottom_up(dictionaries, x, chain, steps, proxes) -> list[Code]:
  """One proximal-gradient step a layer, each against the new code below."""
  codes, below = [], x
  layers = zip(dictionaries, chain.points, chain.signals, steps, proxes, strict=True)
  for dictionary, point, signal, step, prox in layers:
    codes.append(proximal_gradient_step(dictionary, point, signal - below, step, prox))
    below = join(codes[-1])
  return codes
