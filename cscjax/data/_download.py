"""Downloads the original archives of the image data sets.

TFDS needs TensorFlow to unpack these data sets, so the archives are downloaded and parsed here. The URLs
and the SHA-256 checksums are those of TFDS.
"""

import contextlib
import dataclasses
import errno
import hashlib
import pathlib
import re
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from cscjax.checks import one_line
from cscjax.data._dataset import DataError, Split, check_image_split

_BLOCK = 1 << 18


class Limits(NamedTuple):
  """Limits on the time and the size of a download.

  A download of n bytes may take `seconds` + n / `bytes_per_second` seconds. With the defaults, this is
  about an hour for the largest archive (182 MB).

  Attributes:
    seconds: Time before the rate counts, for name lookup, connection and redirects.
    bytes_per_second: The smallest mean rate after that time.
    silent_seconds: The longest time without receiving data.
    bytes: The largest size, well above that of every archive.
  """

  seconds: float = 30.0
  bytes_per_second: float = 50_000
  silent_seconds: float = 10.0
  bytes: int = 1 << 29


LIMITS = Limits()


@dataclasses.dataclass(frozen=True)
class Archive:
  """A file to download: its URL and its SHA-256 checksum."""

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


def download(
  name: str, archives: tuple[Archive, ...] | None = None, limits: Limits = LIMITS
) -> tuple[Split, Split]:
  """Downloads data set `name` and returns its (train, test), for SVHN without the `extra` images.

  Shows a progress bar if tqdm is installed and stderr is a terminal. The archives are deleted
  afterwards.

  Args:
    name: One of `IMAGE_SETS`.
    archives: The archives to download. By default the original ones.
    limits: The limits on the time and the size of each archive.

  Raises:
    DataError: If the network is unavailable or slower than `limits` allow, if the disk for temporary
      files is full, or if the received file is not the expected one.
  """
  with _temporary_folder() as folder:
    paths = [_fetch(archive, folder, limits) for archive in archives or ARCHIVES[name]]
    try:
      if name == "svhn_cropped":
        train, test = (_parse_svhn(path) for path in paths)
      else:
        train, test = _parse_cifar(paths[0], name)
    except Exception as error:  # tarfile, gzip, SciPy and NumPy raise many types for a damaged file
      raise DataError(f"{name}: cannot parse the downloaded file ({one_line(error)})") from error
  check_image_split(f"{name} train, downloaded", train, name)
  check_image_split(f"{name} test, downloaded", test, name)
  return train, test


@contextlib.contextmanager
def _temporary_folder() -> Iterator[pathlib.Path]:
  """Yields a temporary folder, or raises DataError if none can be created."""
  try:
    folder = tempfile.TemporaryDirectory(prefix="cscjax-", ignore_cleanup_errors=True)
  except OSError as error:
    raise DataError(f"cannot create a folder for temporary files ({one_line(error)})") from error
  with folder as path:
    yield pathlib.Path(path)


def _fetch(archive: Archive, folder: pathlib.Path, limits: Limits) -> pathlib.Path:
  """Downloads one file into `folder` and verifies its checksum."""
  path = folder / archive.url.rsplit("/", 1)[-1]
  transfer = _Transfer(archive.url, path, limits)
  transfer.start()
  began = time.monotonic()
  while transfer.is_alive():
    transfer.join(0.1)
    counted = time.monotonic() - began - limits.seconds
    if transfer.is_alive() and transfer.received < limits.bytes_per_second * counted:
      transfer.given_up.set()
      rate = f"{limits.bytes_per_second / 1000:g} kB/s after the first {limits.seconds:g} s"
      raise DataError(
        f"cannot download {archive.url} (slower than {rate}: received {transfer.received} bytes in"
        f" {counted + limits.seconds:.0f} s)"
      )
  if transfer.problem is not None:
    raise DataError(f"cannot download {archive.url} ({transfer.problem})")
  if transfer.digest.hexdigest() != archive.sha256:
    raise DataError(f"{archive.url} did not send the expected file (wrong SHA-256)")
  return path


