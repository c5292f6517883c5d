"""Networks of two dense layers, trained to classify, and the dimensions of X that their codes lose.

What Figure 3 counts. A layer codes its signal over a dense dictionary, ML-CSC's D_i or MSD-CSC's
[I, F_i^T], with a fixed penalty; a linear classifier reads the last code. The penalty is the same in the
pursuit and in the count, as Definition 1 has it, and the step of a pursuit is 1/L of the dictionary as
it is then.
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
MARGIN = 1.01  # on what the power method finds


class Pursuit(NamedTuple):
  """How the layers are coded one after the other, from the code 0: by FISTA.

  One iteration is layered thresholding (eq. 3); many are the solution of the Lasso.

  Attributes:
    iterations: >= 1.
    nonnegative: Whether the codes are >= 0.
    differentiate: Through the iterations, or as the derivative of the Lasso's solution, see `fista`.
  """

  iterations: int
  nonnegative: bool
  differentiate: Differentiate = "unrolled"


class Parameters(NamedTuple):
  """What is trained.

  Attributes:
    filters: Of each layer [1, n, width]: the atoms, the columns of an [n, width] matrix, as those of a
      convolution over signals [1, n] of length 1. n is 100, then the size of the code below.
    kernel: [size of the last code, classes], of the classifier.
    bias: [classes].
    scale: Of the last code in front of the classifier, a scalar that is not trained: 1 / the root mean
      square of the first minibatch, so that one learning rate fits all models and pursuits (a code of
      the forward pass has a factor 1/L a layer).
  """

  filters: list[jax.Array]
  kernel: jax.Array
  bias: jax.Array
  scale: jax.Array


class History(NamedTuple):
  """A network's training.

  Attributes:
    params: At the end.
    failed: [iterations + 1, 2], failed dimensions of X before the first iteration and after each, mean
      over the samples: of D_1 code_1 (Definition 1 in layer 1), and of D_1 D_2 code_2.
    loss: [iterations], cross-entropy of each minibatch.
  """

  params: Parameters
  failed: jax.Array
  loss: jax.Array


class Evaluation(NamedTuple):
  """What a network does on a set of points.

  Attributes:
    failed: [N, 2], failed dimensions of each, as in `History`.
    accuracy: In 0..1.
  """

  failed: jax.Array
  accuracy: jax.Array


def initial(
  model: str, key: jax.Array, *, width: int, dimension: int = 100, num_classes: int = 100
) -> Parameters:
  """Random parameters: atoms of unit norm on average, the classifier's variance 1 / its inputs.

  Args:
    model: One of `MODELS`.
    key: For the draws.
    width: Atoms of each layer (beside the identity's).
    dimension: Of X.
    num_classes: Of the classifier.
  """
  *layer_keys, key = jax.random.split(key, LAYERS + 1)
  filters, size = [], dimension
  for layer_key in layer_keys:
    filters.append(jax.random.normal(layer_key, (1, size, width)) / size**0.5)
    size = width + (size if model == "msd_csc" else 0)
  kernel = jax.random.normal(key, (size, num_classes)) / size**0.5
  return Parameters(filters, kernel, jnp.zeros(num_classes), jnp.ones(()))


def dictionaries(model: str, filters: Sequence[jax.Array]) -> list[Dictionary]:
  """D_1, D_2 of a model, for signals [..., 1, n]."""
  convs = [ConvDictionary(f) for f in filters]
  return list(convs) if model == "ml_csc" else [IdentityAugmented(conv) for conv in convs]


def inverse_lipschitz(filters: Sequence[jax.Array], model: str) -> list[jax.Array]:
  """1/L of each layer, at most 1 % less."""
  layers = dictionaries(model, filters)
  return [1 / lipschitz(d, f.shape[:-1]) for d, f in zip(layers, filters, strict=True)]


def follow_lipschitz(
  filters: Sequence[jax.Array], model: str, vectors: Sequence[jax.Array], iterations: int
) -> tuple[list[jax.Array], list[jax.Array]]:
  """1/L of each layer, and the vectors [1, n], by the power method from the vectors of a little earlier.

  Far cheaper than `inverse_lipschitz`, and from below, but for `MARGIN`.
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
  """The codes of signals [N, 1, n] in each layer."""
  codes = []
  for dictionary, beta, step in zip(layers, betas, steps, strict=True):
    found = fista(dictionary, x, beta, step=step, record=(), **pursuit._asdict())
    codes.append(found.code)
    x = join(found.code)
  return codes


def count_failed(
  layers: Sequence[Dictionary], codes: Sequence[Code], x: jax.Array, beta: jax.Array
) -> jax.Array:
  """Failed dimensions of each signal [N, 2]: of D_1 code_1, and of D_1 D_2 code_2; beta of layer 1."""
  below = layers[1].synthesis(codes[1], jax.eval_shape(join, codes[0]).shape)
  through_all = split(below, codes[0])
  counts = [
    jnp.sum(failed_dimensions(layers[0], code, x, beta), axis=(-2, -1))
    for code in (codes[0], through_all)
  ]
  return jnp.stack(counts, axis=-1)


def classify(params: Parameters, codes: Sequence[Code]) -> jax.Array:
  """Logits [N, classes]."""
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
  """Trains by SGD with momentum on the cross-entropy and counts failed dimensions all along.

  Args:
    params: To start from; their scale is replaced by that of the first minibatch.
    x: Training signals [N, 1, n].
    labels: int32 [N].
    order: int32 [iterations, batch], the examples of each minibatch.
    sample: Signals [M, 1, n] whose failed dimensions are counted.
    betas: Penalty of each layer, scalars.
    learning_rate: A scalar.
    model: One of `MODELS`.
    pursuit: Of the training and the count.
  """
  optimizer = optax.sgd(learning_rate, momentum=MOMENTUM)

  def first_scale(params, steps):
    layers = dictionaries(model, params.filters)
    size = jnp.mean(jnp.square(join(pursue(layers, x[order[0]], betas, steps, pursuit)[-1])))
    return lax.rsqrt(jnp.where(size == 0, 1, size))

  def loss_of(params, steps, batch):
    layers = dictionaries(model, params.filters)
    logits = classify(params, pursue(layers, x[batch], betas, steps, pursuit))
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]))

  def failed(params, steps):
    layers = dictionaries(model, params.filters)
    codes = pursue(layers, sample, betas, steps, pursuit)
    return jnp.mean(count_failed(layers, codes, sample, betas[0]), axis=0)

  def iterate(carry, batch):
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
  """Failed dimensions and accuracy on signals [N, 1, n] with labels [N]."""
  layers = dictionaries(model, params.filters)
  codes = pursue(layers, x, betas, inverse_lipschitz(params.filters, model), pursuit)
  logits = classify(params, codes)
  correct = (jnp.argmax(logits, axis=-1) == labels) & ~jnp.any(jnp.isnan(logits), axis=-1)
  return Evaluation(count_failed(layers, codes, x, betas[0]), jnp.mean(correct))


def signals(dataset: Dataset, split: str) -> tuple[jax.Array, jax.Array]:
  """Signals [N, 1, n] and labels [N] of "train" or "test": a vector is one position with n channels."""
  data = dataset.train if split == "train" else dataset.test
  return jnp.asarray(data.images.swapaxes(1, 2)), jnp.asarray(data.labels)


def minibatches(num_examples: int, iterations: int, seed: int) -> np.ndarray:
  """int32 [iterations, batch]: epochs in an order of their own, what does not fill a batch left out."""
  generator = np.random.default_rng(seed)
  per_epoch = num_examples // BATCH_SIZE
  epochs = [
    generator.permutation(num_examples)[: per_epoch * BATCH_SIZE]
    for _ in range(-(-iterations // per_epoch))
  ]
  return np.concatenate(epochs).reshape(-1, BATCH_SIZE)[:iterations].astype(np.int32)
