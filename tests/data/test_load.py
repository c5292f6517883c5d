import os
import pathlib
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest

from cscjax.data import DataError, cache_folder, dataset_shape, load_dataset
from experiments.image_sheets import read_sheets
from tests.data.conftest import rows


@pytest.fixture
def no_sockets(monkeypatch):
  def refuse(*args, **kwargs):
    pytest.fail("the network was accessed")

  monkeypatch.setattr(socket, "socket", refuse)
  monkeypatch.setattr(socket, "getaddrinfo", refuse)


def shard(prepared, key):
  (path,) = (prepared / "cifar10" / "3.0.2").glob(f"cifar10-{key}.*")
  return path


def test_prepared_data_is_read_unchanged(prepared, tiny, no_sockets):
  first = load_dataset("cifar10", data_dir=prepared, download=False)
  assert rows(first.train) == rows(tiny["train"])
  assert rows(first.test) == rows(tiny["test"])
  assert first.num_classes == 10
  shutil.rmtree(prepared / "cifar10")
  second = load_dataset("cifar10", data_dir=str(prepared), download=False)
  for key in ("train", "test"):
    one, two = getattr(first, key), getattr(second, key)
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.labels, two.labels)
  np.testing.assert_array_equal(first.mean, second.mean)


def test_tfrecord_files_are_read(prepared_tfrecord, tiny):
  data = load_dataset("cifar10", data_dir=prepared_tfrecord, download=False)
  assert rows(data.train) == rows(tiny["train"])
  assert rows(data.test) == rows(tiny["test"])


def test_order_in_the_files_does_not_matter(prepared_tfrecord, user_cache):
  path = shard(prepared_tfrecord, "train")
  content, records = path.read_bytes(), []
  while content:
    end = 16 + int.from_bytes(content[:8], "little")
    records.append(content[:end])
    content = content[end:]
  one = load_dataset("cifar10", data_dir=prepared_tfrecord, download=False)
  path.write_bytes(b"".join(reversed(records)))
  shutil.rmtree(cache_folder(user_cache, "cifar10"))
  two = load_dataset("cifar10", data_dir=prepared_tfrecord, download=False)
  np.testing.assert_array_equal(one.train.images, two.train.images)
  np.testing.assert_array_equal(one.train.labels, two.train.labels)


def test_test_split_does_not_depend_on_the_validation_fraction(prepared, tiny):
  data = load_dataset("cifar10", data_dir=prepared, validation_fraction=0.2, download=False)
  assert rows(data.test) == rows(tiny["test"])
  assert len(data.validation) == round(0.2 * len(tiny["train"]))
  assert sorted(rows(data.train) + rows(data.validation)) == rows(tiny["train"])


@pytest.mark.parametrize(
  "damage",
  [
    lambda path: os.truncate(path, path.stat().st_size // 2),
    lambda path: os.truncate(path, 0),
    lambda path: path.write_bytes(b"x" * 70_000),
    lambda path: path.unlink(),
  ],
  ids=["half", "empty", "junk", "gone"],
)
@pytest.mark.parametrize("key", ["train", "test"])
def test_a_damaged_array_record_file_is_named(prepared, user_cache, key, damage):
  path = shard(prepared, key)
  damage(path)
  with pytest.raises(DataError) as error:
    load_dataset("cifar10", data_dir=prepared)
  assert str(error.value).startswith(f"{path}: missing or damaged")
  assert "\n" not in str(error.value)
  assert not user_cache.exists()


@pytest.mark.parametrize("size", [-1, -2000, 5])
def test_a_truncated_tfrecord_file_is_named(prepared_tfrecord, size):
  path = shard(prepared_tfrecord, "test")
  os.truncate(path, size % path.stat().st_size)
  with pytest.raises(DataError, match=r"middle of a record|unpack") as error:
    load_dataset("cifar10", data_dir=prepared_tfrecord)
  assert str(path) in str(error.value)


def test_a_tfrecord_file_that_lacks_examples_is_named(prepared_tfrecord):
  path = shard(prepared_tfrecord, "test")
  content = path.read_bytes()
  path.write_bytes(content[16 + int.from_bytes(content[:8], "little") :])
  with pytest.raises(DataError, match="expected 11 examples, got 10"):
    load_dataset("cifar10", data_dir=prepared_tfrecord)


def test_a_flipped_bit_in_an_array_record_file_is_detected(prepared):
  path = shard(prepared, "train")
  content = bytearray(path.read_bytes())
  content[content.index(b"IDAT") + 500] ^= 16
  path.write_bytes(content)
  with pytest.raises(DataError, match="hash mismatch"):
    load_dataset("cifar10", data_dir=prepared)


def test_a_damaged_description_is_named(prepared):
  path = prepared / "cifar10" / "3.0.2" / "dataset_info.json"
  os.truncate(path, 50)
  with pytest.raises(DataError, match=r"dataset_info\.json: not the description"):
    load_dataset("cifar10", data_dir=prepared)


@pytest.mark.parametrize("count", ["23000000000000", "-23"])
def test_an_impossible_description_is_named(prepared, count):
  path = prepared / "cifar10" / "3.0.2" / "dataset_info.json"
  path.write_text(path.read_text().replace('"23"', f'"{count}"'))
  with pytest.raises(DataError, match=r"dataset_info\.json: describes an impossible train split"):
    load_dataset("cifar10", data_dir=prepared)


def test_no_home_for_the_default_data_dir(monkeypatch):
  """Simulates an unset HOME and a user without an entry in /etc/passwd."""
  monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
  monkeypatch.setenv("HOME", "~")
  with pytest.raises(DataError, match=r"^data_dir: .*, no home directory"):
    load_dataset("cifar10")


def test_missing_data_dir_is_named(tmp_path):
  with pytest.raises(DataError, match=r"^data_dir: no such directory: .*nowhere"):
    load_dataset("cifar10", data_dir=tmp_path / "nowhere")
  (tmp_path / "file").touch()
  with pytest.raises(DataError, match=r"^data_dir: no such directory: .*file"):
    load_dataset("cifar10", data_dir=tmp_path / "file")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn_cropped"])
def test_without_download_the_network_is_not_used(tmp_path, user_cache, name, no_sockets):
  with pytest.raises(DataError) as error:
    load_dataset(name, data_dir=tmp_path, download=False)
  for word in (name, str(cache_folder(user_cache, name)), "network"):
    assert word in str(error.value)
  assert str(error.value).startswith(f"data_dir: {tmp_path} contains no {name} prepared by TFDS, and ")
  assert os.listdir(tmp_path) == []


def test_default_data_dir_is_that_of_tfds(monkeypatch, prepared, tmp_path, user_cache, tiny):
  monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
  assert len(load_dataset("cifar10", download=False).train) == len(tiny["train"])
  shutil.rmtree(user_cache)
  monkeypatch.delenv("TFDS_DATA_DIR")
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  with pytest.raises(DataError, match=f"^data_dir: {tmp_path}/home/tensorflow_datasets"):
    load_dataset("cifar10", download=False)


def test_the_message_without_a_network_says_what_to_do(tmp_path, user_cache, monkeypatch):
  def unreachable(*args, **kwargs):
    raise urllib.error.URLError("Name or service not known")

  monkeypatch.setattr(urllib.request, "urlopen", unreachable)
  (tmp_path / "cifar10" / "incomplete.X_3.0.2").mkdir(parents=True)
  with pytest.raises(DataError) as error:
    load_dataset("cifar10", data_dir=tmp_path)
  message = str(error.value)
  for word in (str(tmp_path), "https://www.cs.toronto.edu", "Name or service", str(user_cache)):
    assert word in message
  assert "\n" not in message


BARE = """
import sys
from cscjax.data import load_dataset
data = load_dataset("cifar10", data_dir=sys.argv[1], download=False)
bad = {"tensorflow", "tensorflow_datasets", "sklearn", "PIL"} & set(sys.modules)
print(len(data.train), len(data.test), sorted(bad))
"""


def run_without(modules, code, *args, folder):
  """Runs `code` in a process in which importing any of `modules` fails."""
  for module in modules:
    (folder / f"{module}.py").write_text(f"raise ImportError('no {module} here')")
  environment = dict(os.environ, PYTHONPATH=str(folder))
  command = [sys.executable, "-c", code, *map(str, args)]
  return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)


