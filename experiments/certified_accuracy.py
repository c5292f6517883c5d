"""Certifies the labels of a linear classifier of sparse codes of digits, and attacks them.

    python -m experiments.certified_accuracy --results=experiments/results/certified_accuracy.jsonl

Encodes the digits of scikit-learn, without their mean and of unit norm, by the Lasso with three dense
dictionaries: cosines, which are orthonormal, a learned dictionary and random atoms. Logistic regression
classifies the codes. For test images, compares two certificates of their labels with an attack, which
is the experiment of Sulam, Muthukumar & Arora, Adversarial robustness of supervised sparse coding,
NeurIPS 2020, on a small scale. Stores a row for each dictionary in --results, where it replaces a former
one, and prints a table. For each level of noise, its columns are the fraction of the test images whose
label is right and certified by `stability`, certified by `encoder_gap`, and right under attack.
"""

import datetime
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags as absl_flags

from cscjax import theory
from cscjax.data import load_dataset
from cscjax.dictionaries import MatrixDictionary, mutual_coherence
from cscjax.extras import needs
from cscjax.runs import environment
from cscjax.solvers import fista
from experiments import cli
from experiments.result_rows import Row, stored

IMAGES = 40  # test images
LEVELS = (0.003, 0.01, 0.03, 0.1, 0.3)  # norms of the noise; those of the images are 1
BETA = 0.2
ATOMS = 64
STRENGTH = 10.0  # inverse strength of the regularization of logistic regression
TOLERANCE = 1e-6  # tolerance of the solver
STEPS = 10  # steps of the attack
CASE = ("dictionary", "atoms", "beta", "images", "noise")  # what a row has measured


class Classifier:
  """A linear classifier of sparse codes, as a network for `certify_labels`."""

  def __init__(self, dictionary: MatrixDictionary, beta: float, weights: Any, biases: Any) -> None:
    self.dictionary, self.beta, self.weights, self.biases = dictionary, beta, weights, biases

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the scores of signals [N, n]."""
    code = fista(self.dictionary, x, self.beta, tolerance=TOLERANCE, max_iterations=20_000).code
    return code @ jnp.asarray(self.weights).T + jnp.asarray(self.biases)

  def margin_gains(self, signal_shape: tuple[int, ...]) -> jax.Array:
    """Returns inf: no Lipschitz constant holds for all signals."""
    del signal_shape
    return jnp.full((len(self.biases),) * 2, jnp.inf)


def main(args: absl_flags.FlagValues = absl_flags.FLAGS) -> None:
  """Makes the rows, stores them, and prints the table."""
  with jax.enable_x64(True):
    for row in stored(rows(), args.results, CASE):
      print(line(row), flush=True)


def rows() -> Iterator[Row]:
  """Yields a row for each dictionary."""
  data = load_dataset("digits")
  train, test = (_unit(split.images) for split in (data.train, data.test))
  test, labels = test[:IMAGES], data.test.labels[:IMAGES]
  for name, atoms in _dictionaries(train).items():
    start = time.monotonic()
    dictionary = MatrixDictionary(jnp.asarray(atoms))
    weights, biases = _trained(dictionary, BETA, train, data.train.labels)
    found = theory.encoder_gap(dictionary, test, BETA)
    by_signal = theory.certify_classifier(found.stability, weights, biases)
    by_gap = theory.certify_classifier(found, weights, biases)
    network = Classifier(dictionary, BETA, weights, biases)
    attack = theory.certify_labels(network, jnp.asarray(test), steps=STEPS)
    reached = np.asarray(attack.attack_radius)
    right = by_signal.label == labels
    accuracy = {
      kind: [float(np.mean(right & (radius > level))) for level in LEVELS]
      for kind, radius in (
        ("stability", by_signal.certified_radius),
        ("encoder_gap", by_gap.certified_radius),
        ("attack", reached),
      )
    }
    certified = by_signal.certified_radius > 0
    yield {
      "dictionary": name,
      "atoms": ATOMS,
      "beta": BETA,
      "coherence": float(mutual_coherence(dictionary, test.shape[1:])),
      "nonzeros": float(np.mean(found.stability.nonzeros)),
      "images": IMAGES,
      "noise": list(LEVELS),
      "accuracy": float(np.mean(right)),
      **accuracy,
      "median_attack_over_stability": _median(reached[certified], by_signal.certified_radius[certified]),
      "below_attack": bool(np.all(by_signal.certified_radius <= reached)),
      "seconds": round(time.monotonic() - start, 1),
      "date": datetime.date.today().isoformat(),
      **environment(),
    }


def line(row: Row) -> str:
  """Returns a row of the table."""
  head = f"{row['dictionary']:8} beta {row['beta']:<4g} {row['nonzeros']:5.1f} nonzeros"
  cells = zip(row["noise"], row["stability"], row["encoder_gap"], row["attack"], strict=True)
  levels = "  ".join(f"{n:g}: {a:.0%} {b:.0%} {c:.0%}" for n, a, b, c in cells)
  return f"{head}  accuracy {row['accuracy']:.0%}  {levels}"


def _unit(images: np.ndarray) -> np.ndarray:
  """Returns images as vectors of mean 0 and norm 1."""
  x = np.reshape(images, (len(images), -1)).astype(np.float64)
  x -= np.mean(x, axis=1, keepdims=True)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def _dictionaries(train: np.ndarray) -> dict[str, np.ndarray]:
  """Returns matrices whose columns are unit atoms."""
  with needs("digits", "logistic regression and the learned dictionary need scikit-learn"):
    from sklearn.decomposition import MiniBatchDictionaryLearning

  size = round(train.shape[1] ** 0.5)
  t, k = np.arange(size) + 0.5, np.arange(size)[:, None]
  cosines = np.cos(np.pi * k * t / size)
  cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
  penalty: Any = BETA  # scikit-learn's annotation is int
  learner = MiniBatchDictionaryLearning(ATOMS, alpha=penalty, batch_size=64, random_state=0)
  learned = learner.fit(train).components_.T
  random = np.random.default_rng(0).normal(size=(train.shape[1], ATOMS))
  matrices = {"cosines": np.kron(cosines, cosines).T, "learned": learned, "random": random}
  return {name: d / np.linalg.norm(d, axis=0) for name, d in matrices.items()}


def _trained(
  dictionary: MatrixDictionary, beta: float, x: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the weights and biases of logistic regression on the codes."""
  from sklearn.linear_model import LogisticRegression

  codes = fista(dictionary, jnp.asarray(x), beta, tolerance=TOLERANCE, max_iterations=20_000).code
  fitted = LogisticRegression(C=STRENGTH, max_iter=2000).fit(np.asarray(codes), labels)
  return fitted.coef_, fitted.intercept_


def _median(above: np.ndarray, below: np.ndarray) -> float | None:
  """Returns the median ratio of two arrays, None if they are empty."""
  return float(np.median(above / below)) if len(above) else None


def define_flags(values: absl_flags.FlagValues = absl_flags.FLAGS) -> None:
  """Defines the flags of this command."""
  text = "File in which the rows are stored, beside those of other cases."
  cli.define_path("results", None, text, values)


if __name__ == "__main__":
  define_flags()
  cli.run(main)
