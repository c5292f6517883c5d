"""ML-CSC and, without unfolding, the feed-forward network (Table 3; Sulam et al. 2020)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cscjax import checks
from cscjax.dictionaries import CodedLayer, ConvDictionary, lipschitz_bound
from cscjax.models._classifier import classify
from cscjax.models._gains import (
  layer_gains,
  margin_gains,
  pooled_shape,
  pursuit_gain,
  slopes,
  unfolded_step,
)
from cscjax.models._input import check_input, check_static
from cscjax.models._layers import CSCLayer
from cscjax.models._spectral import STEPS
from cscjax.models._unfolded import PURSUITS, pursue
from cscjax.ops import max_pool
from cscjax.solvers import SOLVERS

WIDTHS = (1, 2, 4, 8, 16, 16)  # widths of the layers, relative to the first one
UNFOLDED = 3  # the first layers, of stride 2, which a pursuit codes together


class MLCSC(nn.Module):
  """Multi-layer convolutional sparse coding network (ML-CSC).

  The network has six layers of w, 2w, 4w, 8w, 16w and 16w filters, where w is `width`. A multi-layer
  pursuit codes the first three together; their filters are 4x4 with stride 2. The other three are
  feed-forward layers of 3x3 filters, with 2x2 max-pooling (of axes longer than 1) after the last two.
  Global average pooling and a linear classifier follow. With `unfolding` 0 the network is the
  feed-forward network of the paper's Table 3. At width 32 and with three input channels the filters have
  3,999,232 weights.

  Attributes:
    num_classes: Number of classes, >= 1.
    width: Number of filters of the first layer, >= 1. The default is 32.
    unfolding: Number of iterations of the pursuit after the first one, >= 0. The default is 0.
    solver: "ista" or "fista". The two differ from `unfolding` 2 on. The default is "ista".
    pursuit: "multilayer" iterates over the three layers together (ML-ISTA, ML-FISTA). "layer" performs
      all iterations of a layer before the next one begins (layered basis pursuit). "lista" is
      "multilayer" with separately trained analysis filters (ML-LISTA). The default is "multilayer".
    step: How the step size of each layer is trained. "bounded" is 2 sigmoid(k) / L with k trained from 0
      and L >= lambda_max(D^T D) from the current filters; "free" trains the step itself, from 1. The
      default is "bounded".
    norm: Whether to use batch norm. False replaces it by a bias. The default is True.
    dtype: Type of the convolutions, float32 (the default) or bfloat16. The parameters and the logits are
      float32.

  Raises:
    ValueError: If a field is out of range.

  References:
    Sulam, Aberdam, Beck and Elad (2020), On multi-layer basis pursuit, efficient algorithms and
    convolutional neural networks.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from cscjax.models import MLCSC
    >>> model = MLCSC(num_classes=10, unfolding=2)
    >>> x = jnp.zeros((4, 32, 32, 3))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)  # shapes; model.init(...) computes
    >>> variables["params"]["layer_1"]["filters"].shape
    (4, 4, 32, 64)
    >>> jax.eval_shape(model.apply, variables, x).shape  # model.apply(variables, x) computes the logits
    (4, 10)
  """

  num_classes: int
  width: int = 32
  unfolding: int = 0
  solver: str = "ista"
  pursuit: str = "multilayer"
  step: str = "bounded"
  norm: bool = True
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    for name in ("num_classes", "width"):
      checks.positive_int(name, getattr(self, name))
    checks.int_at_least("unfolding", self.unfolding, 0)
    checks.one_of("solver", self.solver, SOLVERS)
    checks.one_of("pursuit", self.pursuit, (*PURSUITS, "lista"))
    checks.one_of("step", self.step, STEPS)
    checks.boolean("norm", self.norm)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False, return_codes: bool = False
  ) -> jax.Array | tuple[jax.Array, list[jax.Array]]:
    """Classifies a batch.

    Args:
      x: Normalized images [N, H, W, C] or signals [N, L, C] with H, W, L >= 8.
      train: Whether batch norm uses the statistics of the batch and updates the running ones (pass
        `mutable=["batch_stats"]` to `apply`). `nn.remat` needs it by position, with
        `static_argnums=(2,)`.
      return_codes: Whether to return the codes as well. The default is False.

    Returns:
      The logits [N, num_classes] in float32. If `return_codes` is True, a pair of the logits and a list
      of all layers' codes before pooling.

    Raises:
      ValueError: If `x` has the wrong number of axes or is too small.
    """
    check_static("train", train, 2)
    check_static("return_codes", return_codes, 3)
    check_input(x, least=2**UNFOLDED)
    rank = x.ndim - 2
    strided = [
      self._layer(i, kernel=4, **_strided(rank), unfolding=self.unfolding) for i in range(UNFOLDED)
    ]
    together = "multilayer" if self.pursuit == "lista" else self.pursuit
    codes = pursue(strided, x, pursuit=together, solver=self.solver, train=train)
    x = codes[-1]
    for i in range(UNFOLDED, len(WIDTHS)):
      x = self._layer(i)(x, train=train)
      codes.append(x)
      if i > UNFOLDED:
        x = max_pool(x)
    logits = classify(x, self.num_classes)
    return (logits, codes) if return_codes else logits

  def pursuit_layers(self, x: jax.Array) -> list[CodedLayer]:
    """Returns the dictionary, input and code of each layer, for `cscjax.theory.certify`.

    Call it on a bound model: `model.bind(variables).pursuit_layers(x)`. The dictionaries do not include
    the scale of the batch norm, because neither coherence nor sparsity depends on it.

    Args:
      x: Normalized images [N, H, W, C] or signals [N, L, C] with H, W, L >= 8.

    Returns:
      One `CodedLayer` (dictionary, input, code) for each layer, the first layer first.

    Raises:
      ValueError: If `x` has the wrong number of axes or is too small.
    """
    codes = self(x, return_codes=True)[1]
    layers, signal = [], x.astype(self.dtype)
    for i, code in enumerate(codes):
      filters = self.variables["params"][f"layer_{i}"]["filters"]
      geometry = _strided(x.ndim - 2) if i < UNFOLDED else {}
      layers.append(CodedLayer(ConvDictionary(filters, **geometry), signal, code))
      signal = max_pool(code) if i > UNFOLDED else code
    return layers

  def margin_gains(self, signal_shape: tuple[int, ...]) -> jax.Array:
    """Returns certified Lipschitz constants of the differences of logits.

    `cscjax.theory.certify_labels` uses them. Call it on a bound model:
    `model.bind(variables).margin_gains(shape)`. The constants are products of the norms of the layers'
    linear maps, with the running variances of the batch norms, in exact arithmetic.

    Args:
      signal_shape: Shape of one normalized image (H, W, C) or signal (L, C).

    Returns:
      A matrix [num_classes, num_classes]: entry (i, j) bounds the change of logit_i - logit_j per unit
      of the Euclidean norm of a change of the image.
    """
    variables = self.variables
    params, stats = variables["params"], variables.get("batch_stats", {})
    shape, layers = tuple(signal_shape), []
    for i in range(len(WIDTHS)):
      own = params[f"layer_{i}"]
      geometry = _strided(len(shape) - 1) if i < UNFOLDED else {}
      conv = ConvDictionary(own["filters"], **geometry)
      untied = "filters_analysis" in own
      encoder = conv.replace(filters=own["filters_analysis"]) if untied else None
      step = unfolded_step(own, lipschitz_bound(conv, shape))
      slope = [slopes(own, stats.get(f"layer_{i}"), k) for k in range(self._iterations(i))]
      layers.append(layer_gains(conv, False, slope, step, shape, encoder))
      signal = jax.ShapeDtypeStruct(shape, conv.filters.dtype)
      shape = jax.eval_shape(conv.analysis, signal).shape
      if i > UNFOLDED:
        shape = pooled_shape(shape)
    together = "layer" if self.pursuit == "layer" else "multilayer"
    gain = pursuit_gain(layers[:UNFOLDED], together, self.solver)
    gain *= pursuit_gain(layers[UNFOLDED:], "layer", self.solver)
    return margin_gains(gain, math.prod(shape[:-1]), params["classifier"]["kernel"])

  def _iterations(self, index: int) -> int:
    """Returns the number of iterations of a layer."""
    return self.unfolding + 1 if index < UNFOLDED else 1

  def _layer(self, index: int, **fields: Any) -> CSCLayer:
    return CSCLayer(
      width=self.width * WIDTHS[index],
      solver=self.solver,
      step=self.step,
      norm=self.norm,
      dtype=self.dtype,
      untied=self.pursuit == "lista",
      name=f"layer_{index}",
      **fields,
    )


def _strided(rank: int) -> dict[str, Any]:
  """Returns stride and padding of the first layers, whose filters have 4 taps along each axis."""
  return {"stride": 2, "padding": ((1, 1),) * rank}
