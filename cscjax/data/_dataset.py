"""Labelled data sets: two or three splits in host memory, with the statistics of their channels."""

import dataclasses
import functools
import hashlib

import numpy as np

from cscjax import checks
from cscjax.data._info import DatasetInfo

IMAGE_SHAPE = (32, 32, 3)
# The name of each data set of natural images, as in TFDS, and its number of classes.
IMAGE_SETS = {"cifar10": 10, "cifar100": 100, "svhn_cropped": 10}

# These seeds are fixed so that runs with different seeds use the same examples.
_VALIDATION_SEED = 0
_SUBSET_SEED = 1
_TEST_SEED = 2
_TEST_FRACTION = 0.2
# Sums over this many images are exact, because 512 * 255^2 fits in uint32.
_ROWS = 512


class DataError(ValueError):
  """Data are missing, damaged or unreadable. The message is one line and says what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """One labelled split of a data set, whose length is the number of examples.

  Attributes:
    images: uint8 images [N, H, W, C] in 0..255, or float32 signals [N, L, C].
    labels: int32 labels [N].

  Example:
    >>> import numpy as np
    >>> from cscjax.data import Split
    >>> split = Split(np.zeros((3, 8, 8, 1), np.uint8), np.array([0, 1, 1], np.int32))
    >>> len(split)
    3
  """

  images: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A data set for classification.

  Attributes:
    name: The name of the data set, used in messages.
    num_classes: The number of classes. Labels are in 0..num_classes - 1.
    train: The training split, without the validation examples and those left out by `train_examples`.
    test: The test split, which does not depend on `validation_fraction`.
    validation: The validation split, which may be taken from the original train split; None if there is
      none.
    mean: The mean of each channel over `train`, float32 [C]. uint8 images are scaled to 0..1 first.
    std: The standard deviation of each channel, float32 [C], also after scaling. It is 1 for a constant
      channel, so that dividing by it is safe.
    class_names: The names of the classes in the order of the labels, or None if they have no names.

  Example:
    >>> from cscjax.data import gaussian_centers
    >>> data = gaussian_centers(num_classes=4, dimension=10, num_train=40, num_test=8)
    >>> data.num_classes, data.example_shape, len(data.train)
    (4, (10, 1), 40)
  """

  name: str
  num_classes: int
  train: Split
  test: Split
  validation: Split | None
  mean: np.ndarray
  std: np.ndarray
  class_names: tuple[str, ...] | None = None

  @property
  def example_shape(self) -> tuple[int, ...]:
    """The shape of one example, (H, W, C) or (L, C)."""
    return self.train.images.shape[1:]

  @functools.cached_property
  def info(self) -> DatasetInfo:
    """What a network trained on the data set needs to know about it."""
    return DatasetInfo(
      example_shape=self.example_shape,
      dtype=self.train.images.dtype.name,
      num_classes=self.num_classes,
      mean=self.mean,
      std=self.std,
      class_names=self.class_names,
      fingerprint=self._fingerprint(),
    )

  def _fingerprint(self) -> str:
    """Returns the SHA-256 of all splits."""
    digest = hashlib.sha256()
    for split in (self.train, self.test, self.validation):
      for array in () if split is None else (split.images, split.labels):
        digest.update(f"{array.dtype.name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def from_splits(
  name: str,
  num_classes: int,
  train: Split,
  test: Split,
  validation_fraction: float = 0.0,
  train_examples: int | None = None,
  class_names: tuple[str, ...] | None = None,
  validation: Split | None = None,
) -> Dataset:
  """Builds a `Dataset` from its checked splits, and takes a missing validation split out of `train`.

  Args:
    name: The name used in messages.
    num_classes: The number of classes.
    train: The whole train split.
    test: The test split.
    validation_fraction: The fraction of `train` that becomes `validation`, in [0, 1). The same fraction
      and train split always give the same examples.
    train_examples: The number of remaining examples of `train` to keep, a random subset that is always
      the same. A smaller subset is contained in a larger one. By default all are kept.
    class_names: The names of the classes in the order of the labels. By default they have no names.
    validation: The validation split. By default it is taken out of `train`.

  Returns:
    The data set, with channel statistics of the final train split.

  Raises:
    ValueError: If `validation_fraction` leaves `validation` or `train` empty, or is not 0 although
      `validation` is given, or if there are fewer than `train_examples` examples.
  """
  if validation is None:
    train, validation = _take_validation(train, validation_fraction)
  elif validation_fraction:
    checks.fail("validation_fraction", validation_fraction, "0, because the data have a validation set")
  if train_examples is not None:
    train = _take_examples(train, train_examples)
  mean, std = _channel_statistics(train.images)
  return Dataset(name, num_classes, train, test, validation, mean, std, class_names)


