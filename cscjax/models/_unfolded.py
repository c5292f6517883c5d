"""The base class of the unfolded layers, and the pursuit that codes a signal over several of them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cscjax import checks
from cscjax.dictionaries import Code, ConvDictionary, Dictionary, IdentityAugmented, lipschitz_bound
from cscjax.models._input import check_static, warn_about_integers
from cscjax.models._norms import shared_norms
from cscjax.models._spectral import STEPS, trained_step
from cscjax.ops import expand_rank, integers_per_axis
from cscjax.solvers import SOLVERS, Prox, layered_pursuit, multilayer_pursuit

PURSUITS = {"layer": layered_pursuit, "multilayer": multilayer_pursuit}
"""The functions that code over several layers, by their names in the field `pursuit` of a network."""


class LayerProblem(NamedTuple):
  """A layer's part in a pursuit.

  Attributes:
    dictionary: The dictionary, in the type of the convolutions.
    proxes: One threshold function for each iteration.
    step: Step of the iterations after the first one, a scalar; 0 if there are none.
  """

  dictionary: Dictionary
  proxes: list[Prox]
  step: jax.Array | float


class UnfoldedLayer(nn.Module):
  """A layer that codes its input by layered thresholding and `unfolding` further iterations.

      first iteration         code = relu(N_0(D^T x))
      each further iteration  code <- relu(N_k(code - step D^T (D code - x)))

  N_k is a batch norm whose bias is the negative threshold (eq. 2). All N_k share scale and bias, so that
  the number of parameters does not grow with the unfolding (also called unrolling), and each keeps its
  own running statistics. The step is 2 sigmoid(k) / L, where k is trained from 0 and L is the upper
  bound `lipschitz_bound` of lambda_max(D^T D) for the current filters. No gradient flows through L.

  Without batch norm, and with the solver "ista", no iteration increases the objective: each one is an
  iteration of ISTA for 1/2 ||x - D code||^2 + sum_j beta_j code_j over code >= 0, with
  beta = -bias / step, and the step is below 2 / lambda_max(D^T D). The objective can grow with batch
  norm, which rescales the code in each iteration, with FISTA, which extrapolates, and with step="free",
  because that step has no bound.

  Signed codes replace the ReLU by the soft threshold, see `two_sided_relu`.

  Attributes:
    width: Number of channels of the new code, >= 1.
    unfolding: Number of iterations after the first one, >= 0. The default is 0.
    solver: "ista" or "fista". The two differ from `unfolding` 2 on. The default is "ista".
    step: How the step is trained: "bounded" as above, or "free", the step itself, from 1. The default is
      "bounded".
    norm: Whether to use batch norm. False replaces it by a bias. The default is True.
    dtype: Type of the convolutions, float32 (the default) or bfloat16. The running statistics and L are
      float32.
    kernel: Number of taps of the filters, >= 1: one integer, or one per spatial axis. The default is 3.
    dilation: Step between the taps, >= 1: one integer, or one per spatial axis. The default is 1.
    nonnegative: Whether the new code is nonnegative. The default is True.
    filters_init: Initializer of the filters, as in `flax.linen.initializers`. The default is
      `he_normal()`.
    param_dtype: Type of the parameters. The default is JAX's default type, float32.

  Raises:
    ValueError: If a field is out of range.
  """

  width: int
  unfolding: int = 0
  solver: str = "ista"
  step: str = "bounded"
  norm: bool = True
  dtype: Any = jnp.float32
  kernel: int | tuple[int, ...] = 3
  dilation: int | tuple[int, ...] = 1
  nonnegative: bool = True
  filters_init: nn.initializers.Initializer = nn.initializers.he_normal()
  param_dtype: Any = float

  def __post_init__(self) -> None:
    for name in ("kernel", "dilation"):  # hashable, as jax.jit requires of a module
      object.__setattr__(self, name, integers_per_axis(name, getattr(self, name)))
    checks.positive_int("width", self.width)
    checks.int_at_least("unfolding", self.unfolding, 0)
    checks.one_of("solver", self.solver, SOLVERS)
    checks.one_of("step", self.step, STEPS)
    for name in ("norm", "nonnegative"):
      checks.boolean(name, getattr(self, name))
    super().__post_init__()

  def __call__(self, x: jax.Array, train: bool = False) -> Code:
    """Codes a batch.

    Args:
      x: Images [N, H, W, C] or signals [N, L, C].
      train: Whether batch norm uses the statistics of the batch and updates the running ones (pass
        `mutable=["batch_stats"]` to `apply`). `nn.remat` needs it by position, with
        `static_argnums=(2,)`.

    Returns:
      The code.

    Raises:
      ValueError: If a field does not fit the number of axes of `x`, or if `train` is True and the
        running statistics cannot be updated.
    """
    check_static("train", train, 2)
    warn_about_integers(x)
    return pursue([self], x, solver=self.solver, train=train)[0]

  def problem(self, shape: tuple[int, ...], *, train: bool = False) -> LayerProblem:
    """Returns the layer's part in a pursuit: its dictionary, its thresholds and its step.

    Args:
      shape: Shape of the layer's input, with the batch.
      train: Whether batch norm uses the statistics of the batch and updates the running ones.

    Returns:
      A tuple (dictionary, proxes, step) of the dictionary, one threshold function for each iteration and
      the step of the iterations after the first one (0 if there are none).
    """
    raise NotImplementedError

  def _filters(
    self, name: str, shape: tuple[int, ...], initializer: nn.initializers.Initializer
  ) -> jax.Array:
    """Returns a parameter [kernel..., C, width] for an input of this shape."""
    rank = len(shape) - 2
    taps = self.kernel if isinstance(self.kernel, tuple) else (self.kernel,) * rank
    if len(taps) != rank:
      checks.fail("kernel", self.kernel, f"one integer >= 1, or {rank} of them")
    return self.param(name, initializer, (*taps, shape[-1], self.width), self.param_dtype)

  def _thresholds(self, train: bool) -> list[Prox]:
    """Returns the threshold function of N_k for each iteration k."""
    norms = shared_norms(
      self, self.width, self.unfolding + 1, norm=self.norm, train=train, dtype=self.param_dtype
    )
    bias = self.get_variable("params", "bias")

    def threshold(norm: Callable[[jax.Array], jax.Array], z: jax.Array) -> jax.Array:
      z = norm(z)
      return (nn.relu(z) if self.nonnegative else two_sided_relu(z, bias)).astype(self.dtype)

    return [partial(threshold, norm) for norm in norms]

  def _step(
    self, dictionary: ConvDictionary | IdentityAugmented, shape: tuple[int, ...]
  ) -> jax.Array | float:
    """Returns the trained step, 0 if there is no iteration that needs it."""
    if self.unfolding == 0:
      return 0.0
    bound = lipschitz_bound(dictionary, shape[1:])
    return trained_step(self, bound, kind=self.step, dtype=self.param_dtype).astype(self.dtype)


def two_sided_relu(z: jax.Array, bias: jax.Array) -> jax.Array:
  """Returns relu(n + bias) - relu(-n + bias), where z = n + bias.

  For a bias <= 0 this is the soft threshold of n with threshold -bias, as relu(n + bias) is the
  nonnegative one. It is continuous for every bias, and its derivative with respect to a bias of 0, from
  which a bias is trained, is sign(n). For a bias > 0, sign(n) relu(|n| + bias) would jump at n = 0.

  Args:
    z: The sum n + bias, an array [N, ..., C].
    bias: The bias of each channel [C].

  Returns:
    An array of the shape and type of `z`.
  """
  return nn.relu(z) - nn.relu(expand_rank(2 * bias.astype(z.dtype), z.ndim) - z)


def pursue(
  layers: Sequence[UnfoldedLayer],
  x: jax.Array,
  *,
  pursuit: str = "layer",
  solver: str = "ista",
  train: bool = False,
) -> list[Code]:
  """Codes `x` over several layers, each of which codes the code of the layer below.

  Args:
    layers: Bound modules of equal `unfolding` and `dtype`.
    x: Input of the first layer.
    pursuit: "layer" performs all iterations of a layer before the first one of the next layer;
      "multilayer" goes through all layers in each iteration, see `multilayer_pursuit`.
    solver: "ista" or "fista".
    train: Whether batch norm uses the statistics of the batch and updates the running ones.

  Returns:
    The code of each layer.
  """
  problems, signal = [], jax.ShapeDtypeStruct(x.shape, layers[0].dtype)
  for layer in layers:
    problems.append(layer.problem(signal.shape, train=train))
    parts = jax.tree.leaves(jax.eval_shape(problems[-1].dictionary.analysis, signal))
    channels = sum(part.shape[-1] for part in parts)
    signal = jax.ShapeDtypeStruct((*parts[0].shape[:-1], channels), layer.dtype)
  dictionaries, proxes, steps = zip(*problems, strict=True)
  return PURSUITS[pursuit](dictionaries, x.astype(layers[0].dtype), proxes, steps=steps, solver=solver)
