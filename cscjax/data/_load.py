"""One function from the name of a data set to its arrays."""

import hashlib
import logging
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from cscjax import checks
from cscjax.checks import one_line
from cscjax.data._builtin import digits, gaussian_centers
from cscjax.data._cache import cache_folder, read_cache, write_cache
from cscjax.data._dataset import (
  IMAGE_SETS,
  IMAGE_SHAPE,
  DataError,
  Dataset,
  Split,
  check_image_split,
  make_dataset,
)
from cscjax.data._download import download as download_splits
from cscjax.data._prepared import find_prepared, read_prepared


class BuiltIn(NamedTuple):
  """A data set that needs no files.

  Attributes:
    example_shape: Shape of one example.
    num_classes: Number of classes.
    load: Returns (train, test).
  """

  example_shape: tuple[int, ...]
  num_classes: int
  load: Callable[[], tuple[Split, Split]]


def _gaussian_splits():
  made = gaussian_centers()
  return made.train, made.test


BUILT_IN = {
  "digits": BuiltIn((8, 8, 1), 10, digits),
  "gaussian_centers": BuiltIn((100, 1), 100, _gaussian_splits),
}
DATASETS = (*BUILT_IN, *IMAGE_SETS)
"""Names of the data sets; a new one is a line in one of the two tables."""

_log = logging.getLogger(__name__)


def load_dataset(
  name: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  validation_fraction: float = 0.0,
  train_examples: int | None = None,
  download: bool = True,
) -> Dataset:
  """Loads a data set into host memory.

  `digits` and `gaussian_centers` need no files. The others come from the first of these that is
  there: the cache, which takes about a second; a data set prepared by TFDS; the original archive,
  downloaded. After the latter two the cache is written. All give the same arrays in the same order.

  Args:
    name: One of `DATASETS`.
    data_dir: TFDS's data directory, with the cache in it. By default TFDS's own:
      $TFDS_DATA_DIR or ~/tensorflow_datasets.
    validation_fraction: In [0, 1), the share of the train split that becomes `validation`.
    train_examples: How many of the others to train on, see `make_dataset`; None: all.
    download: Whether the network may be used.

  Raises:
    DataError: The data are missing, damaged or unreadable.
    MissingExtraError: A package that reads the data is not installed.
    ValueError: `name`, `validation_fraction` or `train_examples` is not a valid value.
  """
  checks.one_of("name", name, DATASETS)
  checks.in_range("validation_fraction", validation_fraction, 0.0, 1.0)
  _, num_classes = dataset_shape(name)
  if name in BUILT_IN:
    train, test = BUILT_IN[name].load()
  else:
    train, test = _load_images(name, find_data_dir(data_dir), download)
  return make_dataset(name, num_classes, train, test, validation_fraction, train_examples)


def dataset_shape(name: str) -> tuple[tuple[int, ...], int]:
  """The shape of one example and the number of classes, without loading anything.

  Args:
    name: One of `DATASETS`.

  Raises:
    ValueError: `name` is not one of them.
  """
  checks.one_of("name", name, DATASETS)
  if name in IMAGE_SETS:
    return IMAGE_SHAPE, IMAGE_SETS[name]
  return BUILT_IN[name].example_shape, BUILT_IN[name].num_classes


