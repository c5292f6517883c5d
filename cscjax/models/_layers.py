"""The layers of the unfolded networks, which declare the filters, thresholds and step of a pursuit."""

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
"""The functions that code over several layers, by their names in the field `pursuit` of a network."""


class LayerProblem(NamedTuple):
  """A layer's part in a pursuit.

  Attributes:
    dictionary: The dictionary, in the type of the convolutions.
    proxes: One threshold function for each iteration.
    step: Step of the iterations after the first one, a scalar; 0 if there are none.
  """

  dictionary: Dictionary
  proxes: list[Prox]
  step: jax.Array | float


class UnfoldedLayer(nn.Module):
  """A layer that codes its input by layered thresholding and `unfolding` further iterations.

      first iteration         code = relu(N_0(D^T x))
      each further iteration  code <- relu(N_k(code - step D^T (D code - x)))

  N_k is a batch norm whose bias is the negative threshold (eq. 2). All N_k share scale and bias, so that
  the number of parameters does not grow with the unfolding (also called unrolling), and each keeps its
  own running statistics. The step is 2 sigmoid(k) / L, where k is trained from 0 and L is the upper
  bound `lipschitz_bound` of lambda_max(D^T D) for the current filters. No gradient flows through L.

  Without batch norm, and with the solver "ista", no iteration increases the objective: each one is an
  iteration of ISTA for 1/2 ||x - D code||^2 + sum_j beta_j code_j over code >= 0, with
  beta = -bias / step, and the step is below 2 / lambda_max(D^T D). The objective can grow with batch
  norm, which rescales the code in each iteration, with FISTA, which extrapolates, and with step="free",
  because that step has no bound.

  Attributes:
    width: Number of channels of the new code, >= 1.
    unfolding: Number of iterations after the first one, >= 0. The default is 0.
    solver: "ista" or "fista". The two differ from `unfolding` 2 on. The default is "ista".
    step: How the step is trained: "bounded" as above, or "free", the step itself, from 1. The default is
      "bounded".
    norm: Whether to use batch norm. False replaces it by a bias. The default is True.
    dtype: Type of the convolutions, float32 (the default) or bfloat16. The parameters, the running
      statistics and L are float32.

  Raises:
    ValueError: If a field is out of range.
  """

  width: int
  unfolding: int = 0
  solver: str = "ista"
  step: str = "bounded"
  norm: bool = True
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    checks.positive_int("width", self.width)
    checks.int_at_least("unfolding", self.unfolding, 0)
    checks.one_of("solver", self.solver, SOLVERS)
    checks.one_of("step", self.step, STEPS)
    super().__post_init__()

  def __call__(self, x: jax.Array, *, train: bool = False) -> Code:
    """Codes a batch.

    Args:
      x: Images [N, H, W, C] or signals [N, L, C].
      train: Whether batch norm uses the statistics of the batch and updates the running ones (pass
        `mutable=["batch_stats"]` to `apply`).

    Returns:
      The code.
    """
    return pursue([self], x, solver=self.solver, train=train)[0]

  def problem(self, shape: tuple[int, ...], *, train: bool = False) -> LayerProblem:
    """Returns the layer's part in a pursuit: its dictionary, its thresholds and its step.

    Args:
      shape: Shape of the layer's input, with the batch.
      train: Whether batch norm uses the statistics of the batch and updates the running ones.

    Returns:
      A tuple (dictionary, proxes, step) of the dictionary, one threshold function for each iteration and
      the step of the iterations after the first one (0 if there are none).
    """
    raise NotImplementedError

  def _filters(
    self, name: str, kernel: int, shape: tuple[int, ...], initializer: Any = None
  ) -> jax.Array:
    """Returns a parameter [kernel..., C, width] for an input of this shape."""
    initializer = initializer or nn.initializers.he_normal()
    return self.param(name, initializer, (kernel,) * (len(shape) - 2) + (shape[-1], self.width))

  def _thresholds(self, train: bool) -> list[Prox]:
    """Returns z -> relu(N_k(z)) for each iteration k."""
    norms = shared_norms(self, self.width, self.unfolding + 1, norm=self.norm, train=train)
    return [lambda z, norm=norm: nn.relu(norm(z)).astype(self.dtype) for norm in norms]

  def _step(
    self, dictionary: ConvDictionary | IdentityAugmented, shape: tuple[int, ...]
  ) -> jax.Array | float:
    """Returns the trained step, 0 if there is no iteration that needs it."""
    if self.unfolding == 0:
      return 0.0
    bound = lipschitz_bound(dictionary, shape[1:])
    return trained_step(self, bound, kind=self.step).astype(self.dtype)


