"""Data sets of arrays that users provide: checks, conversions and missing splits."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cscjax import checks
from cscjax.data._dataset import Dataset, Split, from_splits, take_test

_INT32 = 2**31 - 1


class GivenSplit(NamedTuple):
  """The arrays of a split as a user provides them.

  Attributes:
    name: What precedes "images" and "labels" in error messages.
    images: The images.
    labels: The labels.
  """

  name: str
  images: Any
  labels: Any


class Parts(NamedTuple):
  """The checked parts of a data set, before the validation split is taken out of `train`."""

  train: Split
  test: Split
  validation: Split | None
  num_classes: int
  class_names: tuple[str, ...] | None


def make_dataset(
  images: ArrayLike,
  labels: ArrayLike,
  *,
  test: tuple[ArrayLike, ArrayLike] | None = None,
  validation: tuple[ArrayLike, ArrayLike] | None = None,
  class_names: Sequence[str] | None = None,
  validation_fraction: float = 0.0,
  train_examples: int | None = None,
  name: str = "data",
) -> Dataset:
  """Makes a data set from arrays.

  Args:
    images: The training images: uint8 in 0..255 of shape [N, H, W, C], or [N, H, W] for grey images; or
      floating-point images [N, H, W, C] or signals [N, L, C] on any scale, which become float32.
    labels: The classes of the training images, integers 0, 1, 2, ... of any type and of shape [N] or
      [N, 1]. There must be at least two classes.
    test: The images and labels of the test set. By default a fifth of the training images of each class,
      always the same, is held out as the test set.
    validation: The images and labels of the validation set. By default there is none, or it is taken out
      of the training set by `validation_fraction`.
    class_names: The names of the classes in the order of the labels. By default they have no names, and
      each class up to the largest label needs a training image.
    validation_fraction: The fraction of the training set that becomes the validation set, in [0, 1). The
      same fraction always gives the same examples.
    train_examples: The number of the remaining training images to keep, a random subset that is always
      the same. By default all are kept.
    name: The name of the data set, used in messages.

  Returns:
    The data set, with the mean and the standard deviation of each channel of the training set.

  Raises:
    ValueError: If an array has a wrong shape, type or value, the sets have images of different shapes
      or types, `class_names` are not different strings, or `validation_fraction` or `train_examples`
      does not fit the data.

  Example:
    >>> import numpy as np
    >>> from cscjax.data import make_dataset
    >>> labels = np.arange(50) % 2
    >>> images = np.random.default_rng(0).integers(0, 256, (50, 12, 16), dtype=np.uint8)
    >>> data = make_dataset(images, labels, class_names=["cat", "dog"])
    >>> data.example_shape, data.num_classes, len(data.train), len(data.test)
    ((12, 16, 1), 2, 40, 10)
  """
  parts = to_parts(
    GivenSplit("", images, labels),
    _given("test", test),
    _given("validation", validation),
    class_names,
  )
  return assemble(name, parts, validation_fraction, train_examples)


def assemble(name: str, parts: Parts, validation_fraction: float, train_examples: int | None) -> Dataset:
  """Makes the data set of checked parts, see `make_dataset`.

  Raises:
    ValueError: If `validation_fraction` or `train_examples` does not fit the data.
  """
  return from_splits(
    name,
    parts.num_classes,
    parts.train,
    parts.test,
    validation_fraction,
    train_examples,
    parts.class_names,
    parts.validation,
  )


def to_parts(
  train: GivenSplit, test: GivenSplit | None, validation: GivenSplit | None, class_names: Any = None
) -> Parts:
  """Checks and converts arrays as `make_dataset` documents it, and makes a missing test set.

  Raises:
    ValueError: If an array, or their combination, is invalid.
  """
  names = None if class_names is None else _checked_names(class_names)
  whole = _to_split(train)
  num_classes = _count_classes(train.name, whole.labels, names)
  others = [
    None if given is None else _like(whole, given, _to_split(given), num_classes)
    for given in (test, validation)
  ]
  if others[0] is None:
    whole, others[0] = take_test(whole)
  return Parts(whole, others[0], others[1], num_classes, names)


def _given(name: str, pair: Any) -> GivenSplit | None:
  """Returns the split of an argument of `make_dataset`, which is a pair or None."""
  if pair is None:
    return None
  if not isinstance(pair, tuple | list) or len(pair) != 2:
    checks.fail(name, type(pair).__name__, "a pair (images, labels)")
  return GivenSplit(f"{name} ", *pair)


def _to_split(given: GivenSplit) -> Split:
  """Returns the arrays with the types and shapes of a `Split`."""
  try:
    images, labels = np.asarray(given.images), np.asarray(given.labels)
  except ValueError:
    checks.fail(f"{given.name}images", "nested lists of different lengths", "images of equal size")
  if images.dtype == np.uint8 and images.ndim == 3:
    images = images[..., None]
  elif np.issubdtype(images.dtype, np.floating):
    with np.errstate(over="ignore"):  # infinity is an error below
      images = images.astype(np.float32)
  if images.dtype not in (np.uint8, np.float32) or images.ndim not in (3, 4):
    expected = "uint8 images [N, H, W, C] or [N, H, W], or floating-point [N, H, W, C] or [N, L, C]"
    checks.fail(f"{given.name}images", f"{images.dtype.name} {images.shape}", expected)
  if images.size == 0:
    checks.fail(f"{given.name}images", images.shape, "at least one image, of at least one pixel")
  if images.dtype == np.float32 and not np.isfinite(images).all():
    checks.fail(f"{given.name}images", "NaN or infinity", "finite values")
  _warn_about_axes(f"{given.name}images", images.shape)
  if labels.shape == (len(images), 1):
    labels = labels[:, 0]
  if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
    expected = f"integers [{len(images)}], one for each image"
    checks.fail(f"{given.name}labels", f"{labels.dtype.name} {labels.shape}", expected)
  if labels.min() < 0 or labels.max() > _INT32:
    checks.fail(f"{given.name}labels", _range(labels), "classes 0, 1, 2, ...")
  return Split(images, labels.astype(np.int32))


def _warn_about_axes(name: str, shape: tuple[int, ...]) -> None:
  """Warns about images whose axes are probably not those that the caller meant."""
  checks.warn_if_channels_first(name, shape)
  if len(shape) == 3 and shape[1] == shape[2]:
    checks.warn(
      f"{name}: expected floating-point images [N, H, W, C] or signals [N, L, C], got {shape}, which"
      " looks like grey images and is used as signals; use images[..., None]"
    )


def _like(train: Split, given: GivenSplit, split: Split, num_classes: int) -> Split:
  """Returns a split after checking that its examples are like those of the training set."""
  form, found = (
    f"{s.images.dtype.name} [N, {', '.join(map(str, s.images.shape[1:]))}]" for s in (train, split)
  )
  if found != form:
    checks.fail(f"{given.name}images", found, f"{form}, as the training images")
  if split.labels.max() >= num_classes:
    checks.fail(f"{given.name}labels", _range(split.labels), f"classes in 0..{num_classes - 1}")
  return split


def _count_classes(name: str, labels: np.ndarray, names: tuple[str, ...] | None) -> int:
  """Returns the number of classes, whose names or training labels are given."""
  present = np.unique(labels)
  if len(present) < 2:
    checks.fail(f"{name}labels", f"only class {present[0]}", "at least two classes")
  if names is not None:
    if present[-1] >= len(names):
      checks.fail(f"{name}labels", _range(labels), f"classes in 0..{len(names) - 1}, one per name")
    return len(names)
  absent = np.flatnonzero(present != np.arange(len(present)))
  if len(absent):
    expected = f"an example of each class in 0..{present[-1]}, or class_names"
    checks.fail(f"{name}labels", f"none of class {absent[0]}", expected)
  return len(present)


def _checked_names(names: Any) -> tuple[str, ...]:
  """Returns the names of the classes as a tuple of different strings."""
  found = tuple(names) if np.ndim(names) == 1 else (names,)
  if not all(isinstance(name, str) for name in found) or len(set(found)) != max(len(found), 2):
    checks.fail("class_names", names, "at least two strings, all different")
  return tuple(map(str, found))


def _range(labels: np.ndarray) -> str:
  return f"{labels.min()}..{labels.max()}"
