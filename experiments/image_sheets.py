"""Reads CIFAR-style images from lossless WebP sheets, for machines without TensorFlow Datasets."""

import pathlib

import numpy as np

from cscjax.checks import one_line
from cscjax.data import IMAGE_SETS, DataError, Split
from cscjax.extras import needs

# A sheet has 50 rows and 100 columns of tiles of 32 x 32 pixels, in row-major order.
_ROWS, _COLUMNS, _SIDE = 50, 100, 32


def read_sheets(folder: str | pathlib.Path, name: str) -> tuple[Split, Split]:
  """Reads the training and the test split of a data set from a folder of image sheets.

  Args:
    folder: Contains train-00.webp, train-01.webp, ..., test-00.webp, ... with 5,000 images each, and
      labels.npz with the integer arrays `train` [N] and `test` [N], in the order of the images.
    name: Name of the data set, one of `cscjax.data.IMAGE_SETS`.

  Returns:
    The splits (train, test), with uint8 images [N, 32, 32, 3].

  Raises:
    DataError: If a file is missing or damaged, or does not fit the others.
    MissingExtraError: If Pillow is not installed.
  """
  folder = pathlib.Path(folder).expanduser()
  if not folder.is_dir():
    raise DataError(f"shards: no such directory: {folder}")
  path = folder / "labels.npz"
  try:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
      labels = {key: stored[key] for key in ("train", "test")}
  except Exception as error:  # a damaged zip file raises many types
    raise DataError(f"{path}: missing or damaged ({one_line(error)})") from error
  train, test = (_read_split(folder, key, labels[key], name) for key in ("train", "test"))
  return train, test


def _read_split(folder: pathlib.Path, key: str, labels: np.ndarray, name: str) -> Split:
  paths = sorted(folder.glob(f"{key}-*.webp"))
  expected = [f"{key}-{i:02d}.webp" for i in range(max(len(paths), 1))]
  for path, file in zip(paths or [folder], expected, strict=True):
    if path.name != file:
      raise DataError(f"{folder / file}: missing")
  count = len(paths) * _ROWS * _COLUMNS
  if labels.shape != (count,) or labels.dtype.kind not in "iu":
    raise DataError(
      f"{folder / 'labels.npz'}: expected {count} integers in {key}, one for each image, "
      f"got {labels.dtype} {labels.shape}"
    )
  if labels.min() < 0 or labels.max() >= IMAGE_SETS[name]:  # before the conversion to int32
    raise DataError(
      f"{folder / 'labels.npz'}: expected {key} labels in 0..{IMAGE_SETS[name] - 1}, "
      f"got {labels.min()}..{labels.max()}"
    )
  images = np.concatenate([_read_sheet(path) for path in paths])
  return Split(images, labels.astype(np.int32))


def _read_sheet(path: pathlib.Path) -> np.ndarray:
  """Returns the uint8 images [5000, 32, 32, 3] of one sheet."""
  with needs("tfds", f"reading {path} needs Pillow"):
    from PIL import Image
  try:
    with Image.open(path) as image:
      sheet = np.asarray(image.convert("RGB"))
  except Exception as error:  # Pillow raises many types
    raise DataError(f"{path}: damaged or not an image ({one_line(error)})") from error
  shape = (_ROWS * _SIDE, _COLUMNS * _SIDE, 3)
  if sheet.shape != shape:
    raise DataError(f"{path}: expected a sheet of shape {shape}, got {sheet.shape}")
  tiles = sheet.reshape(_ROWS, _SIDE, _COLUMNS, _SIDE, 3).transpose(0, 2, 1, 3, 4)
  return tiles.reshape(-1, _SIDE, _SIDE, 3)
