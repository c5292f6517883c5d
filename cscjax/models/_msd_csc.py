"""MSD-CSC, and MSDNet as the case without unfolding (Table 3)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cscjax import checks
from cscjax.dictionaries import CodedLayer, ConvDictionary, IdentityAugmented, join
from cscjax.models._layers import PURSUITS, SOLVERS, MSDCSCLayer, check_input, pursue
from cscjax.models._remat import REMAT, rematerialized
from cscjax.models._spectral import STEPS
from cscjax.ops import at_least_float32, integers_per_axis, max_pool


class MSDCSC(nn.Module):
  """Mixed-scale dense convolutional sparse coding network.

  `depth` layers, each coding all channels so far (the raw image among them) over [I, F^T], with
  dilations taken in turn; max-pooling after one and two thirds of the layers, global average pooling,
  a linear classifier. No stem and no transitions. With unfolding 0 it is the MSDNet. At width 32 and
  three input channels the filters have 143,424, 339,552 and 618,624 weights at depth 6, 9 and 12.

  Attributes:
    num_classes: Of the classifier.
    depth: Layers d, >= 1.
    width: New channels w of each layer, >= 1.
    dilations: Taken in turn, each >= 1.
    unfolding: Iterations after the first one in each layer, >= 0.
    solver: "ista" or "fista".
    pursuit: "layer": each layer iterates on its own; "multilayer": the layers between two poolings
      together, see `multilayer_pursuit`.
    step: "bounded" or "free", see `UnfoldedLayer`.
    norm: False replaces batch norm by a bias.
    channel_multiple: The images get channels of zeros in front up to a multiple of this. A GPU computes
      convolutions of multiples of 8 channels faster, and pads others itself, each time. Parameters,
      codes and logits are the same for every value.
    remat: What of each pursuit is computed again in the backward pass, see `rematerialized`.
    dtype: Of the convolutions: float32 or bfloat16. Logits are float32.

  Raises:
    ValueError: When made, if a field is out of range.
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

  def __post_init__(self):
    for name in ("num_classes", "depth", "width", "channel_multiple"):
      checks.positive_int(name, getattr(self, name))
    checks.int_at_least("unfolding", self.unfolding, 0)
    checks.one_of("solver", self.solver, SOLVERS)
    checks.one_of("pursuit", self.pursuit, PURSUITS)
    checks.one_of("step", self.step, STEPS)
    checks.one_of("remat", self.remat, REMAT)
    dilations = integers_per_axis("dilations", self.dilations)
    if not isinstance(dilations, tuple):
      checks.fail("dilations", dilations, "a sequence of at least one")
    object.__setattr__(self, "dilations", dilations)  # hashable: a module is a key of jit's cache
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, return_codes: bool = False
  ) -> jax.Array | tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
    """Classifies a batch.

    Args:
      x: Normalised images [N, H, W, C] or signals [N, L, C].
      train: Whether batch norm uses the batch's statistics and updates its running ones (pass
        mutable=["batch_stats"]).
      return_codes: Whether to return the codes too.

    Returns:
      Logits [N, num_classes], float32; with `return_codes` also each layer's code (a, z), before
      pooling.

    Raises:
      ValueError: If `x` has the wrong number of axes.
    """
    check_input(x)
    codes, zeros = [], -x.shape[-1] % self.channel_multiple
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(zeros, 0)])
    signed = x.shape[-1]
    for group in self._groups():
      if group[0] in self._pooled():
        x = max_pool(x)

      def code(module, x, group=group):
        layers = [module._layer(i, signed, zeros) for i in group]
        return pursue(layers, x, pursuit=self.pursuit, solver=self.solver, train=train)

      codes += rematerialized(code, self.remat)(self, x)
      x = join(codes[-1])
    x = jnp.mean(x.astype(at_least_float32(x.dtype)), axis=tuple(range(1, x.ndim - 1)))[:, zeros:]
    with jax.numpy_dtype_promotion("standard"):  # Flax's own: the parameters are float32
      logits = nn.Dense(self.num_classes, name="classifier")(x)
    return (logits, [(a[..., zeros:], z) for a, z in codes]) if return_codes else logits

  def pursuit_layers(self, x: jax.Array) -> list[CodedLayer]:
    """Each layer's dictionary [I, F^T], input and code, for `cscjax.theory.certify`.

    Called on a bound model: `model.bind(variables).pursuit_layers(x)`. F is the filters without the
    batch norm's scale, on which neither coherence nor sparsity depend.

    Args:
      x: A batch as for a call.
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

  def _pooled(self):
    """The layers before which the signal is pooled."""
    return sorted({self.depth // 3, 2 * self.depth // 3} - {0})

  def _groups(self):
    """The layers that iterate together."""
    if self.pursuit == "layer":
      return [[i] for i in range(self.depth)]
    starts = [0, *self._pooled()]
    ends = [*starts[1:], self.depth]
    return [list(range(start, end)) for start, end in zip(starts, ends, strict=True)]

  def _layer(self, index, signed, zeros):
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
