"""One function from the name of a data set to its arrays."""

import logging
import os
import pathlib

from cscjax import checks
from cscjax.data._cache import cache_folder, read_cache, write_cache
from cscjax.data._dataset import DataError, Dataset, Split, make_dataset
from cscjax.data._digits import digits
from cscjax.data._download import download as download_splits
from cscjax.data._image_sets import IMAGE_SETS, IMAGE_SHAPE, in_canonical_order, one_line
from cscjax.data._prepared import find_prepared, read_prepared
from cscjax.data._synthetic import gaussian_centers

DATASETS = ("digits", *IMAGE_SETS, "gaussian_centers")

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
    ValueError: `name`, `validation_fraction` or `train_examples` is not a valid value.
  """
  checks.one_of("dataset", name, DATASETS)
  checks.in_range("validation_fraction", validation_fraction, 0.0, 1.0)
  if name == "digits":
    num_classes, (train, test) = 10, digits()
  elif name == "gaussian_centers":
    made = gaussian_centers()
    num_classes, train, test = made.num_classes, made.train, made.test
  else:
    num_classes = IMAGE_SETS[name]
    train, test = load_images(name, find_data_dir(data_dir), download)
  return make_dataset(name, num_classes, train, test, validation_fraction, train_examples)


def dataset_shape(name: str) -> tuple[tuple[int, ...], int]:
  """The shape of one example and the number of classes, without loading anything.

  Args:
    name: One of `DATASETS`.

  Raises:
    ValueError: `name` is not one of them.
  """
  checks.one_of("dataset", name, DATASETS)
  if name in IMAGE_SETS:
    return IMAGE_SHAPE, IMAGE_SETS[name]
  return {"digits": ((8, 8, 1), 10), "gaussian_centers": ((100, 1), 100)}[name]


def find_data_dir(data_dir: str | os.PathLike[str] | None, create: bool = False) -> pathlib.Path:
  """Returns the directory that `data_dir` means; None means TFDS's default, there or not.

  Args:
    data_dir: As given by the user.
    create: Make an explicit `data_dir` that is not there, instead of raising.

  Raises:
    DataError: An explicit `data_dir` is not there, or cannot be made; or it begins with the home
      directory of a user that has none.
  """
  default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  try:
    path = pathlib.Path(default if data_dir is None else data_dir).expanduser()
  except RuntimeError as error:
    raise DataError(f"--data_dir: {data_dir or default} has no home directory ({error})") from error
  if data_dir is None:
    return path
  if create:
    try:
      path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise DataError(f"--data_dir: cannot create {path} ({one_line(error)})") from error
  if not path.is_dir():
    raise DataError(f"--data_dir: no such directory: {path}")
  return path


def load_images(
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
  return fill_cache(name, data_dir, *found, require_cache=require_cache)


def fill_cache(
  name: str, data_dir: pathlib.Path, train: Split, test: Split, require_cache: bool = True
) -> tuple[Split, Split]:
  """Writes the cache and returns what it holds: (train, test) in canonical order.

  Raises:
    DataError: `require_cache` and the cache cannot be written (otherwise a warning).
  """
  train, test = in_canonical_order(train), in_canonical_order(test)
  try:
    write_cache(data_dir, name, train, test)
  except OSError as error:
    problem = f"{cache_folder(data_dir, name)}: cannot write the cache ({one_line(error)})"
    if require_cache:
      raise DataError(problem) from error
    _log.warning("%s; going on without it", problem)
  return train, test


def _missing(name: str, data_dir: pathlib.Path, damage: str | None, reason: str) -> str:
  """What to say, in one line, where a data set cannot be had."""
  found = damage or f"{name}: neither cached nor prepared by TFDS in --data_dir {data_dir}"
  return (
    f"{found}; {reason}; run where there is a network, point --data_dir at a directory with "
    f"{name} prepared by TFDS, or fill the cache with "
    f"python -m experiments.prepare_data --dataset={name} --shards=FOLDER"
  )
