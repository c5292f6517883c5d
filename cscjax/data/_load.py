"""Loads data sets by name, and fills the cache of the image sets."""

import hashlib
import logging
import os
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

from cscjax import checks
from cscjax.checks import one_line
from cscjax.data._arrays import assemble
from cscjax.data._builtin import digits, gaussian_centers
from cscjax.data._cache import (
  cache_folder,
  expand_home,
  find_cache_dir,
  old_cache_folder,
  read_cache,
  write_cache,
)
from cscjax.data._dataset import (
  IMAGE_SETS,
  IMAGE_SHAPE,
  DataError,
  Dataset,
  Split,
  check_image_split,
  from_splits,
)
from cscjax.data._download import download as download_splits
from cscjax.data._files import READERS, read_files
from cscjax.data._info import CLASS_NAMES
from cscjax.data._prepared import find_prepared, read_prepared


class BuiltIn(NamedTuple):
  """A data set that requires no files.

  Attributes:
    example_shape: The shape of one example.
    num_classes: The number of classes.
    load: A function that returns (train, test).
  """

  example_shape: tuple[int, ...]
  num_classes: int
  load: Callable[[], tuple[Split, Split]]


def _gaussian_splits() -> tuple[Split, Split]:
  data = gaussian_centers()
  return data.train, data.test


BUILT_IN = {
  "digits": BuiltIn((8, 8, 1), 10, digits),
  "gaussian_centers": BuiltIn((100, 1), 100, _gaussian_splits),
}
DATASETS = (*BUILT_IN, *IMAGE_SETS)
"""The names of all data sets that are not the user's own.

To add one, add a line to `BUILT_IN` or `IMAGE_SETS`.
"""

_log = logging.getLogger(__name__)


def load_dataset(
  name: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  cache_dir: str | os.PathLike[str] | None = None,
  validation_fraction: float = 0.0,
  train_examples: int | None = None,
  download: bool = True,
) -> Dataset:
  """Loads a data set into host memory.

  `digits` and `gaussian_centers` require no files. The image sets are loaded from the first available
  source: the cache (about a second), the cache of cscjax 0.1.0 in `data_dir`, a data set prepared by
  TFDS, or the original archive, which is downloaded. All but the first also write the cache. All sources
  give the same arrays in the same order.

  Data of your own are an .npz file or a folder of images of equal size:

  - "npz:FILE" has the arrays `train_images` and `train_labels` of `make_dataset`, and optionally
    `test_images`, `test_labels`, `val_images`, `val_labels` and `class_names`.
  - "folder:DIR" has a folder of images for each class. As in torchvision's ImageFolder, the classes are
    numbered in the order of their names. DIR may also contain such folders in train/ and test/, and in
    val/. The images are read as RGB, or as grey images if the first one is grey; this needs the extra
    `images`. Hidden files, and files without the ending of an image, are ignored.

  In both, val is the validation set, or the test set if there is no other one. Without a test set, a
  fifth of the images of each class, always the same, is held out as the test set.

  Args:
    name: One of `DATASETS` ("digits", "gaussian_centers", "cifar10", "cifar100" or "svhn_cropped"),
      "npz:FILE" or "folder:DIR".
    data_dir: The data directory of TFDS, which is only read. By default $TFDS_DATA_DIR, or
      ~/tensorflow_datasets if that is not set.
    cache_dir: The directory of the cache. By default that of the user, see `find_cache_dir`.
    validation_fraction: The fraction of the train split that becomes `validation`, in [0, 1). The same
      fraction always gives the same examples.
    train_examples: The number of the remaining training examples to keep, a random subset that is always
      the same. By default all are kept.
    download: Whether a missing data set may be downloaded.

  Returns:
    A `Dataset` with the splits, the number of classes and the channel statistics.

  Raises:
    DataError: If the data are missing, damaged or unreadable, or if data of your own do not have the
      form above. The message names the file.
    MissingExtraError: If a package that reads the data is not installed.
    ValueError: If `name`, `validation_fraction` or `train_examples` is invalid.

  Example:
    >>> from cscjax.data import load_dataset
    >>> data = load_dataset("gaussian_centers", validation_fraction=0.1)
    >>> len(data.train), len(data.validation), len(data.test)
    (9000, 1000, 2000)
    >>> import numpy as np
    >>> images = np.zeros((20, 9, 9, 3), np.uint8)
    >>> np.savez("my.npz", train_images=images, train_labels=np.arange(20) % 2)
    >>> data = load_dataset("npz:my.npz")
    >>> data.example_shape, data.num_classes, len(data.train), len(data.test)
    ((9, 9, 3), 2, 16, 4)
  """
  check_name("name", name)
  checks.in_range("validation_fraction", validation_fraction, 0.0, 1.0)
  if name not in DATASETS:
    return assemble(name, read_files(name), validation_fraction, train_examples)
  _, num_classes = dataset_shape(name)
  if name in BUILT_IN:
    train, test = BUILT_IN[name].load()
  else:
    train, test = _load_images(name, find_data_dir(data_dir), find_cache_dir(cache_dir), download)
  names = CLASS_NAMES.get(name)
  return from_splits(name, num_classes, train, test, validation_fraction, train_examples, names)