class MSDCSCLayer(UnfoldedLayer):
  """A layer that codes its input over D = [I, F^T]; with `unfolding` 0 an MSDNet layer (Prop. 1).

  The code is the pair (a, z) of shapes [N, H, W, C] and [N, H, W, width]. It is computed by

      first iteration         a = x,  z = relu(N_0(F x))
      each further iteration  r = a + F^T z - x,  z <- relu(N_k(z - step F r)),  a <- a - step r

  with all channels of `a` but the first `signed` clipped at 0. N_k is a batch norm whose bias is the
  negative threshold (eq. 2). All N_k share scale and bias, and each keeps its own running statistics.
  The step is relative to L, an upper bound of lambda_max(D^T D) = 1 + lambda_max(F F^T) (Lemma 2) that
  is computed from the current filters. No gradient flows through L.

  These fields come before the ones below, in this order:

  - `width`: Number of channels of the new code z, >= 1.
  - `unfolding`: Number of iterations after the first one, >= 0. The default is 0.
  - `solver`: "ista" (the default) or "fista". The two differ from `unfolding` 2 on.
  - `step`: How the step size is trained. "bounded" (the default) is 2 sigmoid(k) / L with k trained from
    0; "free" trains the step itself, from 1.
  - `norm`: Whether to use batch norm. False replaces it by a bias. The default is True.
  - `dtype`: Type of the convolutions, float32 (the default) or bfloat16. The parameters, the running
    statistics and L are float32.

  Attributes:
    dilation: Dilation of the filters F, which have 3 taps along each axis, >= 1. The default is 1.
    signed: Number of leading channels of the input that may be negative (the image itself), >= 0. The
      others must be nonnegative codes. The default is 0.
    zeros: Number of leading channels, among the signed ones, that are zero and only pad the input to a
      convenient number of channels, >= 0. They have no filters and stay zero in `a`. The default is 0.

  Raises:
    ValueError: If `width`, `unfolding`, `solver` or `step` is out of range.

  Example:
    >>> import jax
    >>> from cscjax.models import MSDCSCLayer
    >>> layer = MSDCSCLayer(width=8, unfolding=1, signed=3)
    >>> x = jax.random.normal(jax.random.key(0), (4, 12, 12, 3))
    >>> variables = jax.jit(layer.init)(jax.random.key(1), x)
    >>> a, z = jax.jit(layer.apply)(variables, x)
    >>> a.shape, z.shape
    ((4, 12, 12, 3), (4, 12, 12, 8))
  """

  dilation: int = 1
  signed: int = 0
  zeros: int = 0

  @nn.compact
  def problem(self, shape: tuple[int, ...], *, train: bool = False) -> LayerProblem:
    """Returns the layer's part in a pursuit: its dictionary, its thresholds and its step.

    Args:
      shape: Shape of the layer's input, with the batch.
      train: Whether batch norm uses the statistics of the batch and updates the running ones.

    Returns:
      A tuple (dictionary, proxes, step) of the dictionary, one threshold function for each iteration and
      the step of the iterations after the first one (0 if there are none).
    """
    shape = (*shape[:-1], shape[-1] - self.zeros)  # the channels that have filters
    filters = self._filters("filters", 3, shape)
    new_code = self._thresholds(train)

    def kept_code(a: jax.Array) -> jax.Array:
      is_code = jnp.arange(a.shape[-1]) >= self.signed
      return jnp.where(expand_rank(is_code, a.ndim), nn.relu(a), a)

    def first(code: Code) -> Code:
      return code[0], new_code[0](code[1])  # the codes in x are nonnegative already

    def later(threshold: Prox) -> Prox:
      return lambda code: (kept_code(code[0]), threshold(code[1]))

    conv = ConvDictionary(filters, dilation=self.dilation)
    step = self._step(IdentityAugmented(conv), shape)
    proxes = [first, *map(later, new_code[1:])]
    padding = [(0, 0, 0)] * (filters.ndim - 2) + [(self.zeros, 0, 0), (0, 0, 0)]
    padded = lax.pad(filters, jnp.zeros((), filters.dtype), padding)
    dictionary = IdentityAugmented(conv.replace(filters=padded))
    return LayerProblem(_cast(dictionary, self.dtype), proxes, step)


