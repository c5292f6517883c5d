import errno
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from cscjax.data import DataError, Split, cache_folder, fill_cache, find_cache_dir, load_dataset
from cscjax.data._cache import old_cache_folder, read_cache, write_cache
from tests.data.conftest import rows
from tests.faults.harness import contents


@pytest.fixture
def folder(user_cache):
  """The folder of the cache of cifar10, which does not exist yet."""
  return cache_folder(user_cache, "cifar10")


@pytest.fixture
def cached(tiny, folder):
  """The folder with a cache of the tiny data set."""
  write_cache(folder, "cifar10", tiny["train"], tiny["test"])
  return folder


def assert_same(found, expected):
  for split, key in zip(found, ("train", "test"), strict=True):
    np.testing.assert_array_equal(split.images, expected[key].images)
    np.testing.assert_array_equal(split.labels, expected[key].labels)
    assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)


def test_round_trip_is_bit_for_bit(cached, tiny):
  assert_same(read_cache(cached, "cifar10"), tiny)
  names = ["meta.json"] + [f"{k}_{a}.npy" for k in ("test", "train") for a in ("images", "labels")]
  assert sorted(path.name for path in cached.iterdir()) == sorted(names)
  assert os.listdir(cached.parent) == ["cifar10"]
  np.testing.assert_array_equal(
    np.load(cached / "train_images.npy", allow_pickle=False), tiny["train"].images
  )


def test_no_cache_is_none(folder):
  assert read_cache(folder, "cifar10") is None


def edit_meta(change):
  def damage(folder):
    path = folder / "meta.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))

  return damage


def cut(name, size):
  return lambda folder: os.truncate(folder / name, size)


def flip(name, position):
  def damage(folder):
    content = bytearray((folder / name).read_bytes())
    content[position] ^= 1
    (folder / name).write_bytes(content)

  return damage


def swap_in(name, array, allow_pickle=False):
  """Replaces an array and its checksum, so that only a check of the content detects it."""

  def damage(folder):
    import hashlib

    np.save(folder / name, array, allow_pickle=allow_pickle)
    content = (folder / name).read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_meta(lambda meta: meta["arrays"][name[:-4]].update(entry))(folder)

  return damage


class Boom:
  def __reduce__(self):
    return (pytest.fail, ("a pickle was loaded",))


DAMAGES = {
  "short images": (cut("train_images.npy", 5000), "train_images.npy"),
  "empty labels": (cut("test_labels.npy", 0), "test_labels.npy"),
  "flipped bit in an image": (flip("train_images.npy", -1), "train_images.npy"),
  "flipped bit in a header": (flip("test_images.npy", 30), "test_images.npy"),
  "flipped bit in a label": (flip("train_labels.npy", 128), "train_labels.npy"),
  "file gone": (lambda folder: (folder / "test_images.npy").unlink(), "test_images.npy"),
  "meta.json gone": (lambda folder: (folder / "meta.json").unlink(), "meta.json"),
  "meta.json empty": (cut("meta.json", 0), "meta.json"),
  "meta.json cut": (cut("meta.json", 100), "meta.json"),
  "meta.json a list": (lambda folder: (folder / "meta.json").write_text("[]"), "meta.json"),
  "meta.json nested deep": (lambda f: (f / "meta.json").write_text("[" * 100_000), "meta.json"),
  "meta.json not text": (lambda f: (f / "meta.json").write_bytes(b"\xff\xfe{"), "meta.json"),
  "another data set": (edit_meta(lambda meta: meta.update(name="cifar100")), "meta.json"),
  "another format": (edit_meta(lambda meta: meta.update(format=0)), "meta.json"),
  "no checksum": (edit_meta(lambda m: m["arrays"]["train_labels"].pop("sha256")), "meta.json"),
  "shape in meta.json": (
    edit_meta(lambda meta: meta["arrays"]["train_images"].update(shape=[1, 2])),
    "train_images.npy",
  ),
  "dtype in meta.json": (
    edit_meta(lambda meta: meta["arrays"]["train_labels"].update(dtype="int64")),
    "train_labels.npy",
  ),
  "fewer labels": (swap_in("test_labels.npy", np.zeros(11, np.int64)), "test_labels.npy"),
  "a pickle": (swap_in("test_labels.npy", np.array([Boom()] * 11), True), "test_labels.npy"),
}


