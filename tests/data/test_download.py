import hashlib
import io
import tarfile

import numpy as np
import pytest
import scipy.io

from cscjax.data import DataError
from cscjax.data.download import ARCHIVES, Archive, download
from cscjax.data.image_sets import IMAGE_SETS


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
  """One record, written out by the loops of the format's description: planes, rows, columns."""
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


def test_svhn_labels_ten_are_zeros(tmp_path, tiny):
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


def test_an_unexpected_file_is_refused(tmp_path):
  (tmp_path / "c.tar.gz").write_bytes(b"<html>Moved</html>")
  with pytest.raises(DataError, match=r"c\.tar\.gz sent is not the expected file"):
    download("cifar10", (Archive((tmp_path / "c.tar.gz").as_uri(), "0" * 64),))


@pytest.mark.parametrize("content", [{}, {"cifar-10-batches-bin/data_batch_1.bin": b"12"}])
def test_an_archive_with_other_content_is_refused(tmp_path, content):
  with pytest.raises(DataError, match="cifar10: cannot parse"):
    download("cifar10", (write_tar(tmp_path / "c.tar.gz", content),))


def test_an_unreachable_archive_is_named(tmp_path):
  with pytest.raises(DataError, match=r"cannot download file:.*gone"):
    download("cifar10", (Archive((tmp_path / "gone").as_uri(), ""),))


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_archives_are_those_of_tfds(name):
  """The registered URLs and checksums of the installed TFDS are the reference."""
  import tensorflow_datasets as tfds

  registered = tfds.builder_cls(name).url_infos
  assert ARCHIVES[name]
  for archive in ARCHIVES[name]:
    assert registered[archive.url].checksum == archive.sha256