class CSCLayer(UnfoldedLayer):
  """A layer that codes its input over a convolutional dictionary.

  The code has the shape [N, H', W', width] (or [N, L', width]) and is computed by

      first iteration         code = relu(N_0(D^T x))
      each further iteration  code <- relu(N_k(code - step D^T (D code - x)))

  With `unfolding` 0 the layer is a convolution, a batch norm and a ReLU. N_k is a batch norm whose bias
  is the negative threshold (eq. 2). All N_k share scale and bias, and each keeps its own running
  statistics. The step is relative to L, an upper bound of lambda_max(D^T D) that is computed from the
  current filters. No gradient flows through L.

  With `norm` and `untied` False, the solver "ista" and the step "bounded", no iteration increases the
  objective 1/2 ||x - D code||^2 - sum_j (bias_j / step) code_j over code >= 0.

  These fields come before the ones below, in this order:

  - `width`: Number of channels of the code, >= 1.
  - `unfolding`: Number of iterations after the first one, >= 0. The default is 0.
  - `solver`: "ista" (the default) or "fista". The two differ from `unfolding` 2 on.
  - `step`: How the step size is trained. "bounded" (the default) is 2 sigmoid(k) / L with k trained from
    0; "free" trains the step itself, from 1.
  - `norm`: Whether to use batch norm. False replaces it by a bias. The default is True.
  - `dtype`: Type of the convolutions, float32 (the default) or bfloat16. The parameters, the running
    statistics and L are float32.

  Attributes:
    kernel: Number of taps of the filters along each axis, >= 1. The default is 3.
    stride: Stride of the filters, >= 1. The default is 1.
    padding: "SAME", "VALID", "CIRCULAR", or a pair (low, high) of numbers of zeros for each axis. The
      default is "SAME".
    untied: Whether the analysis D^T is replaced by B^T with filters of its own, trained from the initial
      D. The iterations are then those of LISTA with coupled weights (Chen et al. 2018, after Gregor &
      LeCun 2010). It has no effect if `unfolding` is 0. The default is False.

  Raises:
    ValueError: If `width`, `unfolding`, `solver` or `step` is out of range; when the layer is called,
      also if `stride` or `padding` is.

  Example:
    >>> import jax
    >>> from cscjax.models import CSCLayer
    >>> layer = CSCLayer(width=8, unfolding=2)
    >>> x = jax.random.normal(jax.random.key(0), (4, 12, 12, 3))
    >>> variables = jax.jit(layer.init)(jax.random.key(1), x)
    >>> sorted(variables["params"])
    ['bias', 'filters', 'scale', 'step_logit']
    >>> code = jax.jit(layer.apply)(variables, x)
    >>> code.shape, bool((code >= 0).all())
    ((4, 12, 12, 8), True)
  """

  kernel: int = 3
  stride: int = 1
  padding: Padding = "SAME"
  untied: bool = False

  @nn.compact
  def problem(self, shape: tuple[int, ...], *, train: bool = False) -> LayerProblem:
    """Returns the layer's part in a pursuit: its dictionary, its thresholds and its step.

    Args:
      shape: Shape of the layer's input, with the batch.
      train: Whether batch norm uses the statistics of the batch and updates the running ones.

    Returns:
      A tuple (dictionary, proxes, step) of the dictionary, one threshold function for each iteration and
      the step of the iterations after the first one (0 if there are none).
    """
    filters = self._filters("filters", self.kernel, shape)
    conv = ConvDictionary(filters, stride=self.stride, padding=self.padding)
    step = self._step(conv, shape)
    dictionary = _cast(conv, self.dtype)
    if self.untied and self.unfolding:
      encoder = self._filters("filters_analysis", self.kernel, shape, lambda *_: filters)
      dictionary = UntiedDictionary(dictionary, _cast(conv.replace(filters=encoder), self.dtype))
    return LayerProblem(dictionary, self._thresholds(train), step)


