"""Fixtures: a tiny data set prepared by TFDS, and the folder of the real CIFAR-10."""

import io
import pathlib
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from cscjax.data import Split

_COUNTS = {"train": 23, "test": 11}


def png(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "png")
  return buffer.getvalue()


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
  """The cache directory of the user, which each test has to itself; it does not exist yet."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
  return tmp_path / "user" / "cscjax"


@pytest.fixture(scope="session")
def tiny():
  """The splits of the tiny data set, {"train": Split, "test": Split}."""
  rng = np.random.default_rng(7)
  return {
    key: Split(
      rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
      rng.integers(0, 10, count).astype(np.int32),
    )
    for key, count in _COUNTS.items()
  }


@pytest.fixture(scope="session")
def _prepared_once(tiny, tmp_path_factory):
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  folder = tmp_path_factory.mktemp("tfds")
  builder = tfds.builder("cifar10", data_dir=folder, file_format="array_record")

  def examples(key):
    split = tiny[key]
    for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
      yield i, {"id": f"{key}_{i}", "image": io.BytesIO(png(image)), "label": int(label)}

  builder._split_generators = lambda _: {key: examples(key) for key in tiny}
  builder.download_and_prepare()
  return folder


@pytest.fixture
def prepared(_prepared_once, tmp_path):
  """A data directory with the tiny data set prepared as cifar10, in array_record files."""
  folder = tmp_path / "prepared"
  shutil.copytree(_prepared_once, folder)
  return folder


@pytest.fixture
def prepared_tfrecord(prepared):
  """The same data in tfrecord files, the default format of TFDS, written without TensorFlow."""
  from array_record.python.array_record_module import ArrayRecordReader

  folder = prepared / "cifar10" / "3.0.2"
  for path in folder.glob("*.array_record-*"):
    reader = ArrayRecordReader(str(path))
    framed = [struct.pack("<Q", len(r)) + b"crc." + r + b"crc." for r in map(bytes, reader.read_all())]
    reader.close()
    path.with_name(path.name.replace("array_record", "tfrecord")).write_bytes(b"".join(framed))
    path.unlink()
  info = folder / "dataset_info.json"
  info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
  return prepared


@pytest.fixture(scope="session")
def real_data():
  """The folder of the real CIFAR-10, next to the repository."""
  folder = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
  if not (folder / "cifar10").is_dir():
    pytest.skip("the real CIFAR-10 is not available")
  return folder


def rows(split):
  """Returns the pairs (image, label) of a split, sorted, to compare splits in any order."""
  pairs = zip(split.images, split.labels, strict=True)
  return sorted((image.tobytes(), int(label)) for image, label in pairs)
