"""What a labelled data set is: two or three splits in host memory and their channel statistics."""

import dataclasses

import numpy as np

from cscjax import checks

IMAGE_SHAPE = (32, 32, 3)
# Data sets of natural images: name, as in TFDS, to number of classes.
IMAGE_SETS = {"cifar10": 10, "cifar100": 100, "svhn_cropped": 10}

# Fixed, so that runs with different seeds see the same examples.
_VALIDATION_SEED = 0
_SUBSET_SEED = 1
# 512 * 255^2 fits in uint32, so sums over this many images are exact.
_ROWS = 512


class DataError(ValueError):
  """Data that is missing, damaged or unreadable; the message is one line that says what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """One labelled split.

  Attributes:
    images: uint8 [N, H, W, C] in 0..255, or float32 signals [N, L, C].
    labels: int32 [N].
  """

  images: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A data set for classification.

  Attributes:
    name: One of `DATASETS`, for messages.
    num_classes: Labels are in 0..num_classes - 1.
    train: What is trained on, without the validation examples and those that were left out.
    test: Never trained on, never touched by `validation_fraction`.
    validation: Taken out of the original train split; None if none was asked for.
    mean: float32 [C], per channel over `train`, of uint8 images scaled to 0..1 and of signals as
      they are.
    std: float32 [C], likewise; 1 where a channel is constant, so it can be divided by.
  """

  name: str
  num_classes: int
  train: Split
  test: Split
  validation: Split | None
  mean: np.ndarray
  std: np.ndarray

  @property
  def example_shape(self) -> tuple[int, ...]:
    """The shape of one example: (H, W, C) or (L, C)."""
    return self.train.images.shape[1:]


def make_dataset(
  name: str,
  num_classes: int,
  train: Split,
  test: Split,
  validation_fraction: float = 0.0,
  train_examples: int | None = None,
) -> Dataset:
  """Returns the `Dataset` of two splits, with a validation split taken out of `train`.

  Args:
    name: For messages.
    num_classes: How many classes there are.
    train: The whole train split.
    test: The test split.
    validation_fraction: In [0, 1), the share of `train` that becomes `validation`: always the same
      examples for the same fraction and train split.
    train_examples: How many of the rest of `train` to keep, drawn at random and always the same; fewer
      are a part of more. None keeps all.

  Raises:
    DataError: A split is empty, misshapen, or has a value that is not finite or a label out of range.
    ValueError: `validation_fraction` leaves `validation` or `train` empty, or there are fewer than
      `train_examples`.
  """
  check_split(f"{name} train", train, num_classes)
  check_split(f"{name} test", test, num_classes)
  train, validation = _take_validation(train, validation_fraction)
  if train_examples is not None:
    train = _take_examples(train, train_examples)
  mean, std = _channel_statistics(train.images)
  return Dataset(name, num_classes, train, test, validation, mean, std)


def check_split(what: str, split: Split, num_classes: int) -> None:
  """Raises DataError, beginning with `what`, unless `split` is one that can be trained on."""
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
  """Raises DataError, beginning with `what`, unless `split` fits `name`, one of `IMAGE_SETS`."""
  if split.images.dtype != np.uint8 or split.images.shape[1:] != IMAGE_SHAPE:
    raise DataError(
      f"{what}: expected uint8 images [N, 32, 32, 3], got {split.images.dtype} {split.images.shape}"
    )
  check_split(what, split, IMAGE_SETS[name])


def _take_validation(train: Split, fraction: float) -> tuple[Split, Split | None]:
  """Returns (what is left of `train`, the validation split or None)."""
  checks.in_range("validation_fraction", fraction, 0.0, 1.0)
  if fraction == 0:
    return train, None
  count = round(fraction * len(train))
  if not 0 < count < len(train):
    checks.fail(
      "validation_fraction", fraction, f"0 or a share that splits {len(train)} examples in two"
    )
  order = np.random.default_rng(_VALIDATION_SEED).permutation(len(train))
  return _part(train, order[count:]), _part(train, order[:count])


def _take_examples(train: Split, count: int) -> Split:
  """Returns `count` examples of `train`."""
  if checks.positive_int("train_examples", count) > len(train):
    checks.fail("train_examples", count, f"at most the {len(train)} training examples")
  return _part(train, np.random.default_rng(_SUBSET_SEED).permutation(len(train))[:count])


def _part(split: Split, indices: np.ndarray) -> Split:
  """The examples of these indices, in the order of the split."""
  indices = np.sort(indices)
  return Split(split.images[indices], split.labels[indices])


def _channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns (mean, std), float32 [C]; see `Dataset`."""
  channels = images.shape[-1]
  if images.dtype == np.uint8:
    rows = images.reshape(len(images), -1)
    total = np.zeros(rows.shape[1], np.uint64)
    squares = np.zeros(rows.shape[1], np.uint64)
    for start in range(0, len(rows), _ROWS):
      values = rows[start : start + _ROWS].astype(np.uint32)
      total += values.sum(axis=0, dtype=np.uint32)
      squares += (values * values).sum(axis=0, dtype=np.uint32)
    # Integers of Python: no digit of the variance is lost, however small it is beside the mean.
    total, squares = (s.reshape(-1, channels).sum(axis=0).astype(object) for s in (total, squares))
    count = images.size // channels
    variance = (count * squares - total**2) / count**2
    mean, std = (total / count).astype(float) / 255, np.sqrt(variance.astype(float)) / 255
  else:
    values = images.reshape(-1, channels).astype(np.float64)
    mean, std = values.mean(axis=0), values.std(axis=0)
  std = std.astype(np.float32)
  return mean.astype(np.float32), np.where(std == 0, np.float32(1), std)
