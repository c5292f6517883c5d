"""Reads data sets prepared by TFDS (array_record or tfrecord files) without TensorFlow."""

import contextlib
import io
import pathlib
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from cscjax.checks import one_line
from cscjax.data._dataset import IMAGE_SHAPE, DataError, Split, check_image_split
from cscjax.extras import MissingExtraError, needs


def find_prepared(data_dir: pathlib.Path, name: str) -> pathlib.Path | None:
  """Returns the newest complete `<data_dir>/<name>/<version>` of TFDS, or None if there is none."""
  versions = [
    path.parent
    for path in (data_dir / name).glob("*/dataset_info.json")
    if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
  ]
  return max(versions, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def read_prepared(folder: pathlib.Path, name: str) -> tuple[Split, Split]:
  """Returns (train, test) of the prepared data set in `folder`, in the order of its files.

  Args:
    folder: The folder that `find_prepared` returns.
    name: One of `IMAGE_SETS`.

  Raises:
    DataError: If a file is missing, damaged or unreadable. The message names the file.
    MissingExtraError: If a package of the extra `tfds` is not installed.
  """
  # Imported here because it takes a second and is not needed with a cache.
  with _needs_tfds(folder):
    import tensorflow_datasets as tfds
  try:
    info = tfds.builder_from_directory(folder).info
  except Exception as error:  # the parsers of TFDS raise many types
    raise DataError(
      f"{folder / 'dataset_info.json'}: not the description of a TFDS data set "
      f"({one_line(error)}); prepare it again"
    ) from error
  # The images are not decoded here: TFDS would warn about its choice of a decoder.
  decoders = {"image": tfds.decode.SkipDecoding()}
  features: Any = info.features

  def parse(record: bytes) -> dict[str, Any]:
    return features.deserialize_example_np(record, decoders=decoders)

  train, test = (_read_split(folder, info, key, parse) for key in ("train", "test"))
  check_image_split(f"{folder} train", train, name)
  check_image_split(f"{folder} test", test, name)
  return train, test


def _needs_tfds(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
  """Names the extra `tfds` if an import that reading `path` requires fails."""
  return needs("tfds", f"reading {path} needs TFDS and its file readers")


def _read_split(folder: pathlib.Path, info: Any, key: str, parse: Callable) -> Split:
  """Reads one split from the files that `info` lists."""
  if key not in info.splits:
    raise DataError(f"{folder / 'dataset_info.json'}: has no {key} split; prepare it again")
  try:
    stored = info.splits[key]
    files = list(zip(stored.filepaths, stored.shard_lengths, strict=True))
    images = np.empty((stored.num_examples, *IMAGE_SHAPE), np.uint8)
    labels = np.empty(stored.num_examples, np.int32)
  except Exception as error:  # TFDS raises its own types, and NumPy others for impossible sizes
    raise DataError(
      f"{folder / 'dataset_info.json'}: describes an impossible {key} split ({one_line(error)}); "
      "prepare it again"
    ) from error
  end = 0
  for path, count in files:
    start, end = end, end + count
    _read_shard(pathlib.Path(path), parse, images[start:end], labels[start:end])
  return Split(images, labels)


def _read_shard(path: pathlib.Path, parse: Callable, images: np.ndarray, labels: np.ndarray) -> None:
  """Fills `images` and `labels` from one file, which must contain exactly that many examples."""
  with _needs_tfds(path):
    from PIL import Image
  try:
    records = list(_tfrecords(path) if ".tfrecord" in path.name else _array_records(path))
    if len(records) != len(labels):
      raise ValueError(f"expected {len(labels)} examples, got {len(records)}")
    for i, record in enumerate(records):
      example = parse(record)
      with Image.open(io.BytesIO(example["image"])) as image:
        pixels = np.asarray(image)
      if pixels.shape != IMAGE_SHAPE:
        raise ValueError(f"expected images {IMAGE_SHAPE}, got {pixels.shape}")
      images[i], labels[i] = pixels, int(example["label"])  # raises if the label does not fit int32
  except MissingExtraError:
    raise
  except Exception as error:  # every reader raises its own types
    raise DataError(
      f"{path}: missing or damaged ({one_line(error)}); delete {path.parent} and prepare it again"
    ) from error


def _array_records(path: pathlib.Path) -> Iterable[bytes]:
  """Returns the records of an array_record file."""
  with _needs_tfds(path):
    from array_record.python.array_record_module import ArrayRecordReader
  if not path.is_file():
    raise ValueError("no such file")
  reader = ArrayRecordReader(str(path))
  try:
    return reader.read_all()
  finally:
    reader.close()


def _tfrecords(path: pathlib.Path) -> Iterator[bytes]:
  """Yields the records of a tfrecord file, framed as length (8 bytes), CRC (4), record, CRC (4)."""
  with open(path, "rb") as file:
    while header := file.read(12):
      (length,) = struct.unpack("<Q4x", header)
      record = file.read(length)
      if len(record) != length or len(file.read(4)) != 4:
        raise ValueError("the file ends in the middle of a record")
      yield record
