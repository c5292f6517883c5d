"""The simulation behind Figure 3: classifiers with two dense layers, and the dimensions of X they lose.

A layer codes its signal over a dense dictionary, which is D_i for ML-CSC and [I, F_i^T] for MSD-CSC,
with a fixed penalty. A linear classifier reads the last code. As in Definition 1, the count of failed
dimensions uses the penalty of the pursuit. The step size of a pursuit is 1/L of the current dictionary.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cscjax import (
  ConvDictionary,
  Dictionary,
  IdentityAugmented,
  failed_dimensions,
  fista,
  lipschitz,
)
from cscjax.data import Dataset
from cscjax.dictionaries import Code, join, split
from cscjax.ops import power_iteration
from cscjax.runs import KEYS
from cscjax.solvers import Differentiate

MODELS = ("ml_csc", "msd_csc")
LAYERS = 2
BATCH_SIZE = 128
MOMENTUM = 0.9
POWER_ITERATIONS = 10  # in each training iteration
MARGIN = 1.01  # factor for L, because the power method approaches it from below


Steps = Sequence[jax.Array]  # step size of each layer


class Pursuit(NamedTuple):
  """Settings of the pursuit, which codes the layers one after the other with FISTA from the code 0.

  One iteration is layered thresholding (eq. 3); many iterations solve the Lasso of each layer.

  Attributes:
    iterations: Number of iterations, at least 1.
    nonnegative: Whether the codes are nonnegative.
    differentiate: How `cscjax.fista` is differentiated: "unrolled" through the iterations, or "implicit"
      as the derivative of the Lasso's solution.
  """

  iterations: int
  nonnegative: bool
  differentiate: Differentiate = "unrolled"


class Parameters(NamedTuple):
  """Parameters of a network.

  Attributes:
    filters: Atoms of each layer, shape [1, n, width]. They are the columns of an [n, width] matrix,
      stored as the filters of a convolution over signals [1, n] of length 1; n is the dimension of X in
      the first layer and the size of the first code in the second layer.
    kernel: Weights of the classifier, shape [size of the last code, classes].
    bias: Bias of the classifier, shape [classes].
    scale: Scalar factor of the last code before the classifier. It is not trained: it is 1 / the root
      mean square of the codes of the first minibatch, so that one learning rate suits all models and
      pursuits. (Each layer of the forward pass scales its code by 1/L.)
  """

  filters: list[jax.Array]
  kernel: jax.Array
  bias: jax.Array
  scale: jax.Array


class History(NamedTuple):
  """The training of a network.

  Attributes:
    params: Parameters after the last iteration.
    failed: Failed dimensions of X before the first iteration and after each iteration, mean over the
      samples, shape [iterations + 1, 2]: those of D_1 code_1 (Definition 1 in layer 1), and those of
      D_1 D_2 code_2.
    loss: Cross-entropy of each minibatch, shape [iterations].
  """

  params: Parameters
  failed: jax.Array
  loss: jax.Array


class Evaluation(NamedTuple):
  """The evaluation of a network on a set of points.

  Attributes:
    failed: Failed dimensions of each point, shape [N, 2], of the reconstructions D_1 code_1 and
      D_1 D_2 code_2.
    accuracy: Accuracy in 0..1.
  """

  failed: jax.Array
  accuracy: jax.Array


def initial(
  model: str, key: jax.Array, *, width: int, dimension: int = 100, num_classes: int = 100
) -> Parameters:
  """Returns random parameters: atoms of mean squared norm 1, classifier weights of variance 1 / inputs.

  Args:
    model: One of `MODELS`.
    key: Random key.
    width: Number of atoms of each layer, without those of the identity.
    dimension: Dimension of X.
    num_classes: Number of classes.
  """
  *layer_keys, key = jax.random.split(key, LAYERS + 1)
  filters, size = [], dimension
  for layer_key in layer_keys:
    filters.append(jax.random.normal(layer_key, (1, size, width)) / size**0.5)
    size = width + (size if model == "msd_csc" else 0)
  kernel = jax.random.normal(key, (size, num_classes)) / size**0.5
  return Parameters(filters, kernel, jnp.zeros(num_classes), jnp.ones(()))


def dictionaries(model: str, filters: Sequence[jax.Array]) -> list[Dictionary]:
  """Returns the dictionaries D_1 and D_2 of a model, for signals [..., 1, n]."""
  convs = [ConvDictionary(f) for f in filters]
  return list(convs) if model == "ml_csc" else [IdentityAugmented(conv) for conv in convs]


def inverse_lipschitz(filters: Sequence[jax.Array], model: str) -> list[jax.Array]:
  """Returns the step size 1/L of each layer, or up to 1 % less."""
  layers = dictionaries(model, filters)
  return [1 / lipschitz(d, f.shape[:-1]) for d, f in zip(layers, filters, strict=True)]


def follow_lipschitz(
  filters: Sequence[jax.Array], model: str, vectors: Sequence[jax.Array], iterations: int
) -> tuple[list[jax.Array], list[jax.Array]]:
  """Updates the step sizes 1/L by the power method, started at the vectors of the last iteration.

  This is far cheaper than `inverse_lipschitz`. The power method underestimates L; `MARGIN` compensates.

  Args:
    filters: Atoms of each layer.
    model: One of `MODELS`.
    vectors: Start vector [1, n] of each layer.
    iterations: Number of power iterations.

  Returns:
    1/L of each layer, and the vectors [1, n] to continue from.
  """
  steps, new_vectors = [], []
  for f, start in zip(filters, vectors, strict=True):
    conv = ConvDictionary(f)
    bound, vector = power_iteration(lambda v, d=conv: d.synthesis(d.analysis(v)), start, iterations)
    steps.append(1 / (MARGIN * bound + float(model == "msd_csc")))  # Lemma 2
    new_vectors.append(vector)
  return steps, new_vectors


def pursue(
  layers: Sequence[Dictionary],
  x: jax.Array,
  betas: Sequence[jax.Array],
  steps: Sequence[jax.Array],
  pursuit: Pursuit,
) -> list[Code]:
  """Returns the code of each layer for signals [N, 1, n]."""
  codes = []
  for dictionary, beta, step in zip(layers, betas, steps, strict=True):
    found = fista(dictionary, x, beta, step=step, record=(), **pursuit._asdict())
    codes.append(found.code)
    x = join(found.code)
  return codes


def count_failed(
  layers: Sequence[Dictionary], codes: Sequence[Code], x: jax.Array, beta: jax.Array
) -> jax.Array:
  """Counts the failed dimensions of each signal for D_1 code_1 and for D_1 D_2 code_2, shape [N, 2].

  Args:
    layers: D_1 and D_2.
    codes: Codes of both layers.
    x: Signals [N, 1, n].
    beta: Penalty of the first layer.
  """
  below = layers[1].synthesis(codes[1], jax.eval_shape(join, codes[0]).shape)
  through_all = split(below, codes[0])
  counts = [
    jnp.sum(failed_dimensions(layers[0], code, x, beta), axis=(-2, -1))
    for code in (codes[0], through_all)
  ]
  return jnp.stack(counts, axis=-1)


def classify(params: Parameters, codes: Sequence[Code]) -> jax.Array:
  """Returns the logits [N, classes] of the codes."""
  code = lax.stop_gradient(params.scale) * join(codes[-1])[:, 0]
  return code @ params.kernel + params.bias[None]


@partial(jax.jit, static_argnames=("model", "pursuit"))
def train(
  params: Parameters,
  x: jax.Array,
  labels: jax.Array,
  order: jax.Array,
  sample: jax.Array,
  betas: Sequence[jax.Array],
  learning_rate: jax.Array,
  *,
  model: str,
  pursuit: Pursuit,
) -> History:
  """Minimizes the cross-entropy by SGD with momentum, and counts failed dimensions in each iteration.

  Args:
    params: Initial parameters; their scale is computed from the first minibatch.
    x: Training signals [N, 1, n].
    labels: Labels, int32 [N].
    order: Indices of the examples of each minibatch, int32 [iterations, batch].
    sample: Signals [M, 1, n] whose failed dimensions are counted.
    betas: Penalty of each layer, scalars.
    learning_rate: Learning rate, a scalar.
    model: One of `MODELS`.
    pursuit: Pursuit of the training and of the count.
  """
  optimizer = optax.sgd(learning_rate, momentum=MOMENTUM)

  def first_scale(params: Parameters, steps: Steps) -> jax.Array:
    layers = dictionaries(model, params.filters)
    size = jnp.mean(jnp.square(join(pursue(layers, x[order[0]], betas, steps, pursuit)[-1])))
    return lax.rsqrt(jnp.where(size == 0, 1, size))

  def loss_of(params: Parameters, steps: Steps, batch: jax.Array) -> jax.Array:
    layers = dictionaries(model, params.filters)
    logits = classify(params, pursue(layers, x[batch], betas, steps, pursuit))
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]))

  def failed(params: Parameters, steps: Steps) -> jax.Array:
    layers = dictionaries(model, params.filters)
    codes = pursue(layers, sample, betas, steps, pursuit)
    return jnp.mean(count_failed(layers, codes, sample, betas[0]), axis=0)

  def iterate(carry: Any, batch: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    params, state, vectors = carry
    steps, vectors = follow_lipschitz(params.filters, model, vectors, POWER_ITERATIONS)
    loss, gradient = jax.value_and_grad(loss_of)(params, steps, batch)
    updates, state = optimizer.update(gradient, state, params)
    new_params: Any = optax.apply_updates(params, updates)
    return (new_params, state, vectors), (failed(params, steps), loss)

  key = jax.random.key(0, impl=KEYS)
  start = [jax.random.normal(key, f.shape[:-1], f.dtype) for f in params.filters]
  steps, vectors = follow_lipschitz(params.filters, model, start, 200)
  params = params._replace(scale=first_scale(params, steps))
  carry, (counts, loss) = lax.scan(iterate, (params, optimizer.init(params), vectors), order)
  params, _, vectors = carry
  last = failed(params, follow_lipschitz(params.filters, model, vectors, POWER_ITERATIONS)[0])
  return History(params, jnp.concatenate([counts, last[None]]), loss)


@partial(jax.jit, static_argnames=("model", "pursuit"))
def evaluate(
  params: Parameters,
  x: jax.Array,
  labels: jax.Array,
  betas: Sequence[jax.Array],
  *,
  model: str,
  pursuit: Pursuit,
) -> Evaluation:
  """Returns the failed dimensions and the accuracy on signals [N, 1, n] with labels [N]."""
  layers = dictionaries(model, params.filters)
  codes = pursue(layers, x, betas, inverse_lipschitz(params.filters, model), pursuit)
  logits = classify(params, codes)
  correct = (jnp.argmax(logits, axis=-1) == labels) & ~jnp.any(jnp.isnan(logits), axis=-1)
  return Evaluation(count_failed(layers, codes, x, betas[0]), jnp.mean(correct))


def signals(dataset: Dataset, split: str) -> tuple[jax.Array, jax.Array]:
  """Returns the signals [N, 1, n] and labels [N] of a split, "train" or "test".

  A vector of dimension n is a signal with one position and n channels.
  """
  data = dataset.train if split == "train" else dataset.test
  return jnp.asarray(data.images.swapaxes(1, 2)), jnp.asarray(data.labels)


def minibatches(num_examples: int, iterations: int, seed: int) -> np.ndarray:
  """Returns the indices of the examples of each minibatch, int32 [iterations, batch].

  Each epoch has its own random order; examples that do not fill a minibatch are dropped.
  """
  generator = np.random.default_rng(seed)
  per_epoch = num_examples // BATCH_SIZE
  epochs = [
    generator.permutation(num_examples)[: per_epoch * BATCH_SIZE]
    for _ in range(-(-iterations // per_epoch))
  ]
  return np.concatenate(epochs).reshape(-1, BATCH_SIZE)[:iterations].astype(np.int32)
