"""The block of two layers of Res-CSC, and the rules by which its special cases differ."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cscjax import checks
from cscjax.dictionaries import ConvDictionary, lipschitz_bound
from cscjax.models._input import check_static
from cscjax.models._norms import Norm
from cscjax.models._spectral import trained_step
from cscjax.solvers import initialized_thresholding


class Rule(NamedTuple):
  """The terms that the second layer of a block adds to the analysis D^T X (eq. 5).

  Attributes:
    keep: Whether it adds X_prev.
    correct: Whether it adds the correction c D^T D X_prev.
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
  """A block of two layers, the second of which is a proximal gradient step from X_prev (eq. 4, 5).

  From the code X_prev of the block below, the block computes

      first layer   X = relu(N_1(D_1^T X_prev))
      second layer  relu(X_prev + N_2(D_2^T (X + c D_2 X_prev)))     (rule "res_csc")

  N_1 and N_2 are batch norms. The other rules leave out terms of the second layer: "resnet" has no
  c D_2 X_prev, "simplified" does not add X_prev, and "plain" has neither. The correction is
  c = -2 sigmoid(k) / L, where k is trained from 0 and L is an upper bound of lambda_max(D_2^T D_2) for
  the current filters. No gradient flows through L.

  Attributes:
    features: Number of channels of the code, at least that of the input.
    stride: Stride of D_1, >= 1. X_prev is subsampled by the same factor, and padded with channels of
      zeros. The default is 1.
    rule: "res_csc", "resnet", "simplified" or "plain". The default is "res_csc".
    c: A constant correction in place of the trained one; None (the default) trains it.
    norm: Whether to use batch norm. False replaces it by a bias. The default is True.
    dtype: Type of the convolutions, float32 (the default) or bfloat16. The parameters, the running
      statistics and L are float32.

  Raises:
    ValueError: If a field is out of range, if `c` is given for a rule without correction, or if the
      input has more channels than `features`.

  Example:
    >>> import jax
    >>> from cscjax.models import ResCSCBlock
    >>> block = ResCSCBlock(features=8, stride=2)
    >>> x = jax.random.normal(jax.random.key(0), (4, 12, 12, 4))
    >>> variables = jax.jit(block.init)(jax.random.key(1), x)
    >>> jax.jit(block.apply)(variables, x).shape
    (4, 6, 6, 8)
    >>> sorted(variables["params"])
    ['filters_1', 'filters_2', 'norm_1', 'norm_2', 'step_logit']
  """

  features: int
  stride: int = 1
  rule: str = "res_csc"
  c: float | None = None
  norm: bool = True
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    for name in ("features", "stride"):
      checks.positive_int(name, getattr(self, name))
    check_fields(self.rule, self.c, self.norm)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, *, bound: jax.Array | None = None) -> jax.Array:
    """Returns the code of the block.

    Args:
      x: The code X_prev of the block below, [N, H, W, C] or [N, L, C].
      train: Whether batch norm uses the statistics of the batch and updates the running ones. `nn.remat`
        needs it by position, with `static_argnums=(2,)`.
      bound: L, if a network has computed it for several blocks at once; None computes it here.

    Returns:
      The code [N, H / stride, W / stride, features], with the sizes rounded up.
    """
    check_static("train", train, 2)
    if x.shape[-1] > self.features:
      checks.fail("features", self.features, f"at least {x.shape[-1]}, the channels of the input")
    rank, initializer = x.ndim - 2, nn.initializers.he_normal()
    shape = (3,) * rank + (x.shape[-1], self.features)
    filters = self.param("filters_1", initializer, shape)
    first = centred_dictionary(filters.astype(self.dtype), self.stride)
    filters = self.param("filters_2", initializer, (*shape[:-2], self.features, self.features))
    second = centred_dictionary(filters.astype(self.dtype))
    code = nn.relu(self._norm("norm_1")(first.analysis(x), train=train))
    self.sow("intermediates", "code", code)  # for `pursuit_layers`; unused otherwise
    rule, c = RULES[self.rule], None
    if rule.correct:
      c = self.c
      if c is None:
        if bound is None:
          bound = lipschitz_bound(centred_dictionary(filters), code.shape[1:])
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

  def _norm(self, name: str) -> Norm:
    return Norm(self.norm, self.dtype, name=name)


def check_fields(rule: str, c: float | None, norm: bool) -> None:
  """Checks the fields that a block and its network share."""
  checks.one_of("rule", rule, RULES)
  checks.boolean("norm", norm)
  if c is not None:
    checks.in_range("c", c, -math.inf)
    if not RULES[rule].correct:
      checks.fail("c", c, f"None, because the rule {rule!r} has no correction")


def centred_dictionary(filters: jax.Array, stride: int = 1) -> ConvDictionary:
  """Returns a dictionary whose atoms are centred on the positions that `shortcut` keeps.

  This is the padding of the ResNet authors' code. "SAME" would centre them one pixel further for stride
  2 and even sizes.
  """
  return ConvDictionary(filters, stride=stride, padding=((1, 1),) * (filters.ndim - 2))


def shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
  """Returns `x` subsampled and padded with channels of zeros (He et al. 2016, option A).

  Args:
    x: Array [N, H, W, C] or [N, L, C].
    features: Number of channels of the result, >= C.
    stride: Every `stride`-th position is kept.
  """
  x = x[(slice(None), *(slice(None, None, stride) for _ in range(x.ndim - 2)))]
  return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, features - x.shape[-1])])
