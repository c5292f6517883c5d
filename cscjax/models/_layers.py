"""The layers of the networks, which declare the filters, thresholds and step of an unfolded pursuit."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cscjax import checks
from cscjax.dictionaries import Code, ConvDictionary, IdentityAugmented
from cscjax.models._unfolded import LayerProblem, UnfoldedLayer
from cscjax.ops import Padding, PyTree, as_padding, expand_rank, integers_per_axis
from cscjax.solvers import Prox


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
  - `dtype`: Type of the convolutions, float32 (the default) or bfloat16. The running statistics and L
    are float32.
  - `kernel`: Number of taps of the filters, >= 1: one integer, or one per spatial axis. The default is
    3.
  - `dilation`: Step between the taps of the filters, >= 1: one integer, or one per spatial axis. The
    default is 1.
  - `nonnegative`: Whether the new code is nonnegative. If False, the soft threshold of threshold -bias
    replaces the ReLU, and the bias should be <= 0. The default is True.
  - `filters_init`: Initializer of the filters, as in `flax.linen.initializers`. The default is
    `he_normal()`.
  - `param_dtype`: Type of the parameters. The default is JAX's default type, float32.

  Attributes:
    signed: Number of leading channels of the input that may be negative (the image itself, and signed
      codes), >= 0. The others must be nonnegative codes. The default is 0.
    zeros: Number of leading channels, among the signed ones, that are zero and only pad the input to a
      convenient number of channels, >= 0. They have no filters and stay zero in `a`. The default is 0.

  Raises:
    ValueError: If a field is out of range.

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

  signed: int = 0
  zeros: int = 0

  def __post_init__(self) -> None:
    if checks.int_at_least("zeros", self.zeros, 0) > checks.int_at_least("signed", self.signed, 0):
      checks.fail("zeros", self.zeros, f"at most signed, which is {self.signed}")
    super().__post_init__()

  @nn.compact
  def problem(self, shape: tuple[int, ...], *, train: bool = False) -> LayerProblem:
    """Returns the layer's part in a pursuit: its dictionary, its thresholds and its step.

    Args:
      shape: Shape of the layer's input, with the batch.
      train: Whether batch norm uses the statistics of the batch and updates the running ones.

    Returns:
      A tuple (dictionary, proxes, step) of the dictionary, one threshold function for each iteration and
      the step of the iterations after the first one (0 if there are none).

    Raises:
      ValueError: If the input has no channels but `zeros`, or a field does not fit its number of axes.
    """
    if self.zeros >= shape[-1]:
      checks.fail("zeros", self.zeros, f"fewer than the {shape[-1]} channels of the input")
    shape = (*shape[:-1], shape[-1] - self.zeros)  # the channels that have filters
    filters = self._filters("filters", shape, self.filters_init)
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
  objective 1/2 ||x - D code||^2 - sum_j (bias_j / step) code_j over code >= 0. For signed codes and a
  bias <= 0, it is the Lasso's objective, with |code_j| in place of code_j.

  These fields come before the ones below, in this order:

  - `width`: Number of channels of the code, >= 1.
  - `unfolding`: Number of iterations after the first one, >= 0. The default is 0.
  - `solver`: "ista" (the default) or "fista". The two differ from `unfolding` 2 on.
  - `step`: How the step size is trained. "bounded" (the default) is 2 sigmoid(k) / L with k trained from
    0; "free" trains the step itself, from 1.
  - `norm`: Whether to use batch norm. False replaces it by a bias. The default is True.
  - `dtype`: Type of the convolutions, float32 (the default) or bfloat16. The running statistics and L
    are float32.
  - `kernel`: Number of taps of the filters, >= 1: one integer, or one per spatial axis. The default is
    3.
  - `dilation`: Step between the taps of the filters, >= 1: one integer, or one per spatial axis. The
    default is 1.
  - `nonnegative`: Whether the new code is nonnegative. If False, the soft threshold of threshold -bias
    replaces the ReLU, and the bias should be <= 0. The default is True.
  - `filters_init`: Initializer of the filters, as in `flax.linen.initializers`. The default is
    `he_normal()`.
  - `param_dtype`: Type of the parameters. The default is JAX's default type, float32.

  Attributes:
    stride: Stride of the filters, >= 1: one integer, or one per spatial axis. The default is 1.
    padding: "SAME", "VALID", "CIRCULAR", or a pair (low, high) of numbers of zeros for each axis. The
      default is "SAME".
    untied: Whether the analysis D^T is replaced by B^T with filters of its own, trained from the initial
      D. The iterations are then those of LISTA with coupled weights (Chen et al. 2018, after Gregor &
      LeCun 2010). It has no effect if `unfolding` is 0. The default is False.

  Raises:
    ValueError: If a field is out of range.

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

    Under `nn.remat`, a layer needs `train` by position, as Flax's own modules do:

    >>> import flax.linen as nn
    >>> layer = nn.remat(CSCLayer, static_argnums=(2,))(width=8, unfolding=2)
    >>> code, updates = layer.apply(variables, x, True, mutable=["batch_stats"])
    >>> code.shape, list(updates)
    ((4, 12, 12, 8), ['batch_stats'])
  """

  stride: int | tuple[int, ...] = 1
  padding: Padding = "SAME"
  untied: bool = False

  def __post_init__(self) -> None:
    object.__setattr__(self, "stride", integers_per_axis("stride", self.stride))
    object.__setattr__(self, "padding", as_padding(self.padding))
    checks.boolean("untied", self.untied)
    super().__post_init__()

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
    filters = self._filters("filters", shape, self.filters_init)
    conv = ConvDictionary(filters, stride=self.stride, dilation=self.dilation, padding=self.padding)
    step = self._step(conv, shape)
    dictionary = _cast(conv, self.dtype)
    if self.untied and self.unfolding:
      encoder = self._filters("filters_analysis", shape, lambda *_: filters)
      dictionary = UntiedDictionary(dictionary, _cast(conv.replace(filters=encoder), self.dtype))
    return LayerProblem(dictionary, self._thresholds(train), step)


class UntiedDictionary(PyTree):
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


def _cast(dictionary: Any, dtype: Any) -> Any:
  """Returns a dictionary whose arrays have this type."""
  return jax.tree.map(lambda leaf: leaf.astype(dtype), dictionary)
