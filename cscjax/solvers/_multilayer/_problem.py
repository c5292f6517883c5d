"""The multi-layer basis pursuit, with all of its data in units of the signals."""

from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import (
  Code,
  Dictionary,
  as_signal,
  check_dictionary,
  check_one_per_dictionary,
  join,
  with_methods,
)
from cscjax.ops import PyTree, common_float, expand_rank, nonnegative_soft_threshold, soft_threshold
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._signals import per_signal, sum_signals
from cscjax.solvers._penalty import as_penalty, magnitudes
from cscjax.solvers._unrolled import Chain, top_down
from cscjax.solvers._warnings import warn_about_integers


class MultilayerProblem(PyTree):
  """The problem min 1/2 sum mask (x - D_1 code_1)^2 + sum_i beta_i |code_i|, code_{i-1} = D_i code_i.

  Signals, penalties and codes are divided by the unit of each signal, so that squares of the largest and
  the smallest signals stay in the range of float32.

  Attributes:
    dictionaries: The dictionaries D_1, ..., D_K.
    x: Signals, batch axes first, in units; zero where the mask is zero.
    betas: Penalties, in units: for each layer and each part of its code an array that broadcasts.
    zeros: The zero codes of all layers.
    mask: Weights in 0..1 that broadcast against `x`; None if all are 1.
    unit: A power of two near the largest magnitude of each signal, [batch...].
    nonnegative: Whether the codes are constrained to be nonnegative.
  """

  dictionaries: tuple[Dictionary, ...]
  x: jax.Array
  betas: list[Any]
  zeros: list[Code]
  mask: jax.Array | None
  unit: jax.Array
  nonnegative: bool = struct.field(pytree_node=False)

  @classmethod
  def make(
    cls,
    dictionaries: Sequence[Dictionary],
    x: ArrayLike,
    betas: Sequence[Any],
    nonnegative: bool,
    mask: ArrayLike | None = None,
  ) -> Self:
    """Checks the arguments of a multi-layer solver, and raises ValueError if they do not fit."""
    check_one_per_dictionary(dictionaries, betas=betas)
    warn_about_integers("x", x, betas[0])
    for dictionary in dictionaries:
      check_dictionary(dictionary)
    x = checks.real_array("x", x)
    x = x.astype(common_float(x, *jax.tree.leaves([*dictionaries])))  # that of the codes of all layers
    first = Lasso(dictionaries[0], x, 0, mask=mask, nonnegative=nonnegative)
    signal = first.weigh(first.x)  # D_{i-1}^T ... D_1^T mask x
    penalties, zeros = [], []
    for i, (dictionary, beta) in enumerate(zip(dictionaries, betas, strict=True)):
      checks.all_at_least("betas", beta, 0)
      signal = as_signal(dictionary, signal)
      code = dictionary.analysis(signal)
      penalty = as_penalty("betas", beta, magnitudes(code, nonnegative), first.batch_ndim)
      penalties.append(jax.tree.map(lambda b, c: b * per_signal(1 / first.unit, c), penalty, code))
      zeros.append(jax.tree.map(jnp.zeros_like, code))
      if i + 1 < len(dictionaries):  # the parts of the deepest code may differ in shape
        signal = join(code)
    return cls(
      dictionaries=tuple(map(with_methods, dictionaries)),
      x=first.in_units(first.x),
      betas=penalties,
      zeros=zeros,
      mask=first.mask,
      unit=first.unit,
      nonnegative=nonnegative,
    )

  @property
  def batch_ndim(self) -> int:
    """Number of leading axes of `x` that are batch axes."""
    return self.x.ndim - self.dictionaries[0].signal_ndim

  def chain(self, deepest: Code) -> Chain:
    """Returns the codes of all layers that a deepest code implies, and their signals."""
    return top_down(self.dictionaries, deepest, self.zeros, self.x)

  def correlation(self, signal: jax.Array, codes: Sequence[Code] = ()) -> Code:
    """Returns D_K^T (... D_2^T (D_1^T signal + code_1) + code_2 ...), the adjoint of `chain`.

    Args:
      signal: A signal, shaped like `x`.
      codes: Codes of all layers but the deepest one; zero if there are none.
    """
    code = self.dictionaries[0].analysis(signal)
    others = codes or [None] * (len(self.dictionaries) - 1)
    for dictionary, other in zip(self.dictionaries[1:], others, strict=True):
      code = code if other is None else jax.tree.map(jnp.add, code, other)
      code = dictionary.analysis(join(code))
    return code

  def zero_signal(self) -> Self:
    """Returns the problem of a single signal that is zero, without penalties and mask."""

    def zero(tree: Any) -> Any:
      return jax.tree.map(lambda a: jnp.zeros(a.shape[self.batch_ndim :], a.dtype), tree)

    one = jnp.ones((), self.x.dtype)
    return self.replace(x=zero(self.x), betas=[], zeros=zero(self.zeros), mask=None, unit=one)

  def prox(self, i: int, point: Code, step: jax.Array) -> Code:
    """Returns the proximal operator of step beta_i |code_i|; `step` is a scalar or one per signal."""
    shrink = nonnegative_soft_threshold if self.nonnegative else soft_threshold
    return jax.tree.map(lambda p, b: shrink(p, b * per_signal(step, p)), point, self.betas[i])

  def objective(self, reconstruction: jax.Array, codes: Sequence[Code]) -> jax.Array:
    """Returns the objective of codes, given D_1 code_1: [batch...], in unit^2, in float32 or wider."""
    value = 0.5 * self.energy(self.x - reconstruction)
    for code, betas in zip(codes, self.betas, strict=True):
      penalties = jax.tree.map(lambda c, b: sum_signals(b * jnp.abs(c), self.batch_ndim), code, betas)
      value += sum(jax.tree.leaves(penalties))
    return value

  def weigh(self, signal: jax.Array) -> jax.Array:
    """Returns the mask times a signal."""
    return signal if self.mask is None else self.mask * signal

  def energy(self, signal: jax.Array) -> jax.Array:
    """Returns sum mask signal^2 for each signal: [batch...]."""
    return sum_signals(self.weigh(jnp.square(signal)), self.batch_ndim)

  def scaled_back(self, codes: list[Code]) -> list[Code]:
    """Converts codes to the scale of the signals."""
    return jax.tree.map(lambda c: c * per_signal(self.unit, c), codes)

  def squares_scaled_back(self, trace: jax.Array) -> jax.Array:
    """Converts values in unit^2, [..., batch...], to the scale and the type of the signals."""
    unit = expand_rank(self.unit.astype(trace.dtype), trace.ndim)
    return (trace * unit * unit).astype(self.x.dtype)
