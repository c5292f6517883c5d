"""The layers of the unfolded networks: they declare filters, thresholds and the step of a pursuit."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from cscjax import checks
from cscjax.dictionaries import Code, ConvDictionary, Dictionary, IdentityAugmented, lipschitz_bound
from cscjax.models._norms import shared_norms
from cscjax.models._spectral import STEPS, trained_step
from cscjax.ops import Padding, expand_rank
from cscjax.solvers import SOLVERS, Prox, layered_pursuit, multilayer_pursuit

PURSUITS = {"layer": layered_pursuit, "multilayer": multilayer_pursuit}


class LayerProblem(NamedTuple):
  """What a pursuit asks of a layer.

  Attributes:
    dictionary: In the compute type.
    proxes: For the first iteration and each unfolding.
    step: Of the unfoldings, a scalar; 0 where there are none.
  """

  dictionary: Dictionary
  proxes: list[Prox]
  step: jax.Array | float


class UnfoldedLayer(nn.Module):
  """A layer that codes its input by layered thresholding and `unfolding` further iterations.

      start           code = relu(N_0(D^T x))
      each unfolding  code <- relu(N_k(code - step D^T (D code - x)))

  N_k is batch norm whose bias is the negative threshold (eq. 2); all N_k share scale and bias, so that
  parameters do not grow with the unfolding, and keep their own running statistics. The step is
  2 sigmoid(k) / L with k trained from 0, and L >= lambda_max(D^T D) the upper bound `lipschitz_bound` of
  the present filters. No gradient flows through L.

  Without batch norm and with the solver "ista" each unfolding descends: it is an iteration of ISTA for
  1/2 ||x - D code||^2 + sum_j beta_j code_j, code >= 0, with beta = -bias / step, and the step is below
  2 / lambda_max(D^T D). Batch norm scales the code anew each time and FISTA extrapolates: after either
  the objective can grow. So it can for step="free", whose step has no bound.

  Attributes:
    width: New channels of the code.
    unfolding: Iterations after the first one, >= 0.
    solver: "ista" or "fista"; the same up to unfolding 1.
    step: "bounded" as above, or "free": the step itself is trained, from 1.
    norm: False replaces batch norm by a bias.
    dtype: Of the convolutions; parameters, statistics and L are float32.

  Raises:
    ValueError: When made, if a field is out of range.
  """

  width: int
  unfolding: int = 0
  solver: str = "ista"
  step: str = "bounded"
  norm: bool = True
  dtype: Any = jnp.float32

  def __post_init__(self):
    checks.positive_int("width", self.width)
    checks.int_at_least("unfolding", self.unfolding, 0)
    checks.one_of("solver", self.solver, SOLVERS)
    checks.one_of("step", self.step, STEPS)
    super().__post_init__()

  def __call__(self, x: jax.Array, *, train: bool = False) -> Code:
    """Returns the code of x [N, H, W, C] or [N, L, C].

    With `train` batch statistics are those of the batch, and "batch_stats" is updated.
    """
    return pursue([self], x, solver=self.solver, train=train)[0]

  def problem(self, shape: tuple[int, ...], *, train: bool = False) -> LayerProblem:
    """The layer's part in a pursuit, for an input of shape `shape`."""
    raise NotImplementedError

  def _filters(self, name, kernel, shape, initializer=None):
    """A parameter [kernel..., C, width]."""
    initializer = initializer or nn.initializers.he_normal()
    return self.param(name, initializer, (kernel,) * (len(shape) - 2) + (shape[-1], self.width))

  def _thresholds(self, train):
    """relu(N_k(z)) for each iteration."""
    norms = shared_norms(self, self.width, self.unfolding + 1, norm=self.norm, train=train)
    return [lambda z, norm=norm: nn.relu(norm(z)).astype(self.dtype) for norm in norms]

  def _step(self, dictionary, shape):
    if self.unfolding == 0:
      return 0.0
    bound = lipschitz_bound(dictionary, shape[1:])
    return trained_step(self, bound, kind=self.step).astype(self.dtype)


