"""Data sets without files: the digits of scikit-learn and the simulation of the paper's Figure 3."""

import numpy as np

from cscjax import checks
from cscjax.data._dataset import Dataset, Split, check_split, from_splits
from cscjax.extras import needs


def digits() -> tuple[Split, Split]:
  """Returns the 1,797 handwritten digits of scikit-learn, in 10 classes, as (train, test).

  The images are uint8 [1437, 8, 8, 1] and [360, 8, 8, 1]. The original 17 grey levels are scaled to
  0..255. The split is stratified and always the same.

  Raises:
    MissingExtraError: If scikit-learn is not installed.
  """
  with needs("digits", "the digits need scikit-learn"):  # imported here because it takes a second
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
  """Simulates classes of points around Gaussian centres, the data of the paper's Figure 3.

  Each class has one centre:

      x = centre[label] + noise * e,    centre ~ N(0, I), e ~ N(0, I) in R^dimension

  The train and the test split share the centres, and each split has the same number of points per class.
  The paper states neither the distribution of the centres nor the noise. With noise 1, a point has as
  much noise as signal, but the centres are about sqrt(2 * dimension) apart (14 for dimension 100), so
  the classes are well separated.

  Args:
    num_classes: The number of classes, >= 1.
    dimension: The length of a signal, >= 1.
    num_train: The number of points in `train`, a multiple of `num_classes`.
    num_test: The number of points in `test`, a multiple of `num_classes`.
    noise: The standard deviation of the points around their centre, >= 0.
    seed: The seed of the NumPy generator, >= 0. The same seed gives the same data.

  Returns:
    A `Dataset` of float32 signals [N, dimension, 1] without a validation split.

  Raises:
    ValueError: If an argument is out of range.
    DataError: If the noise is so large that values overflow float32.

  References:
    Zhang & Zhang, National Science Review 2020, Figure 3 and the simulation after Definition 1.

  Example:
    >>> from cscjax.data import gaussian_centers
    >>> data = gaussian_centers(num_classes=4, dimension=10, num_train=40, num_test=8)
    >>> data.train.images.shape, data.test.images.shape
    ((40, 10, 1), (8, 10, 1))
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

  train, test = points(num_train), points(num_test)
  check_split("gaussian_centers train", train, num_classes)
  check_split("gaussian_centers test", test, num_classes)
  return from_splits("gaussian_centers", num_classes, train, test)
