"""experiments.pictures on a tiny run: its files, the files that it must not change, and its errors."""

import dataclasses
import fcntl
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from cscjax.data import load_dataset
from cscjax.runs import RunError, load_run
from experiments import pictures
from tests.faults import harness

pytestmark = pytest.mark.slow  # a run is trained first

WRITTEN = ("atoms.png", "layers.json", "layers.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("pictures") / "run"
  done = harness.run(
    *("--dataset=digits", "--model=msd_csc", "--depth=3", "--width=4", "--unfolding=1"),
    *("--train_examples=300", "--max_steps=2", f"--workdir={workdir}"),
  )
  assert done.returncode == 0, done.stderr
  return workdir


@pytest.fixture
def run(trained, tmp_path):
  """A copy of the trained run."""
  return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


def command(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "experiments.pictures", *arguments],
    cwd=harness.ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def test_command(run):
  done = command(f"--workdir={run}", "--example=70")
  assert done.returncode == 0, done.stderr
  assert done.stderr == ""
  found = json.loads(done.stdout.splitlines()[-1])
  assert found == json.loads((run / "layers.json").read_text())
  label = int(load_dataset("digits").test.labels[70])
  assert (found["step"], found["example"], found["label"], found["examples"]) == (2, 70, label, 64)
  rows = found["layers"]
  assert [row["layer"] for row in rows] == [1, 2, 3]
  assert [row["atoms"] for row in rows] == [4, 4, 4]
  assert [row["signal"] for row in rows] == [[8, 8, 1], [4, 4, 5], [2, 2, 9]]
  assert [row["code"] for row in rows] == [[8, 8, 4], [4, 4, 4], [2, 2, 4]]
  assert all(0 < row["nonzero_share"] < 1 and 0 <= row["reconstruction_error"] < 1 for row in rows)
  for name in ("atoms", "layers"):
    assert (run / f"{name}.png").stat().st_size < 400_000
    height, width, _ = imread(run / f"{name}.png").shape
    assert height > 100
    assert width <= 1400


def test_it_only_adds_files_even_if_the_run_is_still_training(run):
  unfinished = run / "checkpoints" / "9.orbax-checkpoint-tmp-1"
  unfinished.mkdir()
  (unfinished / "part").write_text("being written")
  before = harness.contents(run)
  with (run / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    first = pictures.draw(run)
  after = harness.contents(run)
  assert {path.name for path in after.keys() - before.keys()} == set(WRITTEN)
  assert {path: after[path] for path in before} == before
  assert pictures.draw(run) == first  # again, with the files in place


def test_the_fractions_are_those_of_the_network(run, monkeypatch):
  """With a single example, the fractions are those of its code."""
  monkeypatch.setattr(pictures, "EXAMPLES", 1)
  seen = {}

  def look(coded, **options):
    seen.update(coded=coded, **options)
    return pictures_layers(coded, **options)

  pictures_layers = pictures.layers
  monkeypatch.setattr(pictures, "layers", look)
  rows = pictures.draw(run, example=5)["layers"]
  data = load_dataset("digits", train_examples=300)
  assert not np.allclose(data.mean, load_dataset("digits").mean, rtol=1e-4)
  image = (data.test.images[5] / 255 - data.mean) / data.std
  np.testing.assert_allclose(seen["coded"][0].signal[0], image, rtol=1e-5, atol=1e-6)
  for row, (_, _, (_, z)) in zip(rows, seen["coded"], strict=True):
    assert row["nonzero_share"] == pytest.approx(np.mean(np.asarray(z) != 0), abs=1e-6)


def remove_checkpoints(run):
  shutil.rmtree(run / "checkpoints")


def empty_checkpoints(run):
  remove_checkpoints(run)
  (run / "checkpoints").mkdir()


def change(old, new):
  def changed(run):
    text = (run / "config.json").read_text()
    assert old in text
    without_checksum = re.sub(r',\s*"checksum": "\w+"', "", text)
    (run / "config.json").write_text(without_checksum.replace(old, new))

  return changed


REFUSED = {
  "no run": ("no run", lambda run: (run / "config.json").unlink()),
  "a cut config": ("config.json", lambda run: harness.cut(run / "config.json")),
  "a flag out of range": ("epochs", change('"epochs": 150', '"epochs": 0')),
  "an unknown network": ("model", change('"model": "msd_csc"', '"model": "vgg"')),
  "a field of another network": ("depth", change('"model": "msd_csc"', '"model": "res_csc"')),
  "no checkpoints": ("no complete checkpoint", remove_checkpoints),
  "an empty folder": ("no complete checkpoint", empty_checkpoints),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_unusable_run_is_an_error(run, what):
  message, prepare = REFUSED[what]
  prepare(run)
  before = harness.contents(run)
  with pytest.raises(RunError, match=message):
    pictures.draw(run)
  assert harness.contents(run) == before


def test_a_data_set_without_images_is_an_error(run, monkeypatch):
  trained = load_run(run)
  config = dataclasses.replace(trained.config, dataset="gaussian_centers")
  changed = dataclasses.replace(trained, config=config, recorded=None)
  monkeypatch.setattr(pictures, "load_run", lambda _: changed)
  with pytest.raises(RunError, match=r"^workdir: the examples of gaussian_centers are not images"):
    pictures.draw(run)


@pytest.mark.parametrize("example", [-1, 360])
def test_an_example_out_of_range_is_an_error(run, example):
  with pytest.raises(RunError, match=r"^example: expected an integer in 0\.\.359"):
    pictures.draw(run, example=example)


def test_a_directory_that_cannot_be_written_is_an_error(run):
  (run / "atoms.png.tmp").mkdir()
  with pytest.raises(RunError, match=r"^workdir: cannot write"):
    pictures.draw(run)


def test_errors_are_one_line_and_exit_code_2():
  harness.assert_refused(command("--workdir=nowhere"), "--workdir: no run in nowhere")
