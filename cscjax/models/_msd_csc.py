"""MSD-CSC and, without unfolding, MSDNet (Table 3)."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cscjax import checks
from cscjax.dictionaries import (
  Code,
  CodedLayer,
  ConvDictionary,
  IdentityAugmented,
  join,
  lipschitz_bound,
)
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
from cscjax.models._layers import MSDCSCLayer
from cscjax.models._remat import REMAT, rematerialized
from cscjax.models._spectral import STEPS
from cscjax.models._unfolded import PURSUITS, pursue
from cscjax.ops import integers_per_axis, max_pool
from cscjax.solvers import SOLVERS


class MSDCSC(nn.Module):
  """Mixed-scale dense convolutional sparse coding network (MSD-CSC).

  Each of the `depth` layers codes all channels so far, the input image included, over a dictionary
  [I, F^T]; its code is the input of the next layer. Max-pooling follows one and two thirds of the
  layers; global average pooling and a linear classifier come last. With `unfolding` 0 this is MSDNet.
  At width 32 and with three input channels the filters have 143,424, 339,552 and 618,624 weights at
  depth 6, 9 and 12.

  Attributes:
    num_classes: Number of classes, >= 1.
    depth: Number of layers, >= 1. The default is 12.
    width: Number of new channels of each layer, >= 1. The default is 32.
    dilations: Dilations of the 3x3 filters F, each >= 1. The layers use them cyclically. The default is
      (1, 2, 3).
    unfolding: Number of iterations after the first one in each layer, >= 0. The default is 0.
    solver: "ista" or "fista". The two differ from `unfolding` 2 on. The default is "ista".
    pursuit: "layer" performs all iterations of a layer before the next one begins. "multilayer" iterates
      over all layers between two poolings together (ML-ISTA, ML-FISTA). The default is "layer".
    step: How the step size of each layer is trained. "bounded" is 2 sigmoid(k) / L with k trained from 0
      and L >= lambda_max(D^T D) from the current filters; "free" trains the step itself, from 1. The
      default is "bounded".
    norm: Whether to use batch norm. False replaces it by a bias. The default is True.
    channel_multiple: Channels of zeros are put before those of the image up to a multiple of this
      number, >= 1. A GPU computes convolutions of a multiple of 8 channels faster, and otherwise pads
      the input of each convolution itself. Parameters, codes and logits are the same for every value.
      The default is 1.
    remat: Which intermediate results of each pursuit the backward pass recomputes, to save memory.
      "none" keeps everything; "elementwise" recomputes the elementwise operations; "all" keeps only the
      inputs. The default is "none".
    dtype: Type of the convolutions, float32 (the default) or bfloat16. The parameters and the logits are
      float32.

  Raises:
    ValueError: If a field is out of range.

  Example:
    >>> import jax
    >>> from cscjax.models import MSDCSC
    >>> model = MSDCSC(num_classes=10, depth=2, width=4, unfolding=1)
    >>> x = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    >>> variables = jax.jit(model.init)(jax.random.key(1), x)
    >>> variables["params"]["layer_1"]["filters"].shape
    (3, 3, 7, 4)
    >>> jax.jit(model.apply)(variables, x).shape
    (4, 10)
  """

  num_classes: int
  depth: int = 12
  width: int = 32
  dilations: Sequence[int] = (1, 2, 3)
  unfolding: int = 0
  solver: str = "ista"
  pursuit: str = "layer"
  step: str = "bounded"
  norm: bool = True
  channel_multiple: int = 1
  remat: str = "none"
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    for name in ("num_classes", "depth", "width", "channel_multiple"):
      checks.positive_int(name, getattr(self, name))
    checks.int_at_least("unfolding", self.unfolding, 0)
    checks.one_of("solver", self.solver, SOLVERS)
    checks.one_of("pursuit", self.pursuit, PURSUITS)
    checks.one_of("step", self.step, STEPS)
    checks.boolean("norm", self.norm)
    checks.one_of("remat", self.remat, REMAT)
    dilations = integers_per_axis("dilations", self.dilations)
    if not isinstance(dilations, tuple):
      checks.fail("dilations", dilations, "a sequence of at least one integer >= 1")
    object.__setattr__(self, "dilations", dilations)  # hashable, as jax.jit requires of a module
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False, return_codes: bool = False
  ) -> jax.Array | tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
    """Classifies a batch.

    Args:
      x: Normalized images [N, H, W, C] or signals [N, L, C].
      train: Whether batch norm uses the statistics of the batch and updates the running ones (pass
        `mutable=["batch_stats"]` to `apply`). `nn.remat` needs it by position, with
        `static_argnums=(2,)`.
      return_codes: Whether to return the codes as well. The default is False.

    Returns:
      The logits [N, num_classes] in float32. If `return_codes` is True, a pair of the logits and a list
      of all layers' codes (a, z) before pooling.

    Raises:
      ValueError: If `x` has the wrong number of axes, or an axis of size 0.
    """
    check_static("train", train, 2)
    check_static("return_codes", return_codes, 3)
    check_input(x)
    codes, zeros = [], -x.shape[-1] % self.channel_multiple
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(zeros, 0)])
    signed = x.shape[-1]
    for group in self._groups():
      if group[0] in self._pooled():
        x = max_pool(x)

      def code(module: "MSDCSC", x: jax.Array, group: list[int] = group) -> list[Code]:
        layers = [module._layer(i, signed, zeros) for i in group]
        return pursue(layers, x, pursuit=self.pursuit, solver=self.solver, train=train)

      codes += rematerialized(code, self.remat)(self, x)
      x = join(codes[-1])
    logits = classify(x, self.num_classes, zeros=zeros)
    return (logits, [(a[..., zeros:], z) for a, z in codes]) if return_codes else logits

  def pursuit_layers(self, x: jax.Array) -> list[CodedLayer]:
    """Returns the dictionary [I, F^T], input and code of each layer, for `cscjax.theory.certify`.

    Call it on a bound model: `model.bind(variables).pursuit_layers(x)`. The filters F do not include the
    scale of the batch norm, because neither coherence nor sparsity depends on it.

    Args:
      x: Normalized images [N, H, W, C] or signals [N, L, C].

    Returns:
      One `CodedLayer` (dictionary, input, code) for each layer, the first layer first.

    Raises:
      ValueError: If `x` has the wrong number of axes, or an axis of size 0.
    """
    codes = self(x, return_codes=True)[1]
    layers, signal = [], x.astype(self.dtype)
    for i, code in enumerate(codes):
      if i in self._pooled():
        signal = max_pool(signal)
      filters = self.variables["params"][f"layer_{i}"]["filters"]
      conv = ConvDictionary(filters, dilation=self.dilations[i % len(self.dilations)])
      layers.append(CodedLayer(IdentityAugmented(conv), signal, code))
      signal = join(code)
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
    shape, gains = tuple(signal_shape), []
    for group in self._groups():
      if group[0] in self._pooled():
        shape = pooled_shape(shape)
      layers = []
      for i in group:
        own = params[f"layer_{i}"]
        conv = ConvDictionary(own["filters"], dilation=self.dilations[i % len(self.dilations)])
        step = unfolded_step(own, lipschitz_bound(IdentityAugmented(conv), shape))
        slope = [slopes(own, stats.get(f"layer_{i}"), k) for k in range(self.unfolding + 1)]
        layers.append(layer_gains(conv, True, slope, step, shape))
        shape = (*shape[:-1], shape[-1] + self.width)
      gains.append(pursuit_gain(layers, self.pursuit, self.solver))
    return margin_gains(
      jnp.prod(jnp.stack(gains)), math.prod(shape[:-1]), params["classifier"]["kernel"]
    )

  def _pooled(self) -> list[int]:
    """Returns the layers before which the signal is pooled."""
    return sorted({self.depth // 3, 2 * self.depth // 3} - {0})

  def _groups(self) -> list[list[int]]:
    """Returns the groups of layers that one pursuit codes together."""
    if self.pursuit == "layer":
      return [[i] for i in range(self.depth)]
    starts = [0, *self._pooled()]
    ends = [*starts[1:], self.depth]
    return [list(range(start, end)) for start, end in zip(starts, ends, strict=True)]

  def _layer(self, index: int, signed: int, zeros: int) -> MSDCSCLayer:
    return MSDCSCLayer(
      width=self.width,
      dilation=self.dilations[index % len(self.dilations)],
      unfolding=self.unfolding,
      solver=self.solver,
      signed=signed,
      zeros=zeros,
      step=self.step,
      norm=self.norm,
      dtype=self.dtype,
      name=f"layer_{index}",
    )
