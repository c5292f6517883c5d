"""Certified robustness: the radius within which no change of an image alters the label of a network."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.ops import compact_repr, highest_precision, power_iteration

OVERSHOOT = 1.02  # of an attack's steps, which end behind the boundary that a linear network would have
BISECTIONS = 20
POWER_ITERATIONS = 20


@runtime_checkable
class GainedClassifier(Protocol):
  """A classifier whose Lipschitz constants are known; the networks, with their parameters bound, are."""

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the logits of a batch.

    Args:
      x: Normalized images [N, H, W, C] or signals [N, L, C].

    Returns:
      The logits [N, num_classes].
    """
    ...

  def margin_gains(self, signal_shape: tuple[int, ...]) -> jax.Array:
    """Returns Lipschitz constants of the differences of logits.

    Args:
      signal_shape: Shape of one normalized image (H, W, C) or signal (L, C).

    Returns:
      A matrix [num_classes, num_classes]: entry (i, j) bounds the change of logit_i - logit_j per unit
      of the Euclidean norm of a change of the image.
    """
    ...


class LabelCertificate(NamedTuple):
  """The result of `certify_labels`; distances are Euclidean norms of changes of the normalized images.

  Attributes:
    label: The label of each image, int32 [N].
    margin: The smallest difference between the logit of the label and another logit, [N].
    certified_radius: A distance within which no change of the image alters its label, [N].
    attack_radius: The distance of the nearest image that an attack found to have another label, [N];
      infinity if it found none. No change within the certified radius, and one at this distance, alters
      the label.
    jacobian_norm: An estimate of the norm of the Jacobian of the logits at the image, [N]. It bounds
      nothing at any distance from the image.
  """

  label: jax.Array
  margin: jax.Array
  certified_radius: jax.Array
  attack_radius: jax.Array
  jacobian_norm: jax.Array

  def __repr__(self) -> str:
    return compact_repr(self)


@highest_precision
def certify_labels(network: GainedClassifier, x: ArrayLike, *, steps: int = 50) -> LabelCertificate:
  """Certifies the radius within which a network's label of an image cannot change.

  If each difference of two logits has a Lipschitz constant L_ij, no change of the image by less than

      min_j (logit_label - logit_j) / L_{label, j}

  alters its label. The networks of `cscjax.models` compute these constants from the norms of their
  layers' linear maps, with the scales of the batch norms and the sums of residual blocks, and the
  differences of the classifier's weights. A product of norms over many layers is far above the true
  constant, and so the radius is small: for the shipped network "digits", an MSD-CSC of six layers, the
  attack's radius is about 160,000 times the certified one.

  The attack shows how small it is: gradient ascent of the logit that is nearest to that of the label,
  with steps that would reach the boundary if the network were linear (DeepFool, Moosavi-Dezfooli et al.
  2016), followed by a bisection between the image and the point found. The nearest image with another
  label lies between the two radii. Rounding errors of the network are not included.

  Args:
    network: A network with its parameters bound, `model.bind(variables)`.
    x: Normalized images [N, H, W, C] or signals [N, L, C].
    steps: Number of gradient steps of the attack, at least 1.

  Returns:
    A `LabelCertificate`.

  Raises:
    ValueError: If `network` has no `margin_gains`, `x` is not an array of real numbers, or `steps` is
      not an integer of at least 1.

  References:
    Tsuzuku, Y., Sato, I. & Sugiyama, M. (2018). Lipschitz-margin training: scalable certification of
    perturbation invariance for deep neural networks. NeurIPS.

    Moosavi-Dezfooli, S.-M., Fawzi, A. & Frossard, P. (2016). DeepFool: a simple and accurate method to
    fool deep neural networks. CVPR.

  Example:
    >>> import jax
    >>> import cscjax
    >>> from cscjax.models import create_model
    >>> model = create_model("msd_csc", num_classes=3, depth=1, width=2)
    >>> x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    >>> variables = jax.jit(model.init)(jax.random.key(1), x)
    >>> result = cscjax.theory.certify_labels(model.bind(variables), x)
    >>> bool((result.certified_radius <= result.attack_radius).all())
    True
  """
  if not isinstance(network, GainedClassifier):
    checks.fail("network", type(network).__name__, "a network of cscjax.models, model.bind(variables)")
  x = checks.real_array("x", x)
  x = jnp.asarray(x, jnp.result_type(float, x.dtype))
  checks.positive_int("steps", steps)
  gains = network.margin_gains(x.shape[1:])

  def logits(image: jax.Array) -> jax.Array:
    return network(image[None])[0]

  certificates = lax.map(partial(_certify, logits, gains, steps), x)
  return LabelCertificate(*certificates)


def _certify(
  logits: Callable[[jax.Array], jax.Array], gains: jax.Array, steps: int, image: jax.Array
) -> LabelCertificate:
  """Certifies the label of one image."""
  values = logits(image)
  label = jnp.argmax(values).astype(jnp.int32)
  others = jnp.arange(len(values), dtype=jnp.int32) != label
  margins = jnp.where(others, values[label] - values, jnp.inf)
  gain = gains[label]
  radii = jnp.where(margins > 0, margins / jnp.where(gain > 0, gain, 1), 0)
  radii = jnp.where(gain > 0, radii, jnp.where(margins > 0, jnp.inf, 0))
  return LabelCertificate(
    label=label,
    margin=jnp.min(margins),
    certified_radius=jnp.min(jnp.where(others, radii, jnp.inf)),
    attack_radius=_attack(logits, image, label, steps),
    jacobian_norm=_jacobian_norm(logits, image),
  )


def _attack(
  logits: Callable[[jax.Array], jax.Array], image: jax.Array, label: jax.Array, steps: int
) -> jax.Array:
  """Returns the distance of the nearest image found to have another label, infinity if there is none."""

  def is_other(point: jax.Array) -> jax.Array:
    return jnp.argmax(logits(point)).astype(jnp.int32) != label

  def lead(point: jax.Array) -> jax.Array:
    values = logits(point)
    rest = jnp.where(jnp.arange(len(values), dtype=jnp.int32) == label, -jnp.inf, values)
    return jnp.max(rest) - values[label]

  def ascend(point: jax.Array, _: None) -> tuple[jax.Array, None]:
    value, gradient = jax.value_and_grad(lead)(point)
    square = jnp.sum(jnp.square(gradient))
    move = -OVERSHOOT * value / jnp.where(square > 0, square, 1) * gradient
    return jnp.where((square > 0) & ~is_other(point), point + move, point), None

  def halve(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    low, high = ends
    middle = (low + high) / 2
    outside = is_other(image + middle * (found - image))
    return jnp.where(outside, low, middle), jnp.where(outside, middle, high)

  found, _ = lax.scan(ascend, image, length=steps)
  zero = jnp.zeros((), image.dtype)
  _, fraction = lax.fori_loop(0, BISECTIONS, halve, (zero, zero + 1))
  distance = fraction * jnp.sqrt(jnp.sum(jnp.square(found - image)))
  return jnp.where(is_other(found), distance, jnp.inf)


def _jacobian_norm(logits: Callable[[jax.Array], jax.Array], image: jax.Array) -> jax.Array:
  """Returns the norm of the Jacobian at an image, estimated from below by the power method."""
  _, pull = jax.vjp(logits, image)

  def gram(tangent: jax.Array) -> jax.Array:
    return pull(jax.jvp(logits, (image,), (tangent,))[1])[0]

  start = jax.random.normal(jax.random.key(0, impl="threefry2x32"), image.shape, image.dtype)
  return jnp.sqrt(power_iteration(gram, start, POWER_ITERATIONS)[0])
