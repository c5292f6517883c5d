"""Pursuits that networks unfold: each iteration is written out and has its own proximal operator.

`unfolded_pursuit` is a layer of MSD-CSC and `initialized_thresholding` a layer of Res-CSC.
`layered_pursuit` and `multilayer_pursuit` encode several layers: x = D_1 code_1, code_1 = D_2 code_2,
..., where each code is sparse.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, check_one_per_dictionary, join, split
from cscjax.solvers._steps import Prox, extrapolate, momentum_weights, proximal_gradient_step


def unfolded_pursuit(
  dictionary: Dictionary,
  x: jax.Array,
  proxes: Sequence[Prox],
  *,
  step: ArrayLike,
  solver: str = "ista",
) -> Code:
  """Unfolds (also called unrolls) layered thresholding and len(proxes) - 1 iterations of ISTA or FISTA.

      code <- prox_0(D^T x)
      code <- prox_k(y - step D^T (D y - x)),   k = 1, 2, ...

  For ISTA, y is the code; for FISTA, it is the extrapolated code. FISTA counts the thresholding as its
  first iteration (t = 1), so that the two solvers agree up to the first unfolded iteration. The
  iterations are written out, not scanned, so that each proximal operator may be a module with its own
  parameters and batch statistics.

  Args:
    dictionary: The dictionary D.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    proxes: Proximal operators, one for the thresholding and one for each further iteration: functions
      from code to code, such as a soft threshold or a batch norm with a ReLU.
    step: Step size, positive. 1/L is the usual value, where L is the largest eigenvalue of D^T D. The
      thresholding does not use it: there the step is part of the filters (eq. 5 of Zhang & Zhang 2020).
    solver: `"ista"` or `"fista"`.

  Returns:
    The code, in the structure that the last proximal operator returns.

  Raises:
    ValueError: If `proxes` is empty, `solver` is unknown, `step` is not positive, or shapes do not fit.

  References:
    Zhang, Z. & Zhang, S. (2020). Towards understanding residual and dilated dense neural networks via
    convolutional sparse coding. National Science Review 8(3).

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.eye(2))
    >>> prox = lambda code: cscjax.soft_threshold(code, 0.125)
    >>> x = jnp.array([1.0, 0.1])
    >>> code = cscjax.unfolded_pursuit(dictionary, x, [prox] * 3, step=1.0, solver="fista")
    >>> code.tolist()
    [0.875, 0.0]
  """
  if not proxes:
    checks.fail("proxes", proxes, "at least one proximal operator")
  weights = momentum_weights(solver, len(proxes) - 1)
  if weights:
    checks.all_at_least("step", step, 0, open_bound=True)
  code = proxes[0](dictionary.analysis(x))
  previous = code
  for prox, weight in zip(proxes[1:], weights, strict=True):
    point = extrapolate(code, previous, weight) if weight > 0 else code
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
  """Takes a proximal gradient step from the code `init`, some of whose terms can be left out.

      prox(init + N(D^T (x + c D init)))

  The filters of the network are those of a dictionary divided by its L, so that D^T D has the largest
  eigenvalue 1/L. With c = -L and the identity as N, the result is then one iteration of ISTA from `init`
  (eq. 4 and 5 of Zhang & Zhang 2020). Because D^T is linear, the correction term c D^T D init costs one
  synthesis and no second analysis.

  Args:
    dictionary: The dictionary D.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    init: The code from which the step starts, of the shape of `dictionary.analysis(x)`.
    prox: The proximal operator: a function from code to code.
    c: Weight of the correction term, a scalar; -L in theory. If None, the term is left out (a ResNet).
    keep: Whether `init` is added to the update. Without it, the layer is a simplified Res-CSC layer if
      `c` is given, and a plain convolutional layer if not.
    transform: N, a function of the update before `init` is added, such as a batch norm.

  Returns:
    The new code, of the shape of `init`.

  References:
    Zhang, Z. & Zhang, S. (2020). Towards understanding residual and dilated dense neural networks via
    convolutional sparse coding. National Science Review 8(3).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(0.5 * jnp.eye(2))  # D / L of D = 2 I, L = 4
    >>> x, init = jnp.array([1.0, -1.0]), jnp.array([0.25, 0.25])
    >>> cscjax.solvers.initialized_thresholding(dictionary, x, init, jax.nn.relu, c=-4.0).tolist()
    [0.5, 0.0]
  """
  point = x if c is None else x + c * dictionary.synthesis(init, x.shape)
  update = transform(dictionary.analysis(point))
  return prox(init + update if keep else update)


class Chain(NamedTuple):
  """The points and signals of all layers that the deepest code implies.

  Attributes:
    points: The code of each layer; all but the deepest one are reconstructions by the layer above.
    signals: The signal of each layer, `signals[i]` = D_i `points[i]`.
  """

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
  """Unfolds ML-ISTA or ML-FISTA: layered thresholding, then iterations over all layers.

      code_i <- prox_i0(D_i^T code_{i-1}),   code_0 = x                          (thresholding)
      p_K = code_K,   p_{i-1} = D_i p_i                                          (from the top down)
      code_i <- prox_ik(p_i - step_i D_i^T (D_i p_i - code_{i-1}))               (from the bottom up)

  The last two lines are one iteration (Sulam et al. 2020); for ML-FISTA, p_K is the extrapolated deepest
  code. If a code has several parts, they are concatenated along the channels to be the signal of the
  next layer, and the reconstruction of that signal is split into the parts again. Each D_i p_i is
  computed once. With one layer, the result is that of `unfolded_pursuit`.

  Args:
    dictionaries: The dictionaries D_1, ..., D_K. The signals of D_1 are shaped like `x`, and the signals
      of each other dictionary are the codes of the previous one.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    proxes: For each layer, a sequence of proximal operators: one for the thresholding and one for each
      further iteration. All layers have equally many.
    steps: Step sizes, one per layer, positive. The thresholding does not use them: there the step is
      part of the filters (eq. 5 of Zhang & Zhang 2020).
    solver: `"ista"` or `"fista"`. FISTA counts the thresholding as its first iteration (t = 1), so that
      the two agree up to the first unfolded iteration.

  Returns:
    A list of the codes of all layers, the deepest one last.

  Raises:
    ValueError: If the numbers of dictionaries, `proxes` and `steps` differ, the layers have different
      numbers of proximal operators or none, `solver` is unknown, a step is not positive, or shapes do
      not fit.

  References:
    Sulam, J., Aberdam, A., Beck, A. & Elad, M. (2020). On multi-layer basis pursuit, efficient
    algorithms and convolutional neural networks. IEEE Transactions on Pattern Analysis and Machine
    Intelligence 42(8).

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionaries = [cscjax.MatrixDictionary(jnp.eye(2))] * 2
    >>> prox = lambda code: cscjax.soft_threshold(code, 0.125)
    >>> proxes = [[prox] * 2] * 2  # one unfolded iteration in each of the two layers
    >>> x = jnp.array([1.0, 0.1])
    >>> codes = cscjax.solvers.multilayer_pursuit(dictionaries, x, proxes, steps=[1.0, 1.0])
    >>> codes[0].tolist(), codes[1].tolist()
    ([0.875, 0.0], [0.75, 0.0])
  """
  check_one_per_dictionary(dictionaries, proxes=proxes, steps=steps)
  for layer in proxes:
    if not layer or len(layer) != len(proxes[0]):
      checks.fail("proxes", [len(p) for p in proxes], "equally many for each layer, at least one")
  weights = momentum_weights(solver, len(proxes[0]) - 1)
  if weights:
    checks.all_at_least("steps", steps, 0, open_bound=True)
  codes, signal = [], x
  for dictionary, layer in zip(dictionaries, proxes, strict=True):
    codes.append(layer[0](dictionary.analysis(signal)))
    signal = join(codes[-1])
  previous = codes[-1]
  for k, weight in enumerate(weights, 1):
    deepest = codes[-1]
    point = extrapolate(deepest, previous, weight) if weight > 0 else deepest
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
  """Unfolds layered basis pursuit: all iterations of a layer come before those of the next layer.

  Each layer is an `unfolded_pursuit`, whose code is the signal of the next layer:

      code_i <- prox_i0(D_i^T code_{i-1}),   code_0 = x
      code_i <- prox_ik(y_i - step_i D_i^T (D_i y_i - code_{i-1})),   k = 1, 2, ...

  For ISTA, y_i is code_i; for FISTA, it is the extrapolated code_i. If a code has several parts, they
  are concatenated along the channels to be the signal of the next layer.

  Args:
    dictionaries: The dictionaries D_1, ..., D_K. The signals of D_1 are shaped like `x`, and the signals
      of each other dictionary are the codes of the previous one.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    proxes: For each layer, a sequence of proximal operators: one for the thresholding and one for each
      further iteration. The layers may differ in their number of iterations.
    steps: Step sizes, one per layer, positive. The thresholding does not use them: there the step is
      part of the filters (eq. 5 of Zhang & Zhang 2020).
    solver: `"ista"` or `"fista"`. FISTA counts the thresholding as its first iteration (t = 1), so that
      the two agree up to the first unfolded iteration.

  Returns:
    A list of the codes of all layers, the deepest one last.

  Raises:
    ValueError: If the numbers of dictionaries, `proxes` and `steps` differ, a layer has no proximal
      operator, `solver` is unknown, a step is not positive, or shapes do not fit.

  References:
    Papyan, V., Romano, Y. & Elad, M. (2017). Convolutional neural networks analyzed via convolutional
    sparse coding. Journal of Machine Learning Research 18(83).

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionaries = [cscjax.MatrixDictionary(jnp.eye(2))] * 2
    >>> prox = lambda code: cscjax.soft_threshold(code, 0.125)
    >>> proxes = [[prox] * 2, [prox]]  # one unfolded iteration, in the first layer
    >>> x = jnp.array([1.0, 0.1])
    >>> codes = cscjax.solvers.layered_pursuit(dictionaries, x, proxes, steps=[1.0, 1.0])
    >>> codes[0].tolist(), codes[1].tolist()
    ([0.875, 0.0], [0.75, 0.0])
  """
  check_one_per_dictionary(dictionaries, proxes=proxes, steps=steps)
  codes = []
  for dictionary, layer, step in zip(dictionaries, proxes, steps, strict=True):
    codes.append(unfolded_pursuit(dictionary, x, layer, step=step, solver=solver))
    x = join(codes[-1])
  return codes


def top_down(
  dictionaries: Sequence[Dictionary], deepest: Code, codes: Sequence[Code], x: jax.Array
) -> Chain:
  """Returns the chain of a deepest code; `codes` give the parts and shapes of the layers below it."""
  points, signals = [deepest], []
  for dictionary, below in zip(reversed(dictionaries), [*reversed(codes[:-1]), x], strict=True):
    shape = jax.eval_shape(join, below).shape
    signals.insert(0, dictionary.synthesis(points[0], shape))
    points.insert(0, split(signals[0], below))
  return Chain(points[1:], signals)


def bottom_up(
  dictionaries: Sequence[Dictionary],
  x: jax.Array,
  chain: Chain,
  steps: Sequence[ArrayLike],
  proxes: Sequence[Prox],
) -> list[Code]:
  """Takes one proximal gradient step in each layer; its signal is the new code of the layer below."""
  codes, below = [], x
  layers = zip(dictionaries, chain.points, chain.signals, steps, proxes, strict=True)
  for dictionary, point, signal, step, prox in layers:
    codes.append(proximal_gradient_step(dictionary, point, signal - below, step, prox))
    below = join(codes[-1])
  return codes
