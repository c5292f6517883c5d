"""The command `python -m experiments.prepare_data`, run in a process of its own."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cscjax.data import DataError, load_dataset
from experiments.image_sheets import read_sheets


@pytest.fixture(scope="session")
def _sheets_once(tmp_path_factory):
  """One sheet per split, in which image i has a single colour that encodes i."""
  folder = tmp_path_factory.mktemp("sheets")
  index = np.arange(5000)
  colours = np.stack([index % 256, index // 256, np.zeros_like(index)], axis=-1).astype(np.uint8)
  for blue, key in enumerate(("train", "test")):
    colours[:, 2] = blue
    sheet = np.zeros((1600, 3200, 3), np.uint8)
    for i, colour in enumerate(colours):
      row, column = divmod(i, 100)
      sheet[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = colour
    Image.fromarray(sheet).save(folder / f"{key}-00.webp", lossless=True, quality=0, method=0)
  labels = (index % 7).astype(np.uint8)
  np.savez(folder / "labels.npz", train=labels, test=labels[::-1])
  return folder


@pytest.fixture
def sheets(_sheets_once, tmp_path):
  return shutil.copytree(_sheets_once, tmp_path / "sheets")


def prepare(*flags, without=None):
  environment = dict(os.environ, PYTHONPATH=str(without or ""))
  command = [sys.executable, "-m", "experiments.prepare_data", *flags]
  return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)


def assert_refused(done, *words):
  assert done.returncode == 2, done.stderr
  assert done.stdout == ""
  assert len(done.stderr.splitlines()) == 1, done.stderr
  assert done.stderr.startswith("error: ")
  for word in words:
    assert word in done.stderr


def test_sheets_fill_the_cache_without_tfds(sheets, tmp_path):
  for module in ("tensorflow", "tensorflow_datasets"):
    (tmp_path / f"{module}.py").write_text(f"raise SystemExit('{module} was imported')")
  target = tmp_path / "new" / "data"
  done = prepare(f"--shards={sheets}", f"--cache_dir={target}", without=tmp_path)
  assert (done.returncode, done.stderr) == (0, "")
  (line,) = done.stdout.splitlines()
  for word in ("cifar10", "5000 train", "5000 test", str(target)):
    assert word in line
  data = load_dataset("cifar10", cache_dir=target, download=False)
  for split, blue, labels in (
    (data.train, 0, np.arange(5000) % 7),
    (data.test, 1, np.arange(5000)[::-1] % 7),
  ):
    flat = split.images.reshape(5000, -1, 3)
    assert np.all(flat == flat[:, :1])
    index = flat[:, 0, 0] + 256 * flat[:, 0, 1].astype(int)
    assert sorted(index) == list(range(5000))
    assert np.all(flat[:, 0, 2] == blue)
    np.testing.assert_array_equal(split.labels, labels[index])


def test_prepared_data_fills_the_cache(prepared):
  first = prepare("--dataset=cifar10", f"--data_dir={prepared}")
  assert (first.returncode, first.stderr) == (0, "")
  assert "23 train and 11 test" in first.stdout
  shutil.rmtree(prepared / "cifar10")
  second = prepare("--dataset=cifar10", f"--data_dir={prepared}")
  assert (second.returncode, second.stdout) == (0, first.stdout)


def test_a_cache_that_cannot_be_written_is_an_error(prepared):
  target = prepared / "file"
  target.write_text("in the way")
  done = prepare(f"--data_dir={prepared}", f"--cache_dir={target}")
  assert_refused(done, "cannot write the cache", f"{target}/decoded/cifar10")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--dataset=mnist"], ["mnist", "svhn_cropped"]),
    (["--datasett=cifar10"], ["datasett"]),
    (["cifar10"], ["unexpected argument", "cifar10"]),
    (["--data_dir=nowhere/at/all"], ["--data_dir", "nowhere/at/all"]),
  ],
)
def test_bad_flags_are_one_line_and_exit_code_two(flags, words):
  assert_refused(prepare(*flags), *words)


def test_missing_sheets_are_one_line_and_exit_code_two(tmp_path):
  done = prepare(f"--shards={tmp_path}/none", f"--data_dir={tmp_path}")
  assert_refused(done, "--shards", "none")


def replace_labels(folder, **changes):
  with np.load(folder / "labels.npz") as stored:
    np.savez(folder / "labels.npz", **({**stored} | changes))


@pytest.mark.parametrize(
  ("damage", "bad_file"),
  [
    (lambda folder: os.truncate(folder / "train-00.webp", 1000), "train-00.webp"),
    (lambda folder: (folder / "train-00.webp").write_bytes(b"junk"), "train-00.webp"),
    (lambda folder: (folder / "test-00.webp").unlink(), "test-00.webp"),
    (
      lambda folder: (folder / "test-00.webp").rename(folder / "test-01.webp"),
      "test-00.webp",
    ),
    (
      lambda folder: Image.new("RGB", (64, 32)).save(folder / "train-00.webp"),
      "train-00.webp",
    ),
    (lambda folder: (folder / "labels.npz").unlink(), "labels.npz"),
    (lambda folder: os.truncate(folder / "labels.npz", 700), "labels.npz"),
    (lambda folder: replace_labels(folder, test=np.zeros(4999, np.uint8)), "labels.npz"),
    (lambda folder: replace_labels(folder, test=np.zeros(5000)), "labels.npz"),
    (lambda folder: replace_labels(folder, test=np.full(5000, 10)), "labels in 0..9"),
    (lambda folder: replace_labels(folder, test=np.full(5000, 2**32)), "labels in 0..9"),
    (lambda folder: replace_labels(folder, test=np.array([{}] * 5000)), "labels.npz"),
  ],
  ids=[
    "truncated sheet",
    "not an image",
    "missing sheet",
    "gap in the numbers",
    "small sheet",
    "no labels",
    "truncated labels",
    "a missing label",
    "float labels",
    "label out of range",
    "labels that are 0 in 32 bits",
    "pickled labels",
  ],
)
def test_damaged_sheets_are_named(sheets, damage, bad_file):
  damage(sheets)
  with pytest.raises(DataError) as error:
    read_sheets(sheets, "cifar10")
  assert bad_file in str(error.value)
  assert str(sheets) in str(error.value)
  assert "\n" not in str(error.value)