class UntiedDictionary(struct.PyTreeNode):
  """A dictionary whose analysis B^T has other filters than its synthesis D: the two are not adjoint.

  Iterations over it are those of LISTA with coupled weights, code <- S(code - step B^T (D code - x))
  (Chen et al. 2018, after Gregor & LeCun 2010).

  Attributes:
    decoder: The dictionary D of the synthesis.
    encoder: The dictionary B of the analysis.
  """

  decoder: ConvDictionary
  encoder: ConvDictionary

  @property
  def signal_ndim(self) -> int:
    """Number of trailing axes of an array that form one signal."""
    return self.decoder.signal_ndim

  def analysis(self, x: jax.Array) -> jax.Array:
    """Returns B^T x."""
    return self.encoder.analysis(x)

  def synthesis(self, code: jax.Array, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Returns D code."""
    return self.decoder.synthesis(code, signal_shape)

  def residual(self, code: jax.Array, x: jax.Array) -> jax.Array:
    """Returns D code - x."""
    return self.decoder.residual(code, x)


def check_input(x: jax.Array, *, least: int = 1) -> None:
  """Raises ValueError unless `x` is a batch of images or signals, `least` or more along each axis."""
  checks.all_real("x", x)
  if x.ndim not in (3, 4) or min(x.shape[1:-1]) < least or x.shape[-1] < 1:
    checks.fail("x", x.shape, f"shape [N, H, W, C] or [N, L, C] with H, W, L >= {least}")


def pursue(
  layers: Sequence[UnfoldedLayer],
  x: jax.Array,
  *,
  pursuit: str = "layer",
  solver: str = "ista",
  train: bool = False,
) -> list[Code]:
  """Codes `x` over several layers, each of which codes the code of the layer below.

  Args:
    layers: Bound modules of equal `unfolding` and `dtype`.
    x: Input of the first layer.
    pursuit: "layer" performs all iterations of a layer before the first one of the next layer;
      "multilayer" goes through all layers in each iteration, see `multilayer_pursuit`.
    solver: "ista" or "fista".
    train: Whether batch norm uses the statistics of the batch and updates the running ones.

  Returns:
    The code of each layer.
  """
  problems, signal = [], jax.ShapeDtypeStruct(x.shape, layers[0].dtype)
  for layer in layers:
    problems.append(layer.problem(signal.shape, train=train))
    parts = jax.tree.leaves(jax.eval_shape(problems[-1].dictionary.analysis, signal))
    channels = sum(part.shape[-1] for part in parts)
    signal = jax.ShapeDtypeStruct((*parts[0].shape[:-1], channels), layer.dtype)
  dictionaries, proxes, steps = zip(*problems, strict=True)
  return PURSUITS[pursuit](dictionaries, x.astype(layers[0].dtype), proxes, steps=steps, solver=solver)


def _cast(dictionary: Any, dtype: Any) -> Any:
  """Returns a dictionary whose arrays have this type."""
  return jax.tree.map(lambda leaf: leaf.astype(dtype), dictionary)