def check_split(what: str, split: Split, num_classes: int) -> None:
  """Raises DataError unless `split` is valid; the message starts with `what`."""
  images, labels = split.images, split.labels
  if images.ndim < 3 or images.dtype not in (np.uint8, np.float32):
    raise DataError(
      f"{what}: expected uint8 or float32 images [N, ..., C], got {images.dtype} {images.shape}"
    )
  if labels.dtype != np.int32 or labels.shape != (len(images),):
    raise DataError(f"{what}: expected int32 labels [{len(images)}], got {labels.dtype} {labels.shape}")
  if images.size == 0:
    raise DataError(f"{what}: expected at least one example, got images {images.shape}")
  if not np.isfinite(images).all():
    raise DataError(f"{what}: expected finite values, got NaN or infinity")
  if labels.min() < 0 or labels.max() >= num_classes:
    raise DataError(
      f"{what}: expected labels in 0..{num_classes - 1}, got {labels.min()}..{labels.max()}"
    )


def check_image_split(what: str, split: Split, name: str) -> None:
  """Raises DataError unless `split` matches `name` of `IMAGE_SETS`; the message starts with `what`."""
  if split.images.dtype != np.uint8 or split.images.shape[1:] != IMAGE_SHAPE:
    raise DataError(
      f"{what}: expected uint8 images [N, 32, 32, 3], got {split.images.dtype} {split.images.shape}"
    )
  check_split(what, split, IMAGE_SETS[name])


def take_test(train: Split) -> tuple[Split, Split]:
  """Returns the remaining train split and a test split: a fifth of each class, which is always the same.

  A class with two examples or more gives at least one; a single example remains in the train split.

  Raises:
    ValueError: If each class has a single example.
  """
  generator = np.random.default_rng(_TEST_SEED)
  held_out = []
  for label in np.unique(train.labels):
    indices = generator.permutation(np.flatnonzero(train.labels == label))
    count = max(1, round(_TEST_FRACTION * len(indices))) if len(indices) > 1 else 0
    held_out += indices[:count].tolist()
  if not held_out:
    checks.fail("test", None, "a test set, because each class has only one example")
  rest = np.setdiff1d(np.arange(len(train)), held_out)
  return _part(train, rest), _part(train, np.array(held_out))


def _take_validation(train: Split, fraction: float) -> tuple[Split, Split | None]:
  """Returns the remaining train split and the validation split, None for fraction 0."""
  checks.in_range("validation_fraction", fraction, 0.0, 1.0)
  if fraction == 0:
    return train, None
  count = round(fraction * len(train))
  if not 0 < count < len(train):
    checks.fail(
      "validation_fraction", fraction, f"0 or a fraction that divides {len(train)} examples in two"
    )
  order = np.random.default_rng(_VALIDATION_SEED).permutation(len(train))
  return _part(train, order[count:]), _part(train, order[:count])


def _take_examples(train: Split, count: int) -> Split:
  """Returns a fixed random subset of `count` examples of `train`."""
  if checks.positive_int("train_examples", count) > len(train):
    checks.fail("train_examples", count, f"at most the {len(train)} training examples")
  return _part(train, np.random.default_rng(_SUBSET_SEED).permutation(len(train))[:count])


def _part(split: Split, indices: np.ndarray) -> Split:
  """Returns the examples with these indices, in the order of the split."""
  indices = np.sort(indices)
  return Split(split.images[indices], split.labels[indices])


def _channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean and std of each channel, float32 [C], as `Dataset` defines them."""
  channels = images.shape[-1]
  if images.dtype == np.uint8:
    rows = images.reshape(len(images), -1)
    total = np.zeros(rows.shape[1], np.uint64)
    squares = np.zeros(rows.shape[1], np.uint64)
    for start in range(0, len(rows), _ROWS):
      values = rows[start : start + _ROWS].astype(np.uint32)
      total += values.sum(axis=0, dtype=np.uint32)
      squares += (values * values).sum(axis=0, dtype=np.uint32)
    # Python integers are exact, so a variance that is small compared to the mean keeps its digits.
    total, squares = (s.reshape(-1, channels).sum(axis=0).astype(object) for s in (total, squares))
    count = images.size // channels
    variance = (count * squares - total**2) / count**2
    mean, std = (total / count).astype(float) / 255, np.sqrt(variance.astype(float)) / 255
  else:
    values = images.reshape(-1, channels).astype(np.float64)
    mean, std = values.mean(axis=0), values.std(axis=0)
  std = std.astype(np.float32)
  return mean.astype(np.float32), np.where(std == 0, np.float32(1), std)
