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

OVERSHOOT = 1.02  # factor of DeepFool's steps, so that they end behind the boundary of a linear network
RADIUS_CHANGE = 0.1  # relative change of the radius in the first step of projected gradient ascent
BISECTIONS = 20
POWER_ITERATIONS = 20


@runtime_checkable
class GainedClassifier(Protocol):
  """A classifier with known Lipschitz constants, such as a network with its parameters bound."""

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
  attack's radius is about 140,000 times the certified one.

  An attack shows how small it is. It ascends the largest of (logit_j - logit_label) / L_{label, j},
  first with steps that would reach the boundary if the network were linear (DeepFool, Moosavi-Dezfooli
  et al. 2016), then by projected gradient ascent on spheres around the image. Their radius shrinks while
  the label is another one and grows while it is not (Rony et al. 2019). The attack ends with a bisection
  between the image and the nearest point found. For a linear classifier its radius is the distance to
  the boundary. The nearest image with another label lies between the two radii. Rounding errors of the
  network are not included.

  Args:
    network: A network with its parameters bound, `model.bind(variables)`.
    x: Normalized images [N, H, W, C] or signals [N, L, C].
    steps: Number of gradient steps in each of the two parts of the attack, at least 1. The default is
      50.

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

    Rony, J., Hafemann, L. G., Oliveira, L. S., Ben Ayed, I., Sabourin, R. & Granger, E. (2019).
    Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and defenses. CVPR.

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

  def margins_to(point: jax.Array) -> jax.Array:
    values = logits(point)
    return jnp.where(others, values[label] - values, jnp.inf)

  values = logits(image)
  label = jnp.argmax(values).astype(jnp.int32)
  others = jnp.arange(len(values), dtype=jnp.int32) != label
  margins, gain = margins_to(image), gains[label]
  weights = _relative_weights(gain, others)
  radii = jnp.where(margins > 0, margins / jnp.where(gain > 0, gain, 1), 0)
  radii = jnp.where(gain > 0, radii, jnp.where(margins > 0, jnp.inf, 0))
  return LabelCertificate(
    label=label,
    margin=jnp.min(margins),
    certified_radius=jnp.min(jnp.where(others, radii, jnp.inf)),
    attack_radius=_attack(lambda point: -jnp.min(weights * margins_to(point)), image, steps),
    jacobian_norm=_jacobian_norm(logits, image),
  )


def _relative_weights(gain: jax.Array, others: jax.Array) -> jax.Array:
  """Returns 1 / gain, up to a factor, of the other labels; 1 where that is not finite."""
  largest = jnp.max(jnp.where(others, gain, 0))
  return jnp.where((gain > 0) & (largest < jnp.inf), largest / jnp.where(gain > 0, gain, 1), 1)


def _attack(lead: Callable[[jax.Array], jax.Array], image: jax.Array, steps: int) -> jax.Array:
  """Returns the distance of the nearest image found at which the lead is positive, infinity if none.

  Args:
    lead: A function of an image that is positive where the label is another one.
    image: The image.
    steps: Number of gradient steps of DeepFool, and of the projected gradient ascent.
  """

  def linear_step(offset: jax.Array, _: None) -> tuple[jax.Array, None]:
    value, gradient = jax.value_and_grad(lead)(image + offset)
    square = jnp.sum(jnp.square(gradient))
    move = -OVERSHOOT * value / jnp.where(square > 0, square, 1) * gradient
    return jnp.where((square > 0) & (value <= 0), offset + move, offset), None

  def ascend(carry: tuple[jax.Array, ...], rate: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
    offset, nearest, distance = carry
    value, gradient = jax.value_and_grad(lead)(image + offset)
    radius = _norm(offset)
    is_nearer = (value > 0) & (radius < distance)
    nearest, distance = jnp.where(is_nearer, offset, nearest), jnp.where(is_nearer, radius, distance)
    direction = _unit(_unit(offset) + rate * _unit(gradient))
    radius *= 1 + jnp.where(value > 0, -1, 1) * RADIUS_CHANGE * rate
    return (radius * direction, nearest, distance), None

  def halve(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    low, high = ends
    middle = (low + high) / 2
    is_outside = lead(image + middle * nearest) > 0
    return jnp.where(is_outside, low, middle), jnp.where(is_outside, middle, high)

  offset, _ = lax.scan(linear_step, jnp.zeros_like(image), length=steps)
  rates = jnp.arange(steps, 0, -1, dtype=image.dtype) / steps
  zero = jnp.zeros((), image.dtype)
  (_, nearest, distance), _ = lax.scan(ascend, (offset, offset, zero + jnp.inf), rates)
  _, fraction = lax.fori_loop(0, BISECTIONS, halve, (zero, zero + 1))
  return fraction * distance


def _norm(v: jax.Array) -> jax.Array:
  return jnp.sqrt(jnp.sum(jnp.square(v)))


def _unit(v: jax.Array) -> jax.Array:
  """Returns v / ||v||, and zero for zero."""
  norm = _norm(v)
  return v / jnp.where(norm > 0, norm, 1)


def _jacobian_norm(logits: Callable[[jax.Array], jax.Array], image: jax.Array) -> jax.Array:
  """Returns the norm of the Jacobian at an image, estimated from below by the power method."""
  _, vjp = jax.vjp(logits, image)

  def gram(tangent: jax.Array) -> jax.Array:
    return vjp(jax.jvp(logits, (image,), (tangent,))[1])[0]

  start = jax.random.normal(jax.random.key(0, impl="threefry2x32"), image.shape, image.dtype)
  return jnp.sqrt(power_iteration(gram, start, POWER_ITERATIONS)[0])