def dataset_shape(name: str) -> tuple[tuple[int, ...], int]:
  """Returns the shape of one example and the number of classes.

  Args:
    name: One of `DATASETS`, whose data are not needed; or "npz:FILE" or "folder:DIR", whose data are
      read.

  Returns:
    A pair: the shape, (H, W, C) or (L, C), and the number of classes.

  Raises:
    DataError: If the data are read and are missing, unreadable or of the wrong form.
    MissingExtraError: If a package that reads the data is not installed.
    ValueError: If `name` is not the name of a data set.

  Example:
    >>> from cscjax.data import dataset_shape
    >>> dataset_shape("cifar10")
    ((32, 32, 3), 10)
  """
  check_name("name", name)
  if name in IMAGE_SETS:
    return IMAGE_SHAPE, IMAGE_SETS[name]
  if name in BUILT_IN:
    return BUILT_IN[name].example_shape, BUILT_IN[name].num_classes
  parts = read_files(name)
  return parts.train.images.shape[1:], parts.num_classes


def check_name(argument: str, name: str) -> str:
  """Checks that an argument is the name of a data set; data of the user's own need not exist.

  Args:
    argument: The name of the argument.
    name: The value to check: one of `DATASETS`, "npz:FILE" or "folder:DIR".

  Returns:
    The value.

  Raises:
    ValueError: If the value is not such a name.

  Example:
    >>> from cscjax.data import check_name
    >>> check_name("dataset", "folder:photos")
    'folder:photos'
  """
  if isinstance(name, str) and re.fullmatch(rf"({'|'.join(READERS)}):.+", name):
    return name
  return checks.one_of(argument, name, (*DATASETS, "npz:FILE", "folder:DIR"))


