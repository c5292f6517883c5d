"""ML-CSC, and the feed-forward network as the case without unfolding (Table 3; Sulam et al. 2020)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cscjax import checks
from cscjax.dictionaries import CodedLayer, ConvDictionary
from cscjax.models._layers import PURSUITS, SOLVERS, CSCLayer, check_input, pursue
from cscjax.models._spectral import STEPS
from cscjax.ops import at_least_float32, max_pool

WIDTHS = (1, 2, 4, 8, 16, 16)  # of the layers, in units of the first one's
UNFOLDED = 3  # layers of stride 2, coded together


class MLCSC(nn.Module):
  """Multi-layer convolutional sparse coding network.

  Six layers of width, 2, 4, 8, 16 and 16 width kernels: three of 4x4 with stride 2, which a multi-layer
  pursuit codes together, then three of 3x3, feed-forward, with 2x2 max-pooling after the last two (where
  there is something left to pool); global average pooling, which an image of 32x32 does not need, and a
  linear classifier. With unfolding 0 it is the feed-forward network. At width 32 and three input
  channels the filters have 3,999,232 weights.

  Attributes:
    num_classes: Of the classifier.
    width: Kernels of the first layer.
    unfolding: Iterations of the pursuit after the first one, >= 0.
    solver: "ista" or "fista".
    pursuit: "multilayer" (ML-ISTA, ML-FISTA), "layer" (layered basis pursuit: each layer iterates on
      its own), or "lista" (ML-LISTA: as "multilayer", with analysis filters of their own).
    step: "bounded" or "free", see `UnfoldedLayer`.
    norm: False replaces batch norm by a bias.
    dtype: Of the convolutions: float32 or bfloat16. Logits are float32.

  Raises:
    ValueError: When made, if a field is out of range.
  """

  num_classes: int
  width: int = 32
  unfolding: int = 0
  solver: str = "ista"
  pursuit: str = "multilayer"
  step: str = "bounded"
  norm: bool = True
  dtype: Any = jnp.float32

  def __post_init__(self):
    for name in ("num_classes", "width"):
      checks.positive_int(name, getattr(self, name))
    checks.int_at_least("unfolding", self.unfolding, 0)
    checks.one_of("solver", self.solver, SOLVERS)
    checks.one_of("pursuit", self.pursuit, (*PURSUITS, "lista"))
    checks.one_of("step", self.step, STEPS)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, return_codes: bool = False
  ) -> jax.Array | tuple[jax.Array, list[jax.Array]]:
    """Classifies a batch.

    Args:
      x: Normalised images [N, H, W, C] or signals [N, L, C], of at least 8 pixels or samples an axis.
      train: Whether batch norm uses the batch's statistics and updates its running ones (pass
        mutable=["batch_stats"]).
      return_codes: Whether to return the codes too.

    Returns:
      Logits [N, num_classes], float32; with `return_codes` also each layer's code, before pooling.

    Raises:
      ValueError: If `x` has the wrong number of axes or is too small.
    """
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
    x = jnp.mean(x.astype(at_least_float32(x.dtype)), axis=tuple(range(1, x.ndim - 1)))
    with jax.numpy_dtype_promotion("standard"):  # Flax's own: the parameters are float32
      logits = nn.Dense(self.num_classes, name="classifier")(x)
    return (logits, codes) if return_codes else logits

  def pursuit_layers(self, x: jax.Array) -> list[CodedLayer]:
    """Each layer's dictionary, input and code, for `cscjax.theory.certify`.

    Called on a bound model: `model.bind(variables).pursuit_layers(x)`. Dictionaries are without the
    batch norm's scale, on which neither coherence nor sparsity depend.

    Args:
      x: A batch as for a call.
    """
    codes = self(x, return_codes=True)[1]
    layers, signal = [], x.astype(self.dtype)
    for i, code in enumerate(codes):
      filters = self.variables["params"][f"layer_{i}"]["filters"]
      geometry = _strided(x.ndim - 2) if i < UNFOLDED else {}
      layers.append(CodedLayer(ConvDictionary(filters, **geometry), signal, code))
      signal = max_pool(code) if i > UNFOLDED else code
    return layers

  def _layer(self, index, **fields):
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


def _strided(rank):
  """Geometry of the first layers, 4x4 with stride 2."""
  return {"stride": 2, "padding": ((1, 1),) * rank}
