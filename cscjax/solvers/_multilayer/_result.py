"""The result that the solvers of several layers share, and what it tells about each layer."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cscjax.dictionaries import Code, Dictionary, join
from cscjax.ops import compact_repr, norm
from cscjax.solvers._lasso._algorithm import relative_size
from cscjax.solvers._lasso._signals import count_nonzeros


class MultilayerResult(NamedTuple):
  """The result of a multi-layer solver.

  The traces (`objective` and `gap`) end with the last iteration. Under `jax.jit` and other
  transformations, where shapes cannot depend on values, traces with a tolerance have the length of
  `max_iterations` and repeat their last value after the stop.

  Attributes:
    codes: The codes of all layers, the deepest one last, with the batch axes of the signal.
    objective: The objective of each signal before the first iteration and after each iteration:
      [iterations + 1, batch...]. In `layered_bp`, each layer has an objective of its own: [layers,
      iterations + 1, batch...].
    iterations: Number of iterations (of each layer, for `layered_bp`; of atoms of each signal,
      [batch...], for `ml_projection`), int32.
    converged: Whether the stopping criterion has been within the tolerance, for each signal: [batch...].
      None without a tolerance.
    diverged: Whether the final objective (of any layer, for `layered_bp`) is not finite, or more than
      twice that of the zero code: [batch...]. If so, a step was too large.
    gap: The relative duality gap of `ml_bp` after each iteration, [iterations, batch...]: the difference
      between the objective and the largest dual value found so far, as a fraction of the objective. None
      for all other solvers.
    residuals: The residual of each layer, ||code_{i-1} - D_i code_i|| with code_0 = x, as a fraction of
      the larger of the two norms: [layers, batch...]. The first one tells how well the codes fit the
      signal. All others are violations of the constraints code_{i-1} = D_i code_i of the multi-layer
      model.
    support_sizes: Number of nonzero coefficients of each layer, int32 [layers, batch...].
  """

  codes: list[Code]
  objective: jax.Array
  iterations: jax.Array
  converged: jax.Array | None
  diverged: jax.Array
  gap: jax.Array | None
  residuals: jax.Array
  support_sizes: jax.Array

  def __repr__(self) -> str:
    return compact_repr(self, traces=("gap",))


RESULT_LAYOUT = MultilayerResult._make((0, 1, -1, 0, 0, 1, 1, 1))
"""Positions of the batch axes, for `cscjax.ops.shard_batch`."""


@jax.jit
def layer_statistics(
  dictionaries: Sequence[Dictionary], x: jax.Array, codes: Sequence[Code]
) -> tuple[jax.Array, jax.Array]:
  """Returns the relative residuals and the support sizes of all layers, each [layers, batch...]."""
  batch_ndim = x.ndim - dictionaries[0].signal_ndim
  residuals, sizes, signal = [], [], x
  for dictionary, code in zip(dictionaries, codes, strict=True):
    axes = tuple(range(batch_ndim, signal.ndim))
    reconstruction = dictionary.synthesis(code, signal.shape)
    larger = jnp.maximum(norm(signal, axes), norm(reconstruction, axes))
    residuals.append(relative_size(norm(signal - reconstruction, axes), larger).astype(x.dtype))
    sizes.append(count_nonzeros(code, batch_ndim))
    if len(sizes) < len(codes):  # the parts of the deepest code may differ in shape
      signal = join(code)
  return jnp.stack(residuals), jnp.stack(sizes)