def find_data_dir(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """Returns the data directory as a path, with `~` expanded.

  Args:
    data_dir: An existing directory, or None for the default of TFDS: $TFDS_DATA_DIR, or
      ~/tensorflow_datasets if that is not set.

  Returns:
    The path. The default is returned whether it exists or not.

  Raises:
    DataError: If `data_dir` is not an existing directory, or if `~` cannot be expanded because the user
      has no home directory.

  Example:
    >>> import pathlib
    >>> from cscjax.data import find_data_dir
    >>> pathlib.Path("data").mkdir()
    >>> find_data_dir("data").as_posix()
    'data'
  """
  given = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets") if data_dir is None else data_dir
  path = expand_home("data_dir", given)
  if data_dir is not None and not path.is_dir():
    raise DataError(f"data_dir: no such directory: {path}")
  return path


def fill_cache(
  name: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  cache_dir: str | os.PathLike[str] | None = None,
  splits: tuple[Split, Split] | None = None,
) -> tuple[Split, Split]:
  """Writes the cache of an image data set ahead of its use, for example for a machine that is offline.

  Afterwards `load_dataset` requires only the folder `cache_folder(find_cache_dir(cache_dir), name)`. It
  can be copied to another machine.

  Args:
    name: One of `IMAGE_SETS`: "cifar10", "cifar100" or "svhn_cropped".
    data_dir: The data directory of TFDS, which is only read. By default $TFDS_DATA_DIR, or
      ~/tensorflow_datasets if that is not set.
    cache_dir: The directory of the cache, created if it is missing. By default that of the user, see
      `find_cache_dir`.
    splits: The pair (train, test) to cache, replacing an existing cache. By default the splits are
      loaded from the sources of `load_dataset`, and an intact cache is kept.

  Returns:
    The pair (train, test) as cached, in an order that does not depend on the source.

  Raises:
    DataError: If the data are missing, damaged or unreadable, or if the cache cannot be written.
    MissingExtraError: If a package that reads the data is not installed.
    ValueError: If `name` is not one of `IMAGE_SETS`.

  Example:
    >>> import numpy as np
    >>> from cscjax.data import Split, fill_cache, load_dataset
    >>> split = Split(np.zeros((5, 32, 32, 3), np.uint8), np.arange(5, dtype=np.int32))
    >>> _ = fill_cache("cifar10", cache_dir="cache", splits=(split, split))
    >>> len(load_dataset("cifar10", cache_dir="cache", download=False).train)
    5
  """
  checks.one_of("name", name, IMAGE_SETS)
  target = find_cache_dir(cache_dir)
  if splits is None:
    return _load_images(name, find_data_dir(data_dir), target, download=True, require_cache=True)
  for key, split in zip(("train", "test"), splits, strict=True):
    check_image_split(f"{name} {key}", split, name)
  return _write(name, target, *splits, required=True)


def _load_images(
  name: str,
  data_dir: pathlib.Path,
  cache_dir: pathlib.Path,
  download: bool,
  require_cache: bool = False,
) -> tuple[Split, Split]:
  """Returns (train, test) of one of `IMAGE_SETS` from its cache, or from another source and caches it.

  Raises:
    DataError: If the data are missing, damaged or unreadable, or if the cache cannot be written and
      `require_cache` is set. Without `require_cache`, a failed write is logged as a warning.
  """
  found, damage = _read(cache_folder(cache_dir, name), name)
  if found is not None:
    return found
  found, old_damage = _read(old_cache_folder(data_dir, name), name)
  damage = damage or old_damage
  prepared = find_prepared(data_dir, name) if found is None else None
  if prepared is not None:
    found = read_prepared(prepared, name)
  elif found is None and download:
    try:
      found = download_splits(name)
    except DataError as error:
      raise DataError(_missing(name, data_dir, cache_dir, damage, str(error))) from error
  elif found is None:
    raise DataError(_missing(name, data_dir, cache_dir, damage, "downloads are disabled"))
  if damage is not None:
    _log.warning("%s; writing it again", damage)
  return _write(name, cache_dir, *found, required=require_cache)


def _read(folder: pathlib.Path, name: str) -> tuple[tuple[Split, Split] | None, str | None]:
  """Returns the content of a cache, None if it is missing or damaged, and the damage, None if intact."""
  try:
    return read_cache(folder, name), None
  except DataError as error:
    return None, f"damaged cache: {error}"


def _write(
  name: str, cache_dir: pathlib.Path, train: Split, test: Split, required: bool
) -> tuple[Split, Split]:
  """Writes the cache and returns its content; a failure is logged, or raised if `required`."""
  train, test = _in_canonical_order(train), _in_canonical_order(test)
  folder = cache_folder(cache_dir, name)
  try:
    write_cache(folder, name, train, test)
  except OSError as error:
    problem = f"{folder}: cannot write the cache ({one_line(error)})"
    if required:
      raise DataError(problem) from error
    _log.warning("%s; continuing without it", problem)
  return train, test


def _in_canonical_order(split: Split) -> Split:
  """Returns `split` sorted by a hash of each example.

  TFDS, the original archives and other sources contain the same examples in different orders. With this
  order, a seed gives the same batches and a validation fraction the same examples for every source.
  """
  rows = split.images.reshape(len(split), -1)
  digests = [
    hashlib.sha256(row.tobytes() + label.tobytes()).digest()
    for row, label in zip(rows, split.labels, strict=True)
  ]
  order = sorted(range(len(split)), key=digests.__getitem__)
  return Split(split.images[order], split.labels[order])


def _missing(
  name: str, data_dir: pathlib.Path, cache_dir: pathlib.Path, damage: str | None, reason: str
) -> str:
  """Returns the message for a data set that cannot be loaded, in one line."""
  folder = cache_folder(cache_dir, name)
  found = (
    damage or f"data_dir: {data_dir} contains no {name} prepared by TFDS, and {folder} does not exist"
  )
  return (
    f"{found}; {reason}; load it on a machine with a network and copy "
    f"{folder}, or pass a data directory in which TFDS has prepared it"
  )
