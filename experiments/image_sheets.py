"""Reads CIFAR-style images from lossless WebP sheets, for machines without TFDS."""

import pathlib

import numpy as np

from cscjax.checks import one_line
from cscjax.data import IMAGE_SETS, DataError, Split
from cscjax.extras import needs

# One sheet: 50 rows x 100 columns of 32 x 32 tiles, row by row.
_ROWS, _COLUMNS, _SIDE = 50, 100, 32


def read_sheets(folder: str | pathlib.Path, name: str) -> tuple[Split, Split]:
  """Returns (train, test) of data set `name` from a folder of image sheets.

  Args:
    folder: Holds train-00.webp, train-01.webp, ..., test-00.webp, ... with 5,000 images each, and
      labels.npz with the arrays `train` [N] and `test` [N], in the order of the sheets.
    name: One of `IMAGE_SETS`.

  Raises:
    DataError: A file is missing, damaged or does not fit the others.
    MissingExtraError: Pillow is not installed.
  """
  folder = pathlib.Path(folder).expanduser()
  if not folder.is_dir():
    raise DataError(f"shards: no such directory: {folder}")
  path = folder / "labels.npz"
  try:
    with np.load(path, allow_pickle=False) as stored:
      labels = {key: stored[key] for key in ("train", "test")}
  except Exception as error:  # A damaged zip file raises many kinds.
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
      f"{folder / 'labels.npz'}: expected {count} integers in {key}, as many as there are images, "
      f"got {labels.dtype} {labels.shape}"
    )
  if labels.min() < 0 or labels.max() >= IMAGE_SETS[name]:  # before they are cut to 32 bits
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
  except Exception as error:  # Pillow raises many kinds.
    raise DataError(f"{path}: damaged or not an image ({one_line(error)})") from error
  shape = (_ROWS * _SIDE, _COLUMNS * _SIDE, 3)
  if sheet.shape != shape:
    raise DataError(f"{path}: expected a sheet {shape}, got {sheet.shape}")
  tiles = sheet.reshape(_ROWS, _SIDE, _COLUMNS, _SIDE, 3).transpose(0, 2, 1, 3, 4)
  return tiles.reshape(-1, _SIDE, _SIDE, 3)
