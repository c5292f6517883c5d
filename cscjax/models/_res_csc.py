"""Res-CSC, and the plain network, ResNet and simplified Res-CSC that it contains (Table 2)."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cscjax import checks
from cscjax.dictionaries import CodedLayer, ConvDictionary, lipschitz_bound
from cscjax.models._layers import check_input
from cscjax.models._norms import Norm
from cscjax.models._remat import REMAT, rematerialized
from cscjax.models._spectral import trained_step
from cscjax.ops import at_least_float32
from cscjax.solvers import initialized_thresholding


class Rule(NamedTuple):
  """Which terms a block's second layer has beside its dictionary's analysis (eq. 5).

  Attributes:
    keep: X_prev.
    correct: c D^T D X_prev.
  """

  keep: bool
  correct: bool


RULES = {
  "plain": Rule(keep=False, correct=False),
  "simplified": Rule(keep=False, correct=True),
  "resnet": Rule(keep=True, correct=False),
  "res_csc": Rule(keep=True, correct=True),
}


class ResCSCBlock(nn.Module):
  """Two layers: X = relu(N_1(D_1^T X_prev)), then a step from the code X_prev over D_2 (eq. 4, 5).

      res_csc     relu(X_prev + N_2(D_2^T (X + c D_2 X_prev)))

  and without the terms that the other rules leave out. c = -2 sigmoid(k) / L with k trained from 0, and
  L >= lambda_max(D_2^T D_2) the upper bound `lipschitz_bound` of the present filters, through which no
  gradient flows.

  Attributes:
    features: Channels of the code.
    stride: Of D_1. X_prev is subsampled likewise, and gets channels of zeros.
    rule: One of `RULES`.
    c: A constant in place of the trained one.
    norm: False replaces batch norm by a bias.
    dtype: Of the convolutions; parameters, statistics and L are float32.
  """

  features: int
  stride: int = 1
  rule: str = "res_csc"
  c: float | None = None
  norm: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, bound: jax.Array | None = None, train: bool = False) -> jax.Array:
    """X_prev [N, H, W, C] -> [N, H/stride, W/stride, features], rounded up.

    Args:
      x: X_prev.
      bound: L, where a network has computed it for many blocks at once; None computes it here.
      train: Whether batch norm uses the batch's statistics.
    """
    rank, initializer = x.ndim - 2, nn.initializers.he_normal()
    shape = (3,) * rank + (x.shape[-1], self.features)
    filters = self.param("filters_1", initializer, shape)
    first = _dictionary(filters.astype(self.dtype), self.stride)
    filters = self.param("filters_2", initializer, (*shape[:-2], self.features, self.features))
    second = _dictionary(filters.astype(self.dtype))
    code = nn.relu(self._norm("norm_1")(first.analysis(x), train=train))
    self.sow("intermediates", "code", code)  # kept where `pursuit_layers` asks for it, else nothing
    rule, c = RULES[self.rule], None
    if rule.correct:
      c = self.c
      if c is None:
        if bound is None:
          bound = lipschitz_bound(_dictionary(filters), code.shape[1:])
        c = -trained_step(self, bound)
      c = jnp.asarray(c, self.dtype)
    return initialized_thresholding(
      second,
      code,
      shortcut(x, self.features, self.stride),
      nn.relu,
      c=c,
      keep=rule.keep,
      transform=lambda z: self._norm("norm_2")(z, train=train),
    )

  def _norm(self, name):
    return Norm(self.norm, self.dtype, name=name)


def _dictionary(filters: jax.Array, stride: int = 1) -> ConvDictionary:
  """Atoms centred on the positions that `shortcut` keeps, as in the ResNet paper's code.

  "SAME" centres them one site further at stride 2 and even sizes.
  """
  return ConvDictionary(filters, stride=stride, padding=((1, 1),) * (filters.ndim - 2))


def shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
  """The identity between stages, without parameters (He et al. 2016, option A).

  Args:
    x: [N, H, W, C] or [N, L, C].
    features: >= C, channels to fill up to with zeros.
    stride: Every so many positions are kept.
  """
  x = x[(slice(None), *(slice(None, None, stride) for _ in range(x.ndim - 2)))]
  return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, features - x.shape[-1])])


class ResCSC(nn.Module):
  """Residual convolutional sparse coding network, the CIFAR ResNet with another rule in its blocks.

  A convolution, three stages of n = (depth - 2) / 6 blocks with width, 2 width and 4 width channels at
  full, half and quarter resolution, global average pooling, a linear classifier. At width 16 and 10
  classes 0.27, 0.46, 0.66, 0.85, 1.73 and 3.48 million parameters at depth 20, 32, 44, 56, 110 and 218;
  the four rules have the same ones, but for the scalar k of each block that has a trained c.

  The equal blocks of a stage run under `nn.scan` with stacked parameters and statistics. With `unroll` 1
  each of its turns is one block, and compiling does not take longer for more blocks. A turn of several
  blocks takes longer to compile, and costs fewer turns and less data movement in each step, which
  matters on a GPU. Parameters, statistics and results are the same for every `unroll`.

  Attributes:
    num_classes: Of the classifier.
    depth: 6 n + 2 layers, n >= 1.
    width: Channels of the first stage.
    rule: "res_csc", "resnet", "simplified" or "plain", see `initialized_thresholding`.
    c: A constant in place of the trained one of each block.
    remat: What of the equal blocks is computed again in the backward pass, see `rematerialized`.
    unroll: Equal blocks in each turn of a stage's loop, >= 1. There is no loop in a stage that has no
      more of them.
    norm: False replaces batch norm by a bias.
    dtype: Of the convolutions: float32 or bfloat16. Logits are float32.

  Raises:
    ValueError: When made, if a field is out of range or a rule without c gets one.
  """

  num_classes: int
  depth: int = 20
  width: int = 16
  rule: str = "res_csc"
  c: float | None = None
  remat: str = "elementwise"
  unroll: int = 1
  norm: bool = True
  dtype: Any = jnp.float32

  def __post_init__(self):
    for name in ("num_classes", "width", "unroll"):
      checks.positive_int(name, getattr(self, name))
    if checks.positive_int("depth", self.depth) < 8 or self.depth % 6 != 2:
      checks.fail("depth", self.depth, "6 n + 2 layers, n >= 1")
    checks.one_of("rule", self.rule, RULES)
    checks.one_of("remat", self.remat, REMAT)
    if self.c is not None:
      checks.in_range("c", self.c, -math.inf)
      if not RULES[self.rule].correct:
        checks.fail("c", self.c, f"none for the rule {self.rule}")
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x: jax.Array, *, train: bool = False, return_codes: bool = False
  ) -> jax.Array | tuple[jax.Array, list[jax.Array]]:
    """Classifies a batch.

    Args:
      x: Normalised images [N, H, W, C] or signals [N, L, C].
      train: Whether batch norm uses the batch's statistics and updates its running ones (pass
        mutable=["batch_stats"]).
      return_codes: Whether to return the codes too.

    Returns:
      Logits [N, num_classes], float32; with `return_codes` also each block's code.

    Raises:
      ValueError: If `x` has the wrong number of axes.
    """
    check_input(x)
    shape = (3,) * (x.ndim - 2) + (x.shape[-1], self.width)
    filters = self.param("filters", nn.initializers.he_normal(), shape).astype(self.dtype)
    x = _dictionary(filters).analysis(x.astype(self.dtype))
    x = nn.relu(Norm(self.norm, self.dtype, name="norm")(x, train=train))
    self.sow("intermediates", "code", x)
    codes = []
    for stage in range(3):
      transition_bound, bounds = self._bounds(stage, x.shape[1:-1])
      if stage > 0:
        block = self._block(stage, f"transition_{stage}", stride=2)
        x = block(x, bound=transition_bound, train=train)
        codes.append(x)
      equal = self._equal_blocks(stage)
      if equal:
        x, stacked = self._scan(equal, train, return_codes)(
          self._block(stage, f"stage_{stage}"), x, bounds
        )
        codes += [] if stacked is None else list(stacked)
    x = jnp.mean(x.astype(at_least_float32(x.dtype)), axis=tuple(range(1, x.ndim - 1)))
    with jax.numpy_dtype_promotion("standard"):  # Flax's own: the parameters are float32
      logits = nn.Dense(self.num_classes, name="classifier")(x)
    return (logits, codes) if return_codes else logits

  def pursuit_layers(self, x: jax.Array) -> list[CodedLayer]:
    """Each layer's dictionary, input and code, for `cscjax.theory.certify`: depth - 1 of them.

    First the convolution, then of each block (D_1, X_prev, X) and (D_2, X, the block's code). Called on
    a bound model: `model.bind(variables).pursuit_layers(x)`. Dictionaries are without the batch norm's
    scale, on which neither coherence nor sparsity depend. What a block adds to its second layer, X_prev
    and the correction, is part of no dictionary.

    Args:
      x: A batch as for a call.
    """
    model, variables = self.unbind()
    params = variables["params"]
    found: Any = model.apply(variables, x, return_codes=True, mutable=["intermediates"])
    (_, codes), sown = found
    inner = sown["intermediates"]
    (signal,) = inner["code"]
    layers = [CodedLayer(_dictionary(params["filters"]), x.astype(self.dtype), signal)]
    for (stride, block, (middle,)), code in zip(self._blocks(params, inner), codes, strict=True):
      layers.append(CodedLayer(_dictionary(block["filters_1"], stride), signal, middle))
      layers.append(CodedLayer(_dictionary(block["filters_2"]), middle, code))
      signal = code
    return layers

  def _blocks(self, params, sown):
    """Of each block its stride, its parameters and what it sowed as its inner code."""
    for stage in range(3):
      if stage > 0:
        name = f"transition_{stage}"
        yield 2, params[name], sown[name]["code"]
      name = f"stage_{stage}"
      for i in range(self._equal_blocks(stage)):
        block, code = jax.tree.map(lambda leaf, i=i: leaf[i], (params[name], sown[name]["code"]))
        yield 1, block, code

  def _bounds(self, stage, sizes):
    """L of a stage's transition and of each of its equal blocks, in one call for all of them.

    (None, None) where no block asks for it, and while there are no parameters: each block computes its
    own then.
    """
    if self.c is not None or not RULES[self.rule].correct or self.is_initializing():
      return None, None
    params, filters = self.variables["params"], []
    if stage > 0:
      sizes = [-(-size // 2) for size in sizes]
      filters.append(params[f"transition_{stage}"]["filters_2"][None])
    if self._equal_blocks(stage):
      filters.append(params[f"stage_{stage}"]["filters_2"])
    shape = (*sizes, self.width * 2**stage)
    bounds = jax.vmap(lambda f: lipschitz_bound(_dictionary(f), shape))(jnp.concatenate(filters))
    return (bounds[0], bounds[1:]) if stage > 0 else (None, bounds)

  def _equal_blocks(self, stage):
    """How many blocks of a stage have the stride 1."""
    return (self.depth - 2) // 6 - (stage > 0)

  def _block(self, stage, name, stride=1):
    return ResCSCBlock(
      features=self.width * 2**stage,
      stride=stride,
      rule=self.rule,
      c=self.c,
      norm=self.norm,
      dtype=self.dtype,
      name=name,
    )

  def _scan(self, length, train, return_codes):
    """(block, x, bounds) -> x after `length` blocks of their own parameters, and their codes."""

    def body(block, x, bound):
      x = block(x, bound=bound, train=train)
      return x, x if return_codes else None

    unroll = min(self.unroll, length)
    return nn.scan(
      rematerialized(body, self.remat, scanned=unroll < length),
      variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
      split_rngs={"params": True},
      length=length,
      unroll=unroll,
    )
