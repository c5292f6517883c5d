"""Certified Lipschitz constants of the networks, from those of their layers."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cscjax.dictionaries import ConvDictionary, IdentityAugmented, lipschitz_bound
from cscjax.models._batch_norm import EPSILON
from cscjax.models._spectral import bounded_step
from cscjax.ops import common_float, expand_rank
from cscjax.solvers import momentum_weights


class LayerGains(NamedTuple):
  """Norms of the linear maps in a layer's iterations; S_k is the diagonal of the slopes of N_k.

  Attributes:
    analysis: ||S_k D^T|| for each iteration k.
    kept: ||S_k (I - step D^T D)|| for each iteration k.
    synthesis: ||D||.
    step: |step|.
  """

  analysis: list[jax.Array]
  kept: list[jax.Array]
  synthesis: jax.Array
  step: jax.Array


def slopes(params: Any, stats: Any, index: int = 0) -> jax.Array:
  """Returns |slope| of a trained batch norm for each channel, or 1 without batch norm.

  Args:
    params: The parameters of the layer: "bias" and, with batch norm, "scale".
    stats: The running statistics of the layer.
    index: The number of the batch norm, if several share their parameters.
  """
  if "scale" not in params:
    return jnp.ones_like(params["bias"])
  scale, variance = params["scale"], stats[f"norm_{index}"]["var"]
  dtype = common_float(scale, variance)
  return jnp.abs(scale.astype(dtype)) / jnp.sqrt(variance.astype(dtype) + EPSILON)


def analysis_gain(conv: ConvDictionary, slope: jax.Array, signal_shape: Sequence[int]) -> jax.Array:
  """Returns an upper bound of ||S D^T||, where S multiplies each channel of the code by its slope."""
  scaled = conv.filters * expand_rank(slope.astype(conv.filters.dtype), conv.filters.ndim)
  return jnp.sqrt(lipschitz_bound(conv.replace(filters=scaled), signal_shape))


def layer_gains(
  conv: ConvDictionary,
  augmented: bool,
  slope: Sequence[jax.Array],
  step: jax.Array,
  signal_shape: Sequence[int],
  encoder: ConvDictionary | None = None,
) -> LayerGains:
  """Returns the gains of a layer of CSC or, with `augmented`, of MSD-CSC.

  Args:
    conv: The filters.
    augmented: Whether the dictionary is [I, F^T].
    slope: The slopes of the batch norms of all iterations, [width] each.
    step: The step.
    signal_shape: Shape of one input of the layer.
    encoder: The filters of an untied analysis; None if it is the adjoint of the synthesis.
  """
  dictionary = IdentityAugmented(conv) if augmented else conv
  square = lipschitz_bound(dictionary, signal_shape)
  analysis = [analysis_gain(conv if encoder is None else encoder, s, signal_shape) for s in slope]
  largest = [jnp.max(s) for s in slope]
  if augmented:  # the channels of the identity have slope 1
    analysis = [jnp.sqrt(1 + a**2) for a in analysis]
    largest = [jnp.maximum(s, 1) for s in largest]
  if encoder is None:  # the eigenvalues of I - step D^T D lie between 1 - step ||D||^2 and 1
    kept = [s * jnp.maximum(1, jnp.abs(1 - step * square)) for s in largest]
  else:
    kept = [s + jnp.abs(step) * a * jnp.sqrt(square) for s, a in zip(largest, analysis, strict=True)]
  return LayerGains(analysis, kept, jnp.sqrt(square), jnp.abs(step))


def pursuit_gain(layers: Sequence[LayerGains], pursuit: str, solver: str) -> jax.Array:
  """Returns a Lipschitz constant of the deepest code of a pursuit, as a function of its input.

  It follows the iterations of `layered_pursuit` and `multilayer_pursuit`, with norms in place of maps.
  """
  if pursuit == "layer" and len(layers) > 1:
    gains = [pursuit_gain([layer], pursuit, solver) for layer in layers]
    return jnp.prod(jnp.stack(gains))
  codes, below = [], jnp.ones_like(layers[0].synthesis)
  for layer in layers:
    below = layer.analysis[0] * below
    codes.append(below)
  previous = codes[-1]
  for k, weight in enumerate(momentum_weights(solver, len(layers[0].analysis) - 1), 1):
    deepest = codes[-1]
    points = [(1 + weight) * deepest + weight * previous]
    for layer in reversed(layers[1:]):
      points.insert(0, layer.synthesis * points[0])
    codes, below = [], jnp.ones_like(layers[0].synthesis)
    for layer, point in zip(layers, points, strict=True):
      below = layer.kept[k] * point + layer.step * layer.analysis[k] * below
      codes.append(below)
    previous = deepest
  return codes[-1]


def pooled_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape of a signal after `max_pool`, whose gain is 1: its windows do not overlap."""
  return (*(-(-size // 2) for size in shape[:-1]), shape[-1])


def margin_gains(feature_gain: jax.Array, positions: int, kernel: jax.Array) -> jax.Array:
  """Returns Lipschitz constants of the differences of logits.

  Args:
    feature_gain: That of the code before global average pooling.
    positions: Number of positions of that code, over which the average is taken.
    kernel: Weights of the classifier, [features, classes].

  Returns:
    A matrix [classes, classes]: entry (i, j) bounds the change of logit_i - logit_j per unit of the
    Euclidean norm of a change of the input.
  """
  difference = kernel[:, :, None] - kernel[:, None, :]
  return feature_gain / math.sqrt(positions) * jnp.sqrt(jnp.sum(jnp.square(difference), axis=0))


def unfolded_step(params: Any, bound: jax.Array) -> jax.Array:
  """Returns the trained step of a layer, as `trained_step` does; zero if the layer has none."""
  if "step" in params:
    return params["step"]
  if "step_logit" not in params:
    return jnp.zeros_like(bound)
  return bounded_step(params["step_logit"], bound)
