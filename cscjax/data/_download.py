"""Downloads the original archives of the image data sets.

TFDS itself needs TensorFlow to unpack these three, so the archives are fetched and parsed here: the
same files from the same places as TFDS's, checked against the same SHA-256.
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
from typing import NamedTuple

import numpy as np

from cscjax.checks import one_line
from cscjax.data._dataset import DataError, Split, check_image_split

_BLOCK = 1 << 18


class Limits(NamedTuple):
  """How long a download may take, and how large it may be.

  A download of n bytes takes at most `seconds` + n / `bytes_per_second`, and one that stands still
  `silent_seconds`. The defaults give the largest archive, of 182 MB, about an hour.

  Attributes:
    seconds: Before the rate counts: to find the server, connect and be redirected.
    bytes_per_second: The least mean rate after that.
    silent_seconds: The longest time without a byte.
    bytes: The largest size, which no archive comes near.
  """

  seconds: float = 30.0
  bytes_per_second: float = 50_000
  silent_seconds: float = 10.0
  bytes: int = 1 << 29


LIMITS = Limits()


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


def download(
  name: str, archives: tuple[Archive, ...] | None = None, limits: Limits = LIMITS
) -> tuple[Split, Split]:
  """Downloads data set `name` and returns its (train, test); SVHN's `extra` images are left out.

  Shows a progress bar if tqdm is installed and stderr is a terminal. Keeps no file.

  Args:
    name: One of `IMAGE_SETS`.
    archives: Where to get it from; its original place by default.
    limits: Of the time and the size of each archive.

  Raises:
    DataError: There is no network, it is slower than `limits` allow, the disk for temporary files is
      full, or what came is not the expected file.
  """
  with _temporary_folder() as folder:
    paths = [_fetch(archive, folder, limits) for archive in archives or ARCHIVES[name]]
    try:
      if name == "svhn_cropped":
        train, test = (_parse_svhn(path) for path in paths)
      else:
        train, test = _parse_cifar(paths[0], name)
    except Exception as error:  # A damaged file raises many kinds: of tarfile, gzip, SciPy, NumPy.
      raise DataError(f"{name}: cannot parse the downloaded file ({one_line(error)})") from error
  check_image_split(f"{name} train, downloaded", train, name)
  check_image_split(f"{name} test, downloaded", test, name)
  return train, test


@contextlib.contextmanager
def _temporary_folder():
  try:
    folder = tempfile.TemporaryDirectory(prefix="cscjax-", ignore_cleanup_errors=True)
  except OSError as error:
    raise DataError(f"cannot make a folder for temporary files ({one_line(error)})") from error
  with folder as path:
    yield pathlib.Path(path)


def _fetch(archive: Archive, folder: pathlib.Path, limits: Limits) -> pathlib.Path:
  """Downloads one file into `folder` and verifies it."""
  path = folder / archive.url.rsplit("/", 1)[-1]
  transfer = _Transfer(archive.url, path, limits)
  transfer.start()
  began = time.monotonic()
  while transfer.is_alive():
    transfer.join(0.1)
    counted = time.monotonic() - began - limits.seconds
    if transfer.is_alive() and transfer.received < limits.bytes_per_second * counted:
      transfer.given_up.set()
      rate = f"{limits.bytes_per_second / 1000:g} kB a second after the first {limits.seconds:g} s"
      raise DataError(
        f"cannot download {archive.url} (it is slower than {rate}: {transfer.received} bytes came in"
        f" {counted + limits.seconds:.0f} s)"
      )
  if transfer.problem is not None:
    raise DataError(f"cannot download {archive.url} ({transfer.problem})")
  if transfer.digest.hexdigest() != archive.sha256:
    raise DataError(f"what {archive.url} sent is not the expected file (wrong SHA-256)")
  return path


class _Transfer(threading.Thread):
  """A thread that writes what a URL sends to a file.

  It is a thread, as a server can hold up whoever waits for its name, its headers or its redirections for
  longer than any timeout of a socket; the thread of one that is given up ends with the process.

  Attributes:
    received: Bytes so far.
    digest: SHA-256 of them.
    problem: Why the file is not whole, in one line; None while nothing is wrong.
    given_up: Set by who waits no longer.
  """

  def __init__(self, url: str, path: pathlib.Path, limits: Limits):
    super().__init__(daemon=True)
    self._url, self._path, self._limits = url, path, limits
    self.received, self.digest = 0, hashlib.sha256()
    self.problem: str | None = None
    self.given_up = threading.Event()

  def run(self) -> None:
    """Does it, and leaves `problem`."""
    try:
      with urllib.request.urlopen(self._url, timeout=self._limits.silent_seconds) as response:
        total = _declared_size(response)
        self._write(response, total)
      if total is not None and self.received < total:
        raise OSError(f"the connection was closed after {self.received} of {total} bytes")
    except Exception as error:  # Of the network, the disk, and of addresses in redirections.
      full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
      self.problem = one_line(error) + (f", writing to {self._path.parent}" if full else "")

  def _write(self, response, total):
    with (
      open(self._path, "wb") as file,
      _progress_bar(self._path.name, total) as advance,
    ):
      # read1: whatever has come; read would wait for a whole block.
      while not self.given_up.is_set() and (block := response.read1(_BLOCK)):
        self.received += len(block)
        if self.received > self._limits.bytes:
          raise OSError(f"it sends more than {self._limits.bytes} bytes")
        self.digest.update(block)
        file.write(block)
        advance(len(block))


@contextlib.contextmanager
def _progress_bar(name: str, total: int | None) -> Iterator[Callable[[int], object]]:
  """Yields a function to call with the number of bytes that have come; without tqdm it does nothing."""
  try:
    from tqdm import tqdm
  except ImportError:
    tqdm = None
  if tqdm is None:
    yield lambda count: None
  else:
    with tqdm(desc=name, total=total, unit="B", unit_scale=True, disable=None) as bar:
      yield bar.update


def _declared_size(response) -> int | None:
  """The size that the headers tell; None where they tell none or nonsense."""
  text = response.headers.get("Content-Length", "")
  return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _parse_cifar(path: pathlib.Path, name: str) -> tuple[Split, Split]:
  """Parses the binary version: label bytes (the last one counts), then 3 x 32 x 32 bytes a row."""
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
  """What a file in an archive holds."""
  member = tar.extractfile(name)
  if member is None:
    raise ValueError(f"{name} is no file")
  return member.read()


def _parse_svhn(path: pathlib.Path) -> Split:
  """Parses a MATLAB file: X [32, 32, 3, N], y [N, 1] in 1..10, where 10 stands for the digit 0."""
  import scipy.io

  content = scipy.io.loadmat(path)
  images = np.ascontiguousarray(content["X"].transpose(3, 0, 1, 2))
  return Split(images, (content["y"].reshape(-1) % 10).astype(np.int32))