@pytest.mark.parametrize(("damage", "bad_file"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named_and_never_used(cached, damage, bad_file):
  damage(cached)
  with pytest.raises(DataError) as error:
    read_cache(cached, "cifar10")
  assert str(error.value).startswith(f"{cached / bad_file}: ")
  assert "\n" not in str(error.value)
  with pytest.raises(DataError, match=bad_file) as error:
    load_dataset("cifar10", download=False)
  assert "load it on a machine with a network" in str(error.value)


def test_loading_the_pickle_would_fail():
  with pytest.raises(pytest.fail.Exception):
    pickle.loads(pickle.dumps(Boom()))


@pytest.mark.parametrize("what", ["label", "shape"])
def test_arrays_that_do_not_fit_the_data_set_are_rejected(folder, tiny, what):
  labels, images = tiny["test"].labels.copy(), tiny["test"].images
  if what == "label":
    labels[3] = 10
  else:
    images = images[:, :16]
  write_cache(folder, "cifar10", tiny["train"], Split(images, labels))
  with pytest.raises(DataError, match=r"test_\*\.npy: expected"):
    read_cache(folder, "cifar10")


@pytest.mark.parametrize("name", ["short images", "file gone", "meta.json cut", "fewer labels"])
def test_damage_is_rebuilt_from_prepared_data(prepared, folder, caplog, name):
  whole = load_dataset("cifar10", data_dir=prepared, download=False)
  damage, bad_file = DAMAGES[name]
  damage(folder)
  with caplog.at_level(logging.WARNING):
    again = load_dataset("cifar10", data_dir=prepared, download=False)
  (record,) = caplog.records
  assert bad_file in record.getMessage()
  assert "\n" not in record.getMessage()
  np.testing.assert_array_equal(again.train.images, whole.train.images)
  assert read_cache(folder, "cifar10") is not None
  assert os.listdir(folder.parent) == ["cifar10"]


def test_an_existing_cache_is_replaced(cached, tiny):
  swapped = {"train": tiny["test"], "test": tiny["train"]}
  write_cache(cached, "cifar10", swapped["train"], swapped["test"])
  assert_same(read_cache(cached, "cifar10"), swapped)
  assert os.listdir(cached.parent) == ["cifar10"]


CRASH = """
import os, sys
import numpy as np
from cscjax.data import Split
from cscjax.data._cache import write_cache
count = int(sys.argv[2])
def crash(*args, calls=[]):
  calls.append(1)
  if len(calls) == count:
    os._exit(9)
os.fsync = crash
split = Split(np.ones((5, 32, 32, 3), np.uint8), np.ones(5, np.int32))
write_cache(__import__("pathlib").Path(sys.argv[1]), "cifar10", split, split)
"""


@pytest.mark.parametrize("count", [1, 5])  # in the first array, and in meta.json
def test_a_crash_while_writing_leaves_no_cache(folder, tiny, count):
  command = [sys.executable, "-c", CRASH, str(folder), str(count)]
  assert subprocess.run(command, check=False).returncode == 9
  assert read_cache(folder, "cifar10") is None
  (left,) = folder.parent.iterdir()
  assert left.name.startswith(".")
  write_cache(folder, "cifar10", tiny["train"], tiny["test"])
  assert left.exists()  # another process might still be writing it
  os.utime(left, (1, 1))
  write_cache(folder, "cifar10", tiny["train"], tiny["test"])
  assert os.listdir(folder.parent) == ["cifar10"]
  assert_same(read_cache(folder, "cifar10"), tiny)


@pytest.mark.parametrize("count", [1, 5])
def test_a_crash_does_not_change_an_existing_cache(cached, tiny, count):
  command = [sys.executable, "-c", CRASH, str(cached), str(count)]
  assert subprocess.run(command, check=False).returncode == 9
  assert_same(read_cache(cached, "cifar10"), tiny)


def test_concurrent_writers_leave_one_valid_cache(folder, tiny):
  errors = []

  def write():
    try:
      for _ in range(20):
        write_cache(folder, "cifar10", tiny["train"], tiny["test"])
    except BaseException as error:
      errors.append(error)

  threads = [threading.Thread(target=write) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not errors
  assert_same(read_cache(folder, "cifar10"), tiny)
  assert os.listdir(folder.parent) == ["cifar10"]


def test_full_disk_is_a_warning(prepared, folder, tiny, monkeypatch, caplog):
  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  data = load_dataset("cifar10", data_dir=prepared, download=False)
  assert len(data.train) == len(tiny["train"])
  (record,) = caplog.records
  assert "No space left on device" in record.getMessage()
  assert os.listdir(folder.parent) == []


def test_unwritable_directory_is_a_warning(prepared, folder, tiny, caplog):
  folder.parent.parent.parent.mkdir()
  folder.parent.parent.write_text("in the way")
  data = load_dataset("cifar10", data_dir=prepared, download=False)
  assert len(data.train) == len(tiny["train"])
  (record,) = caplog.records
  assert str(folder) in record.getMessage()


def test_given_splits_are_cached(tiny, tmp_path):
  target = tmp_path / "new" / "data"
  train, test = fill_cache("cifar10", cache_dir=target, splits=(tiny["train"], tiny["test"]))
  data = load_dataset("cifar10", cache_dir=target, download=False)
  assert rows(train) == rows(tiny["train"])
  for given, cached in ((train, data.train), (test, data.test)):
    np.testing.assert_array_equal(given.images, cached.images)
    np.testing.assert_array_equal(given.labels, cached.labels)


def test_given_splits_are_checked(tiny, tmp_path):
  wrong = Split(tiny["test"].images[:, :16], tiny["test"].labels)
  with pytest.raises(DataError, match=r"^cifar10 test: expected uint8 images \[N, 32, 32, 3\]"):
    fill_cache("cifar10", cache_dir=tmp_path, splits=(tiny["train"], wrong))
  with pytest.raises(ValueError, match=r"^name: expected one of cifar10, cifar100, svhn_cropped"):
    fill_cache("digits", cache_dir=tmp_path)
  assert os.listdir(tmp_path) == []


def test_the_cache_of_an_older_version_is_read_and_copied(prepared, folder, tiny):
  shutil.rmtree(prepared / "cifar10")
  old = old_cache_folder(prepared, "cifar10")
  assert old == prepared / "cscjax_cache" / "cifar10"
  fill_cache("cifar10", cache_dir=prepared, splits=(tiny["train"], tiny["test"]))
  shutil.move(cache_folder(prepared, "cifar10"), old)
  before = contents(prepared)
  data = load_dataset("cifar10", data_dir=prepared, download=False)
  assert contents(prepared) == before
  assert rows(data.train) == rows(tiny["train"])
  expected = contents(old)
  assert contents(folder) == expected
  shutil.rmtree(folder)
  cut("train_images.npy", 5000)(old)
  with pytest.raises(DataError, match=r"cscjax_cache/cifar10/train_images\.npy: expected"):
    load_dataset("cifar10", data_dir=prepared, download=False)


def test_a_damaged_cache_is_replaced_by_that_of_an_older_version(prepared, cached, tiny, caplog):
  write_cache(old_cache_folder(prepared, "cifar10"), "cifar10", tiny["train"], tiny["test"])
  shutil.rmtree(prepared / "cifar10")
  flip("train_images.npy", -1)(cached)
  data = load_dataset("cifar10", data_dir=prepared, download=False)
  assert rows(data.train) == rows(tiny["train"])
  (record,) = caplog.records
  assert str(cached / "train_images.npy") in record.getMessage()
  assert read_cache(cached, "cifar10") is not None


def test_tfds_and_the_cache_can_share_a_directory(prepared, tiny):
  before = contents(prepared / "cifar10")
  for _ in range(2):
    data = load_dataset("cifar10", data_dir=prepared, cache_dir=prepared, download=False)
    assert rows(data.train) == rows(tiny["train"])
  assert contents(prepared / "cifar10") == before


def test_the_cache_directory_of_the_user(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "scratch"))
  assert find_cache_dir(None) == tmp_path / "scratch" / "cscjax"
  assert find_cache_dir("~/mine") == tmp_path / "mine"


def test_a_cache_dir_in_a_missing_home(monkeypatch):
  monkeypatch.setenv("HOME", "~")
  with pytest.raises(DataError, match=r"^cache_dir: cannot expand ~/mine, no home directory"):
    find_cache_dir("~/mine")
