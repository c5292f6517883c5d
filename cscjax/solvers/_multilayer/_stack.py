"""The maps from the deepest code to the codes of all other layers, as one map, and its norm."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from cscjax.dictionaries import Code, lipschitz
from cscjax.ops import PyTree, at_least_float32, power_iteration
from cscjax.solvers._multilayer._problem import MultilayerProblem

NORM_TOLERANCE = 0.1  # tolerance of the norm that bounds the steps: a step may be 5 % too short
BLOCK_ITERATIONS = 5  # iterations of the power method for the norm of a block, which is only a scale


class StackImage(NamedTuple):
  """The image A g of a deepest code g, or a point of the same space.

  Attributes:
    signal: D_1 ... D_K g.
    codes: The codes of all layers but the deepest, D_{i+1} ... D_K g.
  """

  signal: jax.Array
  codes: list[Code]


def stack_image(problem: MultilayerProblem, deepest: Code) -> StackImage:
  """Returns A g, from the deepest layer to the signal."""
  chain = problem.chain(deepest)
  return StackImage(chain.signals[0], chain.points[:-1])


class _Stack(PyTree):
  """The adjoint of diag(sqrt(scales)) A for one signal, as a dictionary with flat signals.

  Its signals are deepest codes and its codes are images, so that `lipschitz` computes ||A^T diag(scales)
  A||.

  Attributes:
    problem: The problem of one signal.
    scales: Weights of the blocks of A.
  """

  problem: MultilayerProblem
  scales: list[jax.Array]

  signal_ndim = 1

  def analysis(self, x: jax.Array) -> StackImage:
    """Returns diag(sqrt(scales)) A x."""
    if x.ndim > 1:
      return jax.vmap(self.analysis)(x)
    _, unravel = ravel_pytree(self.problem.zeros[-1])
    return self._scaled(stack_image(self.problem, unravel(x)))

  def synthesis(self, code: StackImage, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Returns A^T diag(sqrt(scales)) code."""
    if code.signal.ndim > self.problem.x.ndim:
      return jax.vmap(self.synthesis)(code)
    return ravel_pytree(self.problem.correlation(*self._scaled(code)))[0]

  def residual(self, code: StackImage, x: jax.Array) -> jax.Array:
    """Returns the synthesis minus x."""
    return self.synthesis(code) - x

  def _scaled(self, image: StackImage) -> StackImage:
    roots = [jnp.sqrt(scale) for scale in self.scales]
    codes = [
      jax.tree.map(lambda c, root=root: c * root.astype(c.dtype), code)
      for code, root in zip(image.codes, roots[1:], strict=True)
    ]
    return StackImage(image.signal * roots[0].astype(image.signal.dtype), codes)


@jax.jit
def stack_norms(problem: MultilayerProblem) -> tuple[list[jax.Array], jax.Array]:
  """Returns scales that give the blocks of A about the same norm, and L = ||A^T diag(scales) A||."""
  single = lax.stop_gradient(problem.zero_signal())
  deepest, unravel = ravel_pytree(single.zeros[-1])
  start = unravel(
    jax.random.normal(jax.random.key(0, impl="threefry2x32"), deepest.shape, deepest.dtype)
  )

  def block_norm(i: int) -> jax.Array:
    def gram(code: Code) -> Code:
      image = stack_image(single, code)
      blocks = [
        block if j == i else jax.tree.map(jnp.zeros_like, block)
        for j, block in enumerate((image.signal, *image.codes))
      ]
      return single.correlation(blocks[0], blocks[1:])

    return power_iteration(gram, start, BLOCK_ITERATIONS)[0]

  norms = [block_norm(i) for i in range(len(problem.dictionaries))]
  scales = [jnp.where((n > 0) & (norms[0] > 0), norms[0] / jnp.where(n > 0, n, 1), 1) for n in norms]
  norm = lipschitz(_Stack(single, scales), deepest.shape, tolerance=NORM_TOLERANCE)
  precise = at_least_float32(problem.x.dtype)
  return [scale.astype(precise) for scale in scales], jnp.where(norm > 0, norm, 1).astype(precise)
