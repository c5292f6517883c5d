"""Downloads the original archives of the image data sets.

TFDS itself needs TensorFlow to unpack these three, so the archives are fetched and parsed here: the
same files from the same places as TFDS's, checked against the same SHA-256.
"""

import dataclasses
import hashlib
import http.client
import pathlib
import tarfile
import tempfile
import urllib.request

import numpy as np
import tqdm

from cscjax.data.dataset import DataError, Split
from cscjax.data.image_sets import check_image_split, one_line

_TIMEOUT_SECONDS = 10
_BLOCK = 1 << 18


@dataclasses.dataclass(frozen=True)
class Archive:
  """A file to download: where it is and what it must hash to."""

  url: str
  sha256: str


_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_SVHN = "http://ufldl.stanford.edu/housenumbers/"
ARCHIVES = {
  "cifar10": (
    Archive(
      _CIFAR + "cifar-10-binary.tar.gz",
      "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
  ),
  "cifar100": (
    Archive(
      _CIFAR + "cifar-100-binary.tar.gz",
      "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
  ),
  "svhn_cropped": (
    Archive(
      _SVHN + "train_32x32.mat",
      "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    ),
    Archive(
      _SVHN + "test_32x32.mat",
      "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    ),
  ),
}


def download(name: str, archives: tuple[Archive, ...] | None = None) -> tuple[Split, Split]:
  """Downloads data set `name` and returns its (train, test); SVHN's `extra` images are left out.

  Shows a progress bar where stderr is a terminal. Keeps no file.

  Args:
    name: One of `IMAGE_SETS`.
    archives: Where to get it from; its original place by default.

  Raises:
    DataError: There is no network, or what came is not the expected file.
  """
  with tempfile.TemporaryDirectory(prefix="cscjax-") as folder:
    paths = [_fetch(archive, pathlib.Path(folder)) for archive in archives or ARCHIVES[name]]
    try:
      if name == "svhn_cropped":
        train, test = (_parse_svhn(path) for path in paths)
      else:
        train, test = _parse_cifar(paths[0], name)
    except (KeyError, ValueError, tarfile.TarError) as error:
      raise DataError(f"{name}: cannot parse the downloaded file ({one_line(error)})") from error
  check_image_split(f"{name} train, downloaded", train, name)
  check_image_split(f"{name} test, downloaded", test, name)
  return train, test


def _fetch(archive: Archive, folder: pathlib.Path) -> pathlib.Path:
  """Downloads one file into `folder` and verifies it."""
  path = folder / archive.url.rsplit("/", 1)[-1]
  digest = hashlib.sha256()
  try:
    with (
      urllib.request.urlopen(archive.url, timeout=_TIMEOUT_SECONDS) as response,
      open(path, "wb") as file,
      tqdm.tqdm(
        desc=path.name,
        total=int(response.headers.get("Content-Length", 0)) or None,
        unit="B",
        unit_scale=True,
        disable=None,
      ) as bar,
    ):
      while block := response.read(_BLOCK):
        digest.update(block)
        file.write(block)
        bar.update(len(block))
  except (OSError, http.client.HTTPException) as error:
    raise DataError(f"cannot download {archive.url} ({one_line(error)})") from error
  if digest.hexdigest() != archive.sha256:
    raise DataError(f"what {archive.url} sent is not the expected file (wrong SHA-256)")
  return path


def _parse_cifar(path: pathlib.Path, name: str) -> tuple[Split, Split]:
  """Parses the binary version: label bytes (the last one counts), then 3 x 32 x 32 bytes a row."""
  if name == "cifar10":
    prefix, label_bytes = "cifar-10-batches-bin", 1
    train_files, test_files = [f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]
  else:
    prefix, label_bytes = "cifar-100-binary", 2
    train_files, test_files = ["train.bin"], ["test.bin"]

  def read(tar: tarfile.TarFile, names: list[str]) -> Split:
    members = [tar.extractfile(f"{prefix}/{member}") for member in names]
    content = b"".join(member.read() for member in members if member is not None)
    rows = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + 3072)
    images = rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), rows[:, label_bytes - 1].astype(np.int32))

  with tarfile.open(path) as tar:
    return read(tar, train_files), read(tar, test_files)


def _parse_svhn(path: pathlib.Path) -> Split:
  """Parses a MATLAB file: X [32, 32, 3, N], y [N, 1] in 1..10, where 10 stands for the digit 0."""
  import scipy.io

  content = scipy.io.loadmat(path)
  images = np.ascontiguousarray(content["X"].transpose(3, 0, 1, 2))
  return Split(images, (content["y"].reshape(-1) % 10).astype(np.int32))