def test_tensorflow_is_not_needed_to_read_prepared_data(prepared, tmp_path):
  done = run_without(["tensorflow"], BARE, prepared, folder=tmp_path)
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout == "23 11 ['PIL', 'tensorflow_datasets']\n"


def test_the_cache_alone_is_enough(prepared, tmp_path):
  load_dataset("cifar10", data_dir=prepared, download=False)
  shutil.rmtree(prepared / "cifar10")
  missing = ["tensorflow", "tensorflow_datasets", "array_record", "PIL", "sklearn", "scipy"]
  # JAX itself needs SciPy, so cscjax.data is imported without the other packages of cscjax.
  package = pathlib.Path(sys.modules["cscjax"].__file__).parent
  alone = (
    "import sys, types; package = types.ModuleType('cscjax'); "
    f"package.__path__ = [{str(package)!r}]; sys.modules['cscjax'] = package\n"
  )
  done = run_without(missing, alone + BARE, prepared, folder=tmp_path)
  assert (done.returncode, done.stderr, done.stdout) == (0, "", "23 11 []\n")


@pytest.mark.parametrize("module", ["tensorflow_datasets", "array_record", "PIL"])
def test_without_tfds_or_a_reader_the_extra_is_named(prepared, tmp_path, module):
  done = run_without([module], BARE, prepared, folder=tmp_path)
  assert done.returncode == 1
  last = done.stderr.splitlines()[-1]
  assert last.startswith("cscjax.extras.MissingExtraError: reading ")
  assert str(prepared / "cifar10" / "3.0.2") in last
  assert last.endswith(f"(no {module} here): pip install 'cscjax[tfds]'")


@pytest.mark.slow
def test_real_cifar10_from_tfds_and_from_sheets(real_data, tmp_path):
  command = [sys.executable, real_data / "prepare_tfds.py", "--data_dir", tmp_path]
  subprocess.run(command, check=True, capture_output=True)
  data = load_dataset("cifar10", data_dir=tmp_path, download=False)
  sheets = read_sheets(real_data / "cifar10", "cifar10")
  assert rows(data.train) == rows(sheets[0])
  assert rows(data.test) == rows(sheets[1])
  assert (len(data.train), len(data.test)) == (50_000, 10_000)
  # The well-known channel statistics of CIFAR-10.
  np.testing.assert_allclose(data.mean, [0.4914, 0.4822, 0.4465], atol=1e-4)
  np.testing.assert_allclose(data.std, [0.2470, 0.2435, 0.2616], atol=1e-4)


@pytest.mark.parametrize("name", ["digits", "gaussian_centers"])
def test_the_shape_of_a_data_set_is_that_of_its_arrays(name):
  data = load_dataset(name)
  assert dataset_shape(name) == (data.example_shape, data.num_classes)