def find_data_dir(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """Returns the directory that `data_dir` means; None means TFDS's default, whether it exists or not.

  Args:
    data_dir: As given by the user. `~` stands for the home directory.

  Raises:
    DataError: `data_dir` is not a directory, or begins with the home directory of a user that has none.
  """
  path = _expanded(data_dir)
  if data_dir is not None and not path.is_dir():
    raise DataError(f"data_dir: no such directory: {path}")
  return path


def _expanded(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  given = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets") if data_dir is None else data_dir
  try:
    return pathlib.Path(given).expanduser()
  except RuntimeError as error:
    raise DataError(f"data_dir: {given} has no home directory ({error})") from error


def fill_cache(
  name: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  splits: tuple[Split, Split] | None = None,
) -> tuple[Split, Split]:
  """Caches a data set of natural images ahead of its use, for example for a machine without network.

  `load_dataset` then needs nothing but `cache_folder(data_dir, name)`, which may be copied.

  Args:
    name: One of `IMAGE_SETS`.
    data_dir: As in `load_dataset`. Made if it does not exist and `splits` are given.
    splits: (train, test) to cache in place of what may be there. By default they come from where
      `load_dataset` finds them, and a cache that is there and whole stays.

  Returns:
    (train, test) as they are in the cache, in an order that does not depend on where they came from.

  Raises:
    DataError: The data are missing, damaged or unreadable, or the cache cannot be written.
    MissingExtraError: A package that reads the data is not installed.
    ValueError: `name` is not one of `IMAGE_SETS`.
  """
  checks.one_of("name", name, IMAGE_SETS)
  if splits is None:
    return _load_images(name, find_data_dir(data_dir), download=True, require_cache=True)
  for key, split in zip(("train", "test"), splits, strict=True):
    check_image_split(f"{name} {key}", split, name)
  return _write(name, _expanded(data_dir), *splits, required=True)


def _load_images(
  name: str, data_dir: pathlib.Path, download: bool, require_cache: bool = False
) -> tuple[Split, Split]:
  """Returns (train, test) of a data set of `IMAGE_SETS` from its cache, or finds it and caches it.

  Raises:
    DataError: The data are missing, damaged or unreadable; or `require_cache` and the cache cannot
      be written (otherwise a warning).
  """
  damage = None
  try:
    cached = read_cache(data_dir, name)
    if cached is not None:
      return cached
  except DataError as error:
    damage = f"damaged cache: {error}"
  prepared = find_prepared(data_dir, name)
  if prepared is not None:
    found = read_prepared(prepared, name)
  elif download:
    try:
      found = download_splits(name)
    except DataError as error:
      raise DataError(_missing(name, data_dir, damage, str(error))) from error
  else:
    raise DataError(_missing(name, data_dir, damage, "downloading is off"))
  if damage is not None:
    _log.warning("%s; it is made anew", damage)
  return _write(name, data_dir, *found, required=require_cache)


def _write(
  name: str, data_dir: pathlib.Path, train: Split, test: Split, required: bool
) -> tuple[Split, Split]:
  """Writes the cache and returns what it holds; if it cannot be written, DataError or a warning."""
  train, test = _in_canonical_order(train), _in_canonical_order(test)
  try:
    write_cache(data_dir, name, train, test)
  except OSError as error:
    problem = f"{cache_folder(data_dir, name)}: cannot write the cache ({one_line(error)})"
    if required:
      raise DataError(problem) from error
    _log.warning("%s; going on without it", problem)
  return train, test


def _in_canonical_order(split: Split) -> Split:
  """Returns `split` ordered by a hash of each example.

  TFDS, the original archives and other sources hold the same examples in different orders. In this
  order a seed gives the same batches, and a validation fraction the same examples, on every machine.
  """
  rows = split.images.reshape(len(split), -1)
  digests = [
    hashlib.sha256(row.tobytes() + label.tobytes()).digest()
    for row, label in zip(rows, split.labels, strict=True)
  ]
  order = sorted(range(len(split)), key=digests.__getitem__)
  return Split(split.images[order], split.labels[order])


def _missing(name: str, data_dir: pathlib.Path, damage: str | None, reason: str) -> str:
  """What to say, in one line, where a data set cannot be had."""
  found = damage or f"data_dir: {data_dir} has neither a cache of {name} nor {name} prepared by TFDS"
  return (
    f"{found}; {reason}; load it once where there is a network and copy {cache_folder(data_dir, name)}, "
    "or name a directory where TFDS has prepared it"
  )