class MSDCSCLayer(UnfoldedLayer):
  """Codes its input over D = [I, F^T]; unfolding 0 is a layer of the MSDNet (Proposition 1).

      start           a = x,  z = relu(N_0(F x))
      each unfolding  r = a + F^T z - x,  z <- relu(N_k(z - step F r)),  a <- a - step r

  `a` is clipped at 0 but for its first `signed` channels. lambda_max(D^T D) = 1 + lambda_max(F F^T)
  (Lemma 2). The code is the pair (a [N, H, W, C], z [N, H, W, width]). Further fields and errors:
  `UnfoldedLayer`.

  Attributes:
    dilation: Of the 3-tap filters F.
    signed: Leading channels of the input that are no codes (the image's own).
    zeros: How many of these, the first ones, are zeros that fill up the input. They have no filters and
      stay zeros in `a`.
  """

  dilation: int = 1
  signed: int = 0
  zeros: int = 0

  @nn.compact
  def problem(self, shape: tuple[int, ...], *, train: bool = False) -> LayerProblem:
    """See `UnfoldedLayer.problem`."""
    shape = (*shape[:-1], shape[-1] - self.zeros)  # of what has filters
    filters = self._filters("filters", 3, shape)
    new_code = self._thresholds(train)

    def kept_code(a):
      is_code = jnp.arange(a.shape[-1]) >= self.signed
      return jnp.where(expand_rank(is_code, a.ndim), nn.relu(a), a)

    def first(code):
      return code[0], new_code[0](code[1])  # x is clipped already

    def later(threshold):
      return lambda code: (kept_code(code[0]), threshold(code[1]))

    conv = ConvDictionary(filters, dilation=self.dilation)
    step = self._step(IdentityAugmented(conv), shape)
    proxes = [first, *map(later, new_code[1:])]
    padding = [(0, 0, 0)] * (filters.ndim - 2) + [(self.zeros, 0, 0), (0, 0, 0)]
    padded = lax.pad(filters, jnp.zeros((), filters.dtype), padding)
    dictionary = IdentityAugmented(conv.replace(filters=padded))
    return LayerProblem(_cast(dictionary, self.dtype), proxes, step)


class CSCLayer(UnfoldedLayer):
  """Codes its input over a convolutional dictionary; unfolding 0 is a convolution, norm and ReLU.

  The code is [N, H', W', width]. Further fields and errors: `UnfoldedLayer`.

  Attributes:
    kernel: Taps of the filters along each axis.
    stride: Of the filters.
    padding: See `cscjax.ops.Padding`.
    untied: Whether the unfoldings' analysis has filters of its own, see `UntiedDictionary`.
  """

  kernel: int = 3
  stride: int = 1
  padding: Padding = "SAME"
  untied: bool = False

  @nn.compact
  def problem(self, shape: tuple[int, ...], *, train: bool = False) -> LayerProblem:
    """See `UnfoldedLayer.problem`."""
    filters = self._filters("filters", self.kernel, shape)
    conv = ConvDictionary(filters, stride=self.stride, padding=self.padding)
    step = self._step(conv, shape)
    dictionary = _cast(conv, self.dtype)
    if self.untied and self.unfolding:
      encoder = self._filters("filters_analysis", self.kernel, shape, lambda *_: filters)
      dictionary = UntiedDictionary(dictionary, _cast(conv.replace(filters=encoder), self.dtype))
    return LayerProblem(dictionary, self._thresholds(train), step)


class UntiedDictionary(struct.PyTreeNode):
  """A dictionary whose analysis is learned apart from its synthesis: no adjoint pair.

  Iterations over it are LISTA's with coupled weights, code <- S(code - step B^T (D code - x)) (Chen et
  al. 2018, after Gregor & LeCun 2010).

  Attributes:
    decoder: D.
    encoder: B.
  """

  decoder: ConvDictionary
  encoder: ConvDictionary

  @property
  def signal_ndim(self) -> int:
    """That of D."""
    return self.decoder.signal_ndim

  def analysis(self, x: jax.Array) -> jax.Array:
    """B^T x."""
    return self.encoder.analysis(x)

  def synthesis(self, code: jax.Array, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """D code."""
    return self.decoder.synthesis(code, signal_shape)

  def residual(self, code: jax.Array, x: jax.Array) -> jax.Array:
    """D code - x."""
    return self.decoder.residual(code, x)


def check_input(x: jax.Array, *, least: int = 1) -> None:
  """ValueError unless `x` is a batch of images or signals of at least this size along each axis."""
  checks.all_real("x", x)
  if x.ndim not in (3, 4) or min(x.shape[1:-1]) < least or x.shape[-1] < 1:
    checks.fail("x", x.shape, f"[N, H, W, C] or [N, L, C] of at least {least} along an axis")


def pursue(
  layers: Sequence[UnfoldedLayer],
  x: jax.Array,
  *,
  pursuit: str = "layer",
  solver: str = "ista",
  train: bool = False,
) -> list[Code]:
  """Codes `x` over layers on top of each other.

  Args:
    layers: Bound modules, of equal `unfolding` and `dtype`.
    x: The first layer's input.
    pursuit: "layer": each layer's iterations end before the next one's begin; "multilayer": they go
      through all layers, see `multilayer_pursuit`.
    solver: "ista" or "fista".
    train: See `UnfoldedLayer`.

  Returns:
    Each layer's code.
  """
  problems, signal = [], jax.ShapeDtypeStruct(x.shape, layers[0].dtype)
  for layer in layers:
    problems.append(layer.problem(signal.shape, train=train))
    parts = jax.tree.leaves(jax.eval_shape(problems[-1].dictionary.analysis, signal))
    channels = sum(part.shape[-1] for part in parts)
    signal = jax.ShapeDtypeStruct((*parts[0].shape[:-1], channels), layer.dtype)
  dictionaries, proxes, steps = zip(*problems, strict=True)
  return PURSUITS[pursuit](dictionaries, x.astype(layers[0].dtype), proxes, steps=steps, solver=solver)


def _cast(dictionary, dtype):
  return jax.tree.map(lambda leaf: leaf.astype(dtype), dictionary)
