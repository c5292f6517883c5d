"""Certified robustness of a linear classifier of sparse codes."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.ops import compact_repr
from cscjax.theory._encoder_gap import EncoderGap
from cscjax.theory._float64 import flatten_batch
from cscjax.theory._lasso_stability import Stability


class ClassifierCertificate(NamedTuple):
  """The result of `certify_classifier`.

  Attributes:
    label: The label of each signal, integers [batch...].
    distance: The Euclidean distance from the code to the nearest code with another label, [batch...].
    certified_radius: The norm of noise below which the label cannot change, [batch...]; 0 if nothing is
      known.
  """

  label: Any
  distance: Any
  certified_radius: Any

  def __repr__(self) -> str:
    return compact_repr(self)


def certify_classifier(
  found: Stability | EncoderGap, weights: ArrayLike, biases: ArrayLike = 0.0
) -> ClassifierCertificate:
  """Certifies the radius within which the label of a signal cannot change, for a linear classifier.

  The scores of a signal are w_i^T gamma + b_i for each class i, where gamma is its sparse code, and its
  label is the class with the largest score. The label of a code changes only if the code moves by the
  distance

      min over j of (score_label - score_j) / ||w_label - w_j||,

  so that no noise alters the label as long as the bound on the change of the code is below it. The bound
  is that of `stability`, which is for the given signal, or that of `encoder_gap`, which is by Sulam,
  Muthukumar & Arora (2020) and needs an incoherent dictionary. The error of the computed codes is
  included. The certified accuracy at a level of noise is the fraction of the signals that have the right
  label and a larger radius.

  Args:
    found: The codes and their bounds: the result of `stability` or of `encoder_gap`.
    weights: The weights w_i of the flattened codes, of shape [num_classes, p], such as the `coef_` of
      a classifier of scikit-learn with at least two rows. Codes of several parts are flattened part by
      part.
    biases: The biases b_i, of shape [num_classes] or a scalar.

  Returns:
    A `ClassifierCertificate` of NumPy arrays in float64.

  Raises:
    ValueError: If shapes do not fit, there are fewer than two classes, or a value is not finite.

  References:
    Sulam, Muthukumar & Arora, Adversarial robustness of supervised sparse coding, NeurIPS 2020.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> dictionary = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> x = jnp.array([[2.0, 0.1], [0.2, 1.9]])
    >>> weights = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> found = cscjax.theory.encoder_gap(dictionary, x, beta=0.5)
    >>> for bounds in (found.stability, found):
    ...   result = cscjax.theory.certify_classifier(bounds, weights)
    ...   print(result.label, result.certified_radius.round(2))
    [0 1] [0.4  0.33]
    [0 1] [0.4  0.33]
  """
  certificate = found.stability if isinstance(found, EncoderGap) else found
  parts, batch = jax.tree.leaves(certificate.code), np.shape(certificate.nonzeros)
  codes = flatten_batch(parts, parts, batch)
  for name, values in (("weights", weights), ("biases", biases)):
    checks.all_at_least(name, values, -np.inf)
  weights, biases = np.asarray(weights, np.float64), np.asarray(biases, np.float64)
  if weights.ndim != 2 or len(weights) < 2 or weights.shape[1] != codes.shape[1]:
    checks.fail("weights", weights.shape, f"[num_classes, {codes.shape[1]}] with at least two classes")
  if biases.shape not in ((), weights.shape[:1]):
    checks.fail("biases", biases.shape, f"a scalar or the shape {weights.shape[:1]}")
  scores = codes @ weights.T + biases
  labels = np.argmax(scores, axis=1)
  margins = np.max(scores, axis=1, keepdims=True) - scores
  gains = np.linalg.norm(weights[labels][:, None] - weights, axis=2)
  distances = np.divide(margins, gains, out=np.where(margins > 0, np.inf, 0.0), where=gains > 0)
  distances[np.arange(len(labels)), labels] = np.inf
  distance = np.min(distances, axis=1).reshape(batch)
  fixed = np.isinf(distance)  # no code has another label
  radii = found.radius(np.where(fixed, 0, distance) - np.nan_to_num(certificate.code_error))
  return ClassifierCertificate(labels.reshape(batch), distance, np.where(fixed, np.inf, radii))
