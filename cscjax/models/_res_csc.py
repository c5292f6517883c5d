"""Res-CSC and its special cases: simplified Res-CSC, ResNet and the plain network (Table 2)."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cscjax import checks
from cscjax.dictionaries import CodedLayer, lipschitz_bound
from cscjax.models._classifier import classify
from cscjax.models._gains import analysis_gain, margin_gains, slopes, unfolded_step
from cscjax.models._input import check_input, check_static
from cscjax.models._norms import Norm
from cscjax.models._remat import REMAT, rematerialized
from cscjax.models._res_csc_block import RULES, ResCSCBlock, centred_dictionary, check_fields


class ResCSC(nn.Module):
  """Residual convolutional sparse coding network (Res-CSC), a CIFAR ResNet with a corrected shortcut.

  The network is a convolution, three stages of n = (depth - 2) / 6 blocks, global average pooling and a
  linear classifier. The stages have w, 2w and 4w channels at full, half and quarter resolution, where w
  is `width`. At width 16 and with 10 classes the network has 0.27, 0.46, 0.66, 0.85, 1.73 and 3.48
  million parameters at depth 20, 32, 44, 56, 110 and 218. The four rules have the same parameters,
  except for one scalar in each block that trains its correction c.

  The blocks of equal shape in a stage run in a loop (`nn.scan`) over their stacked parameters and
  statistics. With `unroll` 1 each iteration of the loop is one block, so that the compilation time does
  not grow with the depth. More blocks per iteration take longer to compile, but mean fewer iterations
  and less data movement, which matters on a GPU. Parameters, statistics and results are the same for
  every `unroll`.

  Attributes:
    num_classes: Number of classes, >= 1.
    depth: Number of layers, 6 n + 2 with n >= 1. The default is 20.
    width: Number of channels of the first stage, >= 1. The default is 16.
    rule: How the second layer of a block uses the input X_prev of the block. "res_csc" adds X_prev and
      the correction c D^T D X_prev, "resnet" adds only X_prev, "simplified" only the correction, and
      "plain" neither. The default is "res_csc".
    c: A constant correction in place of the trained one of each block; None (the default) trains it.
      Must be None for the rules "resnet" and "plain".
    remat: Which intermediate results of the looped blocks the backward pass recomputes, to save memory.
      "none" keeps everything; "elementwise" recomputes the elementwise operations; "all" keeps only the
      inputs. The default is "elementwise".
    unroll: Number of blocks in each iteration of a stage's loop, >= 1. A stage of no more blocks than
      this has no loop. The default is 1.
    norm: Whether to use batch norm. False replaces it by a bias. The default is True.
    dtype: Type of the convolutions, float32 (the default) or bfloat16. The parameters and the logits are
      float32.

  Raises:
    ValueError: If a field is out of range, or if `c` is given for a rule without correction.

  References:
    He, Zhang, Ren and Sun (2016), Deep residual learning for image recognition.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from cscjax.models import ResCSC
    >>> model = ResCSC(num_classes=10, depth=20)
    >>> x = jnp.zeros((4, 32, 32, 3))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)  # shapes; model.init(...) computes
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    269731
    >>> jax.eval_shape(model.apply, variables, x).shape  # model.apply(variables, x) computes the logits
    (4, 10)
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

  def __post_init__(self) -> None:
    for name in ("num_classes", "width", "unroll"):
      checks.positive_int(name, getattr(self, name))
    if checks.positive_int("depth", self.depth) < 8 or self.depth % 6 != 2:
      checks.fail("depth", self.depth, "6 n + 2 with n >= 1 (8, 14, 20, ...)")
    checks.one_of("remat", self.remat, REMAT)
    check_fields(self.rule, self.c, self.norm)
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x: jax.Array, train: bool = False, return_codes: bool = False
  ) -> jax.Array | tuple[jax.Array, list[jax.Array]]:
    """Classifies a batch.

    Args:
      x: Normalized images [N, H, W, C] or signals [N, L, C].
      train: Whether batch norm uses the statistics of the batch and updates the running ones (pass
        `mutable=["batch_stats"]` to `apply`). `nn.remat` needs it by position, with
        `static_argnums=(2,)`.
      return_codes: Whether to return the codes as well. The default is False.

    Returns:
      The logits [N, num_classes] in float32. If `return_codes` is True, a pair of the logits and a list
      of all blocks' codes.

    Raises:
      ValueError: If `x` has the wrong number of axes, or an axis of size 0.
    """
    check_static("train", train, 2)
    check_static("return_codes", return_codes, 3)
    check_input(x)
    shape = (3,) * (x.ndim - 2) + (x.shape[-1], self.width)
    filters = self.param("filters", nn.initializers.he_normal(), shape).astype(self.dtype)
    x = centred_dictionary(filters).analysis(x.astype(self.dtype))
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
    logits = classify(x, self.num_classes)
    return (logits, codes) if return_codes else logits

  def pursuit_layers(self, x: jax.Array) -> list[CodedLayer]:
    """Returns the dictionary, input and code of each layer, for `cscjax.theory.certify`.

    Call it on a bound model: `model.bind(variables).pursuit_layers(x)`. The dictionaries do not include
    the scale of the batch norm, because neither coherence nor sparsity depends on it. They do not
    include the terms that the second layer of a block adds, X_prev and the correction, either.

    Args:
      x: Normalized images [N, H, W, C] or signals [N, L, C].

    Returns:
      `depth` - 1 objects `CodedLayer` (dictionary, input, code): the first convolution, then the two
      layers of each block, (D_1, X_prev, X) and (D_2, X, code of the block).

    Raises:
      ValueError: If `x` has the wrong number of axes, or an axis of size 0.
    """
    model, variables = self.unbind()
    params = variables["params"]
    found: Any = model.apply(variables, x, return_codes=True, mutable=["intermediates"])
    (_, codes), sown = found
    inner = sown["intermediates"]
    (signal,) = inner["code"]
    layers = [CodedLayer(centred_dictionary(params["filters"]), x.astype(self.dtype), signal)]
    for (stride, block, (middle,)), code in zip(self._blocks(params, inner), codes, strict=True):
      layers.append(CodedLayer(centred_dictionary(block["filters_1"], stride), signal, middle))
      layers.append(CodedLayer(centred_dictionary(block["filters_2"]), middle, code))
      signal = code
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
    shape, rule = tuple(signal_shape), RULES[self.rule]
    first = centred_dictionary(params["filters"])
    gain = analysis_gain(first, slopes(params["norm"], stats.get("norm")), shape)
    shape = (*shape[:-1], self.width)
    sown = {name: {"code": stats.get(name, {})} for name in params}
    for stride, block, own in self._blocks(params, sown):
      conv = centred_dictionary(block["filters_1"], stride)
      middle = analysis_gain(conv, slopes(block["norm_1"], own.get("norm_1")), shape)
      shape = (*(-(-size // stride) for size in shape[:-1]), conv.filters.shape[-1])
      second = centred_dictionary(block["filters_2"])
      update = analysis_gain(second, slopes(block["norm_2"], own.get("norm_2")), shape)
      if rule.correct:
        bound = lipschitz_bound(second, shape)
        c = unfolded_step(block, bound) if self.c is None else abs(self.c)
        middle += c * jnp.sqrt(bound)
      gain *= float(rule.keep) + update * middle
    return margin_gains(gain, math.prod(shape[:-1]), params["classifier"]["kernel"])

  def _blocks(self, params: Any, sown: Any) -> Iterator[tuple[int, Any, Any]]:
    """Yields the stride, the parameters and the sown inner code of each block."""
    for stage in range(3):
      if stage > 0:
        name = f"transition_{stage}"
        yield 2, params[name], sown[name]["code"]
      name = f"stage_{stage}"
      for i in range(self._equal_blocks(stage)):
        block, code = jax.tree.map(lambda leaf, i=i: leaf[i], (params[name], sown[name]["code"]))
        yield 1, block, code

  def _bounds(self, stage: int, sizes: Sequence[int]) -> tuple[jax.Array | None, jax.Array | None]:
    """Returns L of a stage's transition block and of its other blocks, computed in one call.

    Returns (None, None) if no block needs it, and during initialization, when each block computes its
    own.
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
    bounds = jax.vmap(lambda f: lipschitz_bound(centred_dictionary(f), shape))(jnp.concatenate(filters))
    return (bounds[0], bounds[1:]) if stage > 0 else (None, bounds)

  def _equal_blocks(self, stage: int) -> int:
    """Returns the number of blocks of a stage that have stride 1."""
    return (self.depth - 2) // 6 - (stage > 0)

  def _block(self, stage: int, name: str, stride: int = 1) -> ResCSCBlock:
    return ResCSCBlock(
      features=self.width * 2**stage,
      stride=stride,
      rule=self.rule,
      c=self.c,
      norm=self.norm,
      dtype=self.dtype,
      name=name,
    )

  def _scan(self, length: int, train: bool, return_codes: bool) -> Callable[..., Any]:
    """Returns (block, x, bounds) -> (x after `length` blocks with parameters of their own, codes)."""

    def body(
      block: ResCSCBlock, x: jax.Array, bound: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
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
