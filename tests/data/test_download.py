import contextlib
import gzip
import hashlib
import io
import pathlib
import socket
import sys
import tarfile
import tempfile
import threading
import time

import numpy as np
import pytest
import scipy.io

from cscjax.data import IMAGE_SETS, DataError
from cscjax.data import _download as download_module
from cscjax.data._download import ARCHIVES, Archive, Limits, download


def archive_of(path):
  return Archive(path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest())


def write_tar(path, files):
  with tarfile.open(path, "w:gz") as tar:
    for name, content in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return archive_of(path)


def cifar_row(labels, image):
  """Encodes one record with the loops of the format's description: channels, rows, columns."""
  pixels = [image[y, x, c] for c in range(3) for y in range(32) for x in range(32)]
  return bytes(labels) + bytes(pixels)


def test_cifar10(tmp_path, tiny):
  images, labels = tiny["train"].images, tiny["train"].labels
  files = {
    f"cifar-10-batches-bin/data_batch_{i + 1}.bin": cifar_row([labels[i]], images[i]) for i in range(5)
  }
  files["cifar-10-batches-bin/test_batch.bin"] = b"".join(
    cifar_row([label], image)
    for image, label in zip(tiny["test"].images, tiny["test"].labels, strict=True)
  )
  train, test = download("cifar10", (write_tar(tmp_path / "c.tar.gz", files),))
  np.testing.assert_array_equal(train.images, images[:5])
  np.testing.assert_array_equal(train.labels, labels[:5])
  np.testing.assert_array_equal(test.images, tiny["test"].images)
  np.testing.assert_array_equal(test.labels, tiny["test"].labels)


def test_cifar100_takes_the_fine_label(tmp_path, tiny):
  image = tiny["train"].images[0]
  files = {
    "cifar-100-binary/train.bin": cifar_row([3, 77], image),
    "cifar-100-binary/test.bin": cifar_row([5, 99], image),
  }
  train, test = download("cifar100", (write_tar(tmp_path / "c.tar.gz", files),))
  assert (train.labels.tolist(), test.labels.tolist()) == ([77], [99])
  np.testing.assert_array_equal(train.images[0], image)


def test_svhn_label_ten_is_digit_zero(tmp_path, tiny):
  archives = []
  for key, split in tiny.items():
    labels = np.where(split.labels == 0, 10, split.labels).astype(np.uint8)[:, None]
    content = {"X": np.stack(list(split.images), axis=-1), "y": labels}
    scipy.io.savemat(tmp_path / f"{key}.mat", content, do_compression=True)
    archives.append(archive_of(tmp_path / f"{key}.mat"))
  assert 0 in tiny["train"].labels
  train, test = download("svhn_cropped", tuple(archives))
  np.testing.assert_array_equal(train.images, tiny["train"].images)
  np.testing.assert_array_equal(train.labels, tiny["train"].labels)
  np.testing.assert_array_equal(test.images, tiny["test"].images)


def test_works_without_tqdm(tmp_path, tiny, monkeypatch):
  monkeypatch.setitem(sys.modules, "tqdm", None)  # simulates a missing package
  test_cifar100_takes_the_fine_label(tmp_path, tiny)


def test_an_unexpected_file_is_rejected(tmp_path):
  (tmp_path / "c.tar.gz").write_bytes(b"<html>Moved</html>")
  with pytest.raises(DataError, match=r"c\.tar\.gz did not send the expected file"):
    download("cifar10", (Archive((tmp_path / "c.tar.gz").as_uri(), "0" * 64),))


@pytest.mark.parametrize("content", [{}, {"cifar-10-batches-bin/data_batch_1.bin": b"12"}])
def test_an_archive_with_other_content_is_rejected(tmp_path, content):
  with pytest.raises(DataError, match="cifar10: cannot parse"):
    download("cifar10", (write_tar(tmp_path / "c.tar.gz", content),))


def test_an_unreachable_archive_is_named(tmp_path):
  with pytest.raises(DataError, match=r"cannot download file:.*gone"):
    download("cifar10", (Archive((tmp_path / "gone").as_uri(), ""),))


def gzipped(content):
  return gzip.compress(content, 1)