class _Transfer(threading.Thread):
  """A thread that downloads a URL to a file.

  Name lookup, headers and redirects can block for longer than any socket timeout, so the download runs
  in a daemon thread, which the caller can abandon. An abandoned thread ends with the process at the
  latest.

  Attributes:
    received: The number of bytes received so far.
    digest: The SHA-256 digest of these bytes.
    problem: Why the download failed, in one line; None if no error has occurred.
    given_up: An event that the caller sets to stop the transfer.
  """

  def __init__(self, url: str, path: pathlib.Path, limits: Limits):
    super().__init__(daemon=True)
    self._url, self._path, self._limits = url, path, limits
    self.received, self.digest = 0, hashlib.sha256()
    self.problem: str | None = None
    self.given_up = threading.Event()

  def run(self) -> None:
    """Downloads the file; an error is stored in `problem`."""
    try:
      with urllib.request.urlopen(self._url, timeout=self._limits.silent_seconds) as response:
        total = _declared_size(response)
        self._write(response, total)
      if total is not None and self.received < total:
        raise OSError(f"the connection was closed after {self.received} of {total} bytes")
    except Exception as error:  # the network, the disk and invalid redirects raise many types
      full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
      self.problem = one_line(error) + (f", writing to {self._path.parent}" if full else "")

  def _write(self, response: Any, total: int | None) -> None:
    """Writes the body of a response to the file."""
    with (
      open(self._path, "wb") as file,
      _progress_bar(self._path.name, total) as advance,
    ):
      # read1 returns the available bytes, whereas read would wait for a whole block.
      while not self.given_up.is_set() and (block := response.read1(_BLOCK)):
        self.received += len(block)
        if self.received > self._limits.bytes:
          raise OSError(f"the server sent more than {self._limits.bytes} bytes")
        self.digest.update(block)
        file.write(block)
        advance(len(block))


@contextlib.contextmanager
def _progress_bar(name: str, total: int | None) -> Iterator[Callable[[int], object]]:
  """Yields a function that advances the bar by a number of bytes; without tqdm it does nothing."""
  try:
    from tqdm import tqdm
  except ImportError:
    tqdm = None
  if tqdm is None:
    yield lambda count: None
  else:
    with tqdm(desc=name, total=total, unit="B", unit_scale=True, disable=None) as bar:
      yield bar.update


def _declared_size(response: Any) -> int | None:
  """Returns the size declared in the headers, or None if it is missing or invalid."""
  text = response.headers.get("Content-Length", "")
  return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _parse_cifar(path: pathlib.Path, name: str) -> tuple[Split, Split]:
  """Parses the binary version: rows of label bytes (the last one counts) and 3 x 32 x 32 pixels."""
  if name == "cifar10":
    prefix, label_bytes = "cifar-10-batches-bin", 1
    train_files, test_files = [f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]
  else:
    prefix, label_bytes = "cifar-100-binary", 2
    train_files, test_files = ["train.bin"], ["test.bin"]

  def read(tar: tarfile.TarFile, names: list[str]) -> Split:
    content = b"".join(_content(tar, f"{prefix}/{member}") for member in names)
    rows = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + 3072)
    images = rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), rows[:, label_bytes - 1].astype(np.int32))

  with tarfile.open(path) as tar:
    return read(tar, train_files), read(tar, test_files)


def _content(tar: tarfile.TarFile, name: str) -> bytes:
  """Reads a file of an archive."""
  member = tar.extractfile(name)
  if member is None:
    raise ValueError(f"{name} is not a regular file")
  return member.read()


def _parse_svhn(path: pathlib.Path) -> Split:
  """Parses a MATLAB file with X [32, 32, 3, N] and y [N, 1] in 1..10, where 10 is the digit 0."""
  import scipy.io

  content = scipy.io.loadmat(path)
  images = np.ascontiguousarray(content["X"].transpose(3, 0, 1, 2))
  return Split(images, (content["y"].reshape(-1) % 10).astype(np.int32))
