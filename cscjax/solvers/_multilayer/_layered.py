"""Layered thresholding and layered basis pursuit: one layer after the other."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import Code, Dictionary, as_signal, check_one_per_dictionary, join, with_methods
from cscjax.ops import common_float, highest_precision, nonnegative_soft_threshold, soft_threshold
from cscjax.solvers._arguments import as_step
from cscjax.solvers._callbacks import Callback
from cscjax.solvers._lasso._iterate import SolverResult
from cscjax.solvers._lasso._problem import Lasso
from cscjax.solvers._lasso._proximal_gradient import FISTA, ISTA
from cscjax.solvers._multilayer._result import MultilayerResult, layer_statistics
from cscjax.solvers._penalty import as_penalty, magnitudes
from cscjax.solvers._steps import SOLVERS
from cscjax.solvers._warnings import warn_about_signals


@highest_precision
def layered_thresholding(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[ArrayLike],
  *,
  steps: Sequence[ArrayLike] | None = None,
  nonnegative: bool = False,
) -> list[Code]:
  """Encodes a signal with layered thresholding: one ISTA iteration from the zero code in each layer.

  The code of a layer is the signal of the next one (eq. 3 of Zhang & Zhang 2020):

      code_i = S_{beta_i step_i}(step_i D_i^T code_{i-1}),   code_0 = x

  S_b is the soft threshold. With `nonnegative=True` and steps of 1, the codes are the features of a
  plain convolutional network with filters D_i, biases -beta_i and ReLUs; with `IdentityAugmented`
  dictionaries, they are those of an MSDNet (Proposition 1 there). If a code has several parts, they are
  concatenated along the channels to be the signal of the next layer.

  Args:
    dictionaries: The dictionaries D_1, ..., D_K. The signals of D_1 are shaped like `x`, and the signals
      of each other dictionary are the codes of the previous one.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    betas: Penalties, one entry per layer: a scalar, one value per channel, or an array that broadcasts
      against the code. A code of several parts takes one entry for all parts, or a tuple of one for
      each. Nonnegative, unless `nonnegative=True`: the bias of a ReLU may have either sign.
      `cscjax.relative(0.1)` is a tenth of the smallest penalty for which the code is zero.
    steps: Step sizes, one scalar per layer, positive. If None, each is 1/L by `lipschitz`, and no
      gradient flows through it.
    nonnegative: Whether to use the nonnegative soft threshold, a ReLU with a bias: True or False for
      all layers.

  Returns:
    A list of the codes of all layers, the deepest one last.

  Raises:
    ValueError: If the numbers of dictionaries, `betas` and `steps` differ, a value is out of range, or
      shapes do not fit.

  References:
    Papyan, V., Romano, Y. & Elad, M. (2017). Convolutional neural networks analyzed via convolutional
    sparse coding. Journal of Machine Learning Research 18(83).

    Zhang, Z. & Zhang, S. (2020). Towards understanding residual and dilated dense neural networks via
    convolutional sparse coding. National Science Review 8(3).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> first = cscjax.ConvDictionary(jax.random.normal(jax.random.key(0), (3, 3, 1, 4)), stride=2)
    >>> second = cscjax.ConvDictionary(jax.random.normal(jax.random.key(1), (3, 3, 4, 8)), stride=2)
    >>> x = jnp.ones((16, 16, 1))
    >>> betas = [jnp.full(4, 0.1), jnp.full(8, 0.2)]  # one bias per channel, as in a CNN with ReLUs
    >>> codes = cscjax.layered_thresholding(
    ...   [first, second], x, betas, steps=[1.0, 1.0], nonnegative=True
    ... )
    >>> [code.shape for code in codes]
    [(8, 8, 4), (4, 4, 8)]
  """
  check_one_per_dictionary(dictionaries, betas=betas, **({} if steps is None else {"steps": steps}))
  shrink = nonnegative_soft_threshold if checks.boolean("nonnegative", nonnegative) else soft_threshold
  codes, given = [], x
  for i, dictionary in enumerate(dictionaries):
    x = as_signal(dictionary, x)
    checks.all_at_least("betas", betas[i], -math.inf if nonnegative else 0)
    if i == 0:
      warn_about_signals(given, betas[0], dictionary.signal_ndim)
    step = as_step("steps", None if steps is None else steps[i], dictionary, x)
    code = dictionary.analysis(x)
    batch_ndim = x.ndim - dictionary.signal_ndim
    beta = as_penalty("betas", betas[i], magnitudes(code, nonnegative), batch_ndim)
    code = jax.tree.map(lambda c, step=step: step * c, code)
    code = jax.tree.map(lambda c, b, step=step: shrink(c, b * step), code, beta)
    codes.append(code)
    x = join(code)
  return codes


@highest_precision
def layered_bp(
  dictionaries: Sequence[Dictionary],
  x: ArrayLike,
  betas: Sequence[Any],
  *,
  iterations: int = 100,
  steps: Sequence[ArrayLike] | None = None,
  nonnegative: bool = False,
  solver: str = "fista",
  callback: Callback | None = None,
  progress: bool = False,
) -> MultilayerResult:
  """Encodes a signal with layered basis pursuit (Papyan et al. 2017): solves one layer after the other.

  The code of a layer is the signal of the next one:

      code_i = argmin_code 1/2 ||code_{i-1} - D_i code||^2 + beta_i ||code||_1,   code_0 = x

  If a code has several parts, they are concatenated along the channels to be the signal of the next
  layer.

  Args:
    dictionaries: The dictionaries D_1, ..., D_K. The signals of D_1 are shaped like `x`, and the signals
      of each other dictionary are the codes of the previous one.
    x: Signal of shape [..., H, W, C] ([..., L, C] in one dimension, [..., D, H, W, C] in three, [..., n]
      for a dense dictionary).
    betas: Penalties, one entry per layer, nonnegative: a scalar, one value per channel, or an array that
      broadcasts against the code. A code of several parts takes one entry for all parts, or one for
      each. `cscjax.relative(0.1)` is a tenth of the smallest penalty for which the code is zero.
    iterations: Number of iterations in each layer, nonnegative.
    steps: Step sizes, one scalar per layer, positive. If None, each is 1/L by `lipschitz`, and no
      gradient flows through it.
    nonnegative: Whether the codes of all layers are constrained to be nonnegative: True or False.
    solver: The solver of each layer, `"fista"` or `"ista"`.
    callback: A function that is called with an `IterationStats` after every 10 iterations of a layer and
      after the last one: the number of iterations in this layer, the objective and the relative gradient
      mapping. It is called by `jax.debug.callback`, also under `jax.jit`; `IterationStats` describes the
      other transformations. Calls with the same function object share their compilation. None costs
      nothing.
    progress: Whether to show a progress bar for each layer on stderr, with the mean objective and the
      largest gradient mapping over the batch. This needs tqdm, which the extra `progress` installs.

  Returns:
    A `MultilayerResult`: the codes, the objective of each layer after each iteration, whether the solver
    diverged in any layer, and the residual and the number of nonzeros of each layer.

  Raises:
    ValueError: If the numbers of dictionaries, `betas` and `steps` differ, a value is out of range,
      `solver` is unknown, or shapes do not fit.
    MissingExtraError: If `progress` is True and tqdm is not installed.

  References:
    Papyan, V., Romano, Y. & Elad, M. (2017). Convolutional neural networks analyzed via convolutional
    sparse coding. Journal of Machine Learning Research 18(83).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> first = cscjax.MatrixDictionary(jax.random.normal(jax.random.key(0), (16, 24)) / 4)
    >>> second = cscjax.MatrixDictionary(jax.random.normal(jax.random.key(1), (24, 32)) / 5)
    >>> result = cscjax.layered_bp([first, second], jnp.ones(16), [0.1, 0.1], iterations=50)
    >>> [code.shape for code in result.codes], result.objective.shape
    ([(24,), (32,)], (2, 51))
  """
  check_one_per_dictionary(dictionaries, betas=betas, **({} if steps is None else {"steps": steps}))
  checks.all_at_least("betas", betas, 0)
  checks.boolean("nonnegative", nonnegative)
  given = [None] * len(dictionaries) if steps is None else steps
  method = {"ista": ISTA, "fista": FISTA}[checks.one_of("solver", solver, SOLVERS)]
  title = checks.boolean("progress", progress) and "layered_bp"
  results: list[SolverResult] = []
  signal = x
  for dictionary, beta, step in zip(dictionaries, betas, given, strict=True):
    problem = Lasso(dictionary, signal, beta, nonnegative=nonnegative)
    result = method(step).run(problem, iterations=iterations, callback=callback, progress=title)
    results.append(result)
    signal = join(result.code)
  objectives = [jnp.asarray(result.objective) for result in results]
  dtype = common_float(*objectives)
  codes = [result.code for result in results]
  x = as_signal(dictionaries[0], x)
  residuals, support_sizes = layer_statistics([with_methods(d) for d in dictionaries], x, codes)
  return MultilayerResult(
    codes=codes,
    objective=jnp.stack([objective.astype(dtype) for objective in objectives]),
    iterations=results[0].iterations,
    converged=None,
    diverged=jnp.any(jnp.stack([result.diverged for result in results]), axis=0),
    gap=None,
    residuals=residuals,
    support_sizes=support_sizes,
  )