def tar_of(**members):
  """An uncompressed tar with members in CIFAR-10's folder, given as bytes or as a member type."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as tar:
    for name, content in members.items():
      member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
      is_file = isinstance(content, bytes)
      member.size, member.type = (len(content), tarfile.REGTYPE) if is_file else (0, content)
      tar.addfile(member, io.BytesIO(content if is_file else b""))
  return buffer.getvalue()


def _cifar(**changes):
  row = bytes(3073)
  batches = {f"data_batch_{i}": row for i in range(1, 6)}
  return tar_of(**(batches | {"test_batch": row} | changes))


OTHER_CONTENT = {
  "empty": b"",
  "truncated": gzipped(_cifar())[:-200],
  "truncated in the middle": gzipped(np.random.default_rng(0).bytes(100_000) + _cifar())[:50_000],
  "damaged": gzipped(_cifar())[:40] + b"damaged" + gzipped(_cifar())[47:],
  "an HTML page": b"<html>Moved</html>",
  "gzip of another file": gzipped(b"a text"),
  "a zip": b"PK\x03\x04" + bytes(100),
  "a MATLAB file": b"MATLAB 5.0 MAT-file" + bytes(200),
  "an empty tar": tar_of(),
  "a folder instead of a batch": _cifar(data_batch_3=tarfile.DIRTYPE),
  "a truncated batch": _cifar(data_batch_5=bytes(3000)),
  "empty batches": _cifar(**{f"data_batch_{i}": b"" for i in range(1, 6)}),
  "labels out of range": _cifar(test_batch=b"\xff" * 3073),
}


@pytest.mark.parametrize("name", ["cifar10", "svhn_cropped"])
@pytest.mark.parametrize("what", OTHER_CONTENT)
def test_a_file_of_another_format_with_the_right_hash_is_rejected(tmp_path, name, what):
  (tmp_path / "c").write_bytes(OTHER_CONTENT[what])
  archive = archive_of(tmp_path / "c")
  with pytest.raises(DataError, match=f"^{name}") as error:
    download(name, (archive,) * (2 if name == "svhn_cropped" else 1))
  assert len(str(error.value).splitlines()) == 1


@contextlib.contextmanager
def server(*answers):
  """Runs a local server that gives one answer per connection and then closes; yields its URL.

  An answer is bytes, or a function that takes the connection.
  """
  with socket.create_server(("127.0.0.1", 0)) as listening:
    listening.settimeout(20)

    def serve():
      with contextlib.suppress(OSError):
        for answer in answers:
          connection, _ = listening.accept()
          with connection, contextlib.suppress(OSError):
            connection.settimeout(20)
            connection.recv(65536)
            answer(connection) if callable(answer) else connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/c.tar.gz"


def ok(*headers, body=b"what it sends"):
  return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode() + body


def moved(place):
  return f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")


def drip(head):
  """An answer that sends one byte every 0.05 seconds, for at most 10 seconds."""

  def answer(connection):
    connection.sendall(head)
    for _ in range(200):
      connection.sendall(b"a")
      time.sleep(0.05)

  return answer


QUICK = Limits(seconds=0.5, bytes_per_second=1000, silent_seconds=0.3, bytes=1 << 20)
BAD_SERVERS = {
  "404": ("404", [b"HTTP/1.1 404 Not Found\r\n\r\n"]),
  "500": ("500", [b"HTTP/1.1 500 Internal Server Error\r\n\r\n"]),
  "no HTTP": ("", [b"hello"]),
  "nothing": ("", [b""]),
  "closed early": ("13 of 100 bytes", [ok("Content-Length: 100")]),
  "closed within a chunk": ("", [ok("Transfer-Encoding: chunked", body=b"ff\r\nabc")]),
  "redirected to an invalid address": ("", [moved("http://[::1/c")]),
  "redirected to an invalid port": ("", [moved("http://127.0.0.1:many/c")]),
  "redirected to a port above 65535": ("", [moved("http://127.0.0.1:99999/c")]),
  "redirected to an invalid host": ("", [moved("http://a..b/c")]),
  "redirected to undecodable bytes": ("", [moved("http://127.0.0.1:\xe9\xff/")]),
  "redirected to a file": ("file:", [moved("file:///etc/hostname")]),
  "redirected nowhere": ("", [b"HTTP/1.1 302 Found\r\n\r\n"]),
  "redirected in a circle": ("", [moved("/c.tar.gz")] * 20),
  "silent": ("timed out", [lambda connection: time.sleep(1)]),
  "silent in the middle": (
    "timed out",
    [lambda connection: (connection.sendall(ok("Content-Length: 100")), time.sleep(1))],
  ),
  "a slow body": ("slower than 1 kB/s", [drip(ok("Content-Length: 100000"))]),
  "slow headers": ("slower than 1 kB/s", [drip(b"HTTP/1.1 200 OK\r\nA: ")]),
  "too much": ("more than 1048576 bytes", [ok(body=bytes(1 << 21))]),
}


@pytest.mark.parametrize("what", BAD_SERVERS)
def test_a_bad_server_is_named_within_the_limits(what):
  said, answers = BAD_SERVERS[what]
  with server(*answers) as url, pytest.raises(DataError, match=f"^cannot download {url} ") as error:
    download("cifar10", (Archive(url, "0" * 64),), QUICK)
  assert said in str(error.value)
  assert len(str(error.value).splitlines()) == 1


LENGTHS = ("many", "-1", "", "1e9", "9" * 5000, "0x10", "\xb2")


@pytest.mark.parametrize("length", LENGTHS)
def test_an_invalid_content_length_is_ignored(length):
  body = gzipped(_cifar())
  answer = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode("latin-1") + body
  with server(answer) as url:
    train, test = download("cifar10", (Archive(url, hashlib.sha256(body).hexdigest()),), QUICK)
  assert (len(train), len(test)) == (5, 1)


def test_redirects_are_followed():
  body = gzipped(_cifar())
  with server(moved("/elsewhere"), ok(f"Content-Length: {len(body)}", body=body)) as url:
    train, _ = download("cifar10", (Archive(url, hashlib.sha256(body).hexdigest()),), QUICK)
  assert len(train) == 5


def test_a_full_disk_is_named(monkeypatch):
  """The download is written to /dev/full."""
  dev = contextlib.nullcontext(pathlib.Path("/dev"))
  monkeypatch.setattr(download_module, "_temporary_folder", lambda: dev)
  with server(ok(body=bytes(100_000))) as url:
    with pytest.raises(DataError, match="No space left on device, writing to /dev"):
      download("cifar10", (Archive(url.replace("c.tar.gz", "full"), "0" * 64),), QUICK)


def test_no_folder_for_temporary_files(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
  with pytest.raises(DataError, match="cannot create a folder for temporary files"):
    download("cifar10", (Archive("http://127.0.0.1:1/c", ""),))


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_archives_are_those_of_tfds(name):
  """Compares URLs and checksums with those that the installed TFDS registers."""
  import tensorflow_datasets as tfds

  registered = tfds.builder_cls(name).url_infos
  assert ARCHIVES[name]
  for archive in ARCHIVES[name]:
    assert registered[archive.url].checksum == archive.sha256
