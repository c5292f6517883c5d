"""The cache of decoded data sets: `.npy` files, and a `meta.json` with their shapes and checksums.

    <cache_dir>/decoded/<name>/{train,test}_{images,labels}.npy, meta.json

The folder of a data set is written atomically, and every file is verified by its checksum before use.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
import time
import uuid

import numpy as np
import platformdirs

from cscjax.checks import one_line
from cscjax.data._dataset import DataError, Split, check_image_split

_FORMAT = 1
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_STALE_SECONDS = 24 * 3600
# The errors of renaming a folder to the path of a nonempty folder or of a file.
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def find_cache_dir(cache_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """Returns the cache directory as a path, with `~` expanded.

  Args:
    cache_dir: A directory, or None for that of the user, which platformdirs names: on Linux
      `$XDG_CACHE_HOME/cscjax` or `~/.cache/cscjax`, on macOS `~/Library/Caches/cscjax`, on Windows
      `%LOCALAPPDATA%/cscjax/Cache`.

  Returns:
    The path, whether it exists or not.

  Raises:
    DataError: If `~` cannot be expanded because the user has no home directory.

  Example:
    >>> from cscjax.data import find_cache_dir
    >>> find_cache_dir("cache").as_posix()
    'cache'
  """
  if cache_dir is None:
    return platformdirs.user_cache_path("cscjax", appauthor=False)
  return expand_home("cache_dir", cache_dir)


def expand_home(argument: str, path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns a path with `~` expanded; raises DataError if the user has no home directory."""
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise DataError(f"{argument}: cannot expand {path}, no home directory ({error})") from error


def cache_folder(cache_dir: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the folder of the cache of a data set, whether it exists or not.

  Args:
    cache_dir: The cache directory, from `find_cache_dir`.
    name: The name of the data set, one of `IMAGE_SETS`.

  Returns:
    The path `cache_dir / "decoded" / name`.

  Example:
    >>> from cscjax.data import cache_folder, find_cache_dir
    >>> cache_folder(find_cache_dir("cache"), "cifar10").as_posix()
    'cache/decoded/cifar10'
  """
  return cache_dir / "decoded" / name


def old_cache_folder(data_dir: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the folder in which cscjax 0.1.0 cached a data set, in the data directory of TFDS."""
  return data_dir / "cscjax_cache" / name


def read_cache(folder: pathlib.Path, name: str) -> tuple[Split, Split] | None:
  """Returns the (train, test) of data set `name` that are cached in a folder, or None if it is missing.

  Raises:
    DataError: If the cache is damaged. The message starts with the path of the damaged file.
  """
  path = folder / "meta.json"
  try:
    if not folder.exists():
      return None
    meta = json.loads(path.read_text(encoding="utf-8"))
    if (meta["format"], meta["name"]) != (_FORMAT, name):
      raise DataError(f"{path}: expected format {_FORMAT} and data set {name}")
    arrays = {}
    for key in _ARRAYS:
      entry = meta["arrays"][key]
      path = folder / f"{key}.npy"
      arrays[key] = _read_array(path, entry)
  except KeyError as error:
    raise DataError(f"{folder / 'meta.json'}: the key {error} is missing") from error
  except DataError:
    raise
  except (OSError, ValueError, TypeError, RecursionError) as error:
    raise DataError(f"{path}: {one_line(error)}") from error
  train = Split(arrays["train_images"], arrays["train_labels"])
  test = Split(arrays["test_images"], arrays["test_labels"])
  check_image_split(f"{folder / 'train_*.npy'}", train, name)
  check_image_split(f"{folder / 'test_*.npy'}", test, name)
  return train, test


def write_cache(folder: pathlib.Path, name: str, train: Split, test: Split) -> None:
  """Writes the cache of data set `name` to a folder, replacing an existing one.

  A crash at any time leaves no incomplete cache, and several processes may write at once.

  Raises:
    OSError: If the cache cannot be written.
  """
  folder.parent.mkdir(parents=True, exist_ok=True)
  _remove_stale(folder)
  temporary = folder.parent / f".{name}-{uuid.uuid4().hex}"
  arrays = (train.images, train.labels, test.images, test.labels)
  try:
    temporary.mkdir()
    entries = {
      key: _write_array(temporary / f"{key}.npy", array)
      for key, array in zip(_ARRAYS, arrays, strict=True)
    }
    meta = {"format": _FORMAT, "name": name, "arrays": entries}
    with open(temporary / "meta.json", "w", encoding="utf-8") as file:
      json.dump(meta, file, indent=2)
      file.flush()
      os.fsync(file.fileno())
    _put_in_place(temporary, folder)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _read_array(path: pathlib.Path, entry: dict) -> np.ndarray:
  """Reads one array and verifies its size and checksum before parsing it."""
  with open(path, "rb") as file:
    size = os.fstat(file.fileno()).st_size
    if size != entry["bytes"]:
      raise DataError(f"{path}: expected {entry['bytes']} bytes, got {size}")
    if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
      raise DataError(f"{path}: the checksum differs from that in meta.json")
    file.seek(0)
    array = np.load(file, allow_pickle=False)
  if list(array.shape) != entry["shape"] or array.dtype.name != entry["dtype"]:
    raise DataError(
      f"{path}: expected {entry['dtype']} {entry['shape']}, got {array.dtype.name} {list(array.shape)}"
    )
  return array


def _write_array(path: pathlib.Path, array: np.ndarray) -> dict:
  """Writes one array and returns its entry for meta.json."""
  with open(path, "w+b") as file:
    np.save(file, array, allow_pickle=False)
    file.flush()
    os.fsync(file.fileno())
    size = file.tell()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return {
    "shape": list(array.shape),
    "dtype": array.dtype.name,
    "bytes": size,
    "sha256": digest,
  }


def _put_in_place(temporary: pathlib.Path, folder: pathlib.Path) -> None:
  """Renames `temporary` to `folder`; if several processes do so at once, the last one wins."""
  old = temporary.with_name(temporary.name + "-old")
  while True:
    try:
      temporary.rename(folder)
      break
    except OSError as error:
      if error.errno not in _OCCUPIED:
        raise
    shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
      folder.rename(old)
  shutil.rmtree(old, ignore_errors=True)


def _remove_stale(folder: pathlib.Path) -> None:
  """Removes old temporary folders of crashed writers; newer folders may still be in use."""
  for path in folder.parent.glob(f".{folder.name}-*"):
    with contextlib.suppress(OSError):
      if time.time() - path.stat().st_mtime > _STALE_SECONDS:
        shutil.rmtree(path, ignore_errors=True)
