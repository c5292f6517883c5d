"""Data sets that need no files: scikit-learn's digits, and the simulation of the paper's Figure 3."""

import numpy as np

from cscjax import checks
from cscjax.data._dataset import Dataset, Split, make_dataset
from cscjax.extras import needs


def digits() -> tuple[Split, Split]:
  """Returns the 1,797 handwritten digits of scikit-learn, in 10 classes, as (train, test).

  The images are uint8 [1437, 8, 8, 1] and [360, 8, 8, 1], with the original 17 grey levels spread over
  0..255. The split is stratified and always the same.

  Raises:
    MissingExtraError: scikit-learn is not installed.
  """
  with needs("digits", "the digits need scikit-learn"):  # which takes a second to import
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

  pixels, classes = load_digits(return_X_y=True)
  images = np.rint(np.reshape(pixels, (-1, 8, 8, 1)) * (255 / 16)).astype(np.uint8)
  labels = np.asarray(classes, np.int32)
  train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
  return Split(images[train], labels[train]), Split(images[test], labels[test])


def gaussian_centers(
  num_classes: int = 100,
  dimension: int = 100,
  num_train: int = 10_000,
  num_test: int = 2_000,
  noise: float = 1.0,
  seed: int = 0,
) -> Dataset:
  """Makes points around Gaussian centres, one centre a class (Zhang & Zhang, NSR 2020, Figure 3).

      x = centre[label] + noise * e,    centre ~ N(0, I), e ~ N(0, I) in R^dimension

  Train and test share the centres; each class has equally many points in each. The paper states
  neither the law of the centres nor `noise`. With the default of 1 a point has as much noise as
  signal, while centres are about sqrt(2 * dimension) = 14 apart, so that the classes separate.

  Args:
    num_classes: How many centres.
    dimension: L, the length of a signal.
    num_train: Points in `train`, a multiple of `num_classes`.
    num_test: Points in `test`, a multiple of `num_classes`.
    noise: Standard deviation around a centre, >= 0.
    seed: Of the NumPy generator; the same seed gives the same data.

  Returns:
    A `Dataset` of float32 signals [N, dimension, 1] without a validation split.

  Raises:
    ValueError: An argument is out of its range.
  """
  checks.positive_int("num_classes", num_classes)
  checks.positive_int("dimension", dimension)
  checks.in_range("noise", noise, 0.0)
  checks.int_at_least("seed", seed, 0)
  for name, count in (("num_train", num_train), ("num_test", num_test)):
    if checks.positive_int(name, count) % num_classes:
      checks.fail(name, count, f"a multiple of num_classes = {num_classes}")

  generator = np.random.default_rng(seed)
  centers = generator.standard_normal((num_classes, dimension))

  def points(count: int) -> Split:
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), count // num_classes)
    labels = generator.permutation(labels)
    signals = centers[labels] + noise * generator.standard_normal((count, dimension))
    return Split(signals[..., None].astype(np.float32), labels)

  train = points(num_train)
  return make_dataset("gaussian_centers", num_classes, train, points(num_test))
