"""Runs on data that users provide, and runs that start from a trained network."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from cscjax import runs
from cscjax.data import DataError
from cscjax.runs import Config, RunError, _execute
from tests.faults import harness
from tests.runs.own_data import write_pictures

TINY = Config(
  dataset="digits", model="msd_csc", depth=1, width=4, unfolding=1, batch_size=16, epochs=1, seed=3
)
OWN_DATA = pathlib.Path(__file__).with_name("own_data.py")


@pytest.fixture(scope="module", autouse=True)
def _no_cache_and_plots():
  """Keeps `execute` from changing a setting of the whole process, and from drawing empty plots."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(_execute, "use_compilation_cache", lambda config: None)
    patch.setattr(_execute, "_write_results", lambda *_: None)
    yield


@pytest.fixture
def pictures(tmp_path):
  """A folder of 40 colour images of 8x8 pixels in two classes."""
  write_pictures(tmp_path / "pictures", {"down": 20, "across": 20}, 8)
  return tmp_path / "pictures"


def begun(workdir=None, **fields):
  """Writes the initial checkpoint of a run, without a training step; returns the run."""
  run = runs.make_run(dataclasses.replace(TINY, workdir=workdir and str(workdir), **fields))
  runs.execute(run, stopped=lambda: True, progress=False)
  return run


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """The directory of a run on images of other classes and another size."""
  folder = tmp_path_factory.mktemp("source")
  write_pictures(folder / "pictures", {"down": 10, "across": 10, "slanted": 10}, 12)
  jax.config.update("jax_disable_most_optimizations", True)  # as for each test, see conftest.py
  begun(folder / "run", dataset=f"folder:{folder / 'pictures'}", seed=7)
  return folder / "run"


def test_a_run_on_a_folder_is_loaded_without_the_folder(pictures, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run = begun(dataset="folder:pictures/../pictures")
  (workdir,) = (tmp_path / "runs").iterdir()
  assert workdir.name.startswith("pictures-msd_csc-")
  assert run.config.title == "pictures, msd_csc, depth 1, unfolding 1"
  assert runs.load_run(workdir).load_dataset().class_names == ("across", "down")
  pictures.rename(tmp_path / "gone")
  loaded = runs.load_run(workdir)
  assert (loaded.info.class_names, loaded.info.example_shape) == (("across", "down"), (8, 8, 3))
  assert loaded.predict(run.dataset.test.images).probabilities.shape == (8, 2)
  with pytest.raises(DataError, match=r"^dataset: no such directory: pictures"):
    loaded.load_dataset()


def test_a_run_resumes_if_its_data_have_moved_but_not_if_they_have_changed(pictures, tmp_path):
  begun(tmp_path / "run", dataset=f"folder:{pictures}")
  moved = pictures.rename(tmp_path / "moved")
  begun(tmp_path / "run", dataset=f"folder:{moved}")
  picture = moved / "down" / "000.png"
  picture.write_bytes((moved / "down" / "001.png").read_bytes())
  before = harness.contents(tmp_path)
  with pytest.raises(
    RunError, match=r"^dataset: folder:.*moved has changed since the run in .*run star"
  ):
    begun(tmp_path / "run", dataset=f"folder:{moved}")
  with pytest.raises(RunError, match=r"^dataset: .* holds a run with 'folder:.*', got 'digits'"):
    begun(tmp_path / "run")
  with pytest.raises(DataError, match=r"^dataset: folder:.*moved has changed since the run was trained"):
    runs.load_run(tmp_path / "run").load_dataset()
  assert harness.contents(tmp_path) == before


def test_a_run_of_an_older_version_without_a_fingerprint_resumes(tmp_path):
  begun(tmp_path)
  config = json.loads((tmp_path / "config.json").read_text())
  del config["data"]["fingerprint"], config["flags"]["init_from"], config["checksum"]
  (tmp_path / "config.json").write_text(json.dumps(config))
  assert runs.load_run(tmp_path).info.fingerprint is None
  begun(tmp_path)
  assert len(runs.load_run(tmp_path).info.fingerprint) == 64


def test_a_file_of_weights_holds_no_paths_of_own_data(source, tmp_path):
  trained = runs.load_run(source)
  trained.save_weights(tmp_path / "network.safetensors")
  assert str(source.parent).encode() not in (tmp_path / "network.safetensors").read_bytes()
  loaded = runs.load_weights(tmp_path / "network.safetensors")
  assert loaded.config.dataset == "folder:pictures"
  assert loaded.info.class_names == ("across", "down", "slanted")


@pytest.mark.parametrize("fields", [{"dilations": (1, 8)}, {"augmentation": "none", "shift": 8}])
def test_sizes_are_compared_with_those_of_own_data(pictures, fields):
  (name, *_) = reversed(fields)
  with pytest.raises(RunError, match=f"^{name}: .* below 8, the size of the examples of folder:"):
    runs.make_run(dataclasses.replace(TINY, dataset=f"folder:{pictures}", **fields))


def test_a_run_starts_from_a_network_for_other_classes_and_sizes(source, pictures, tmp_path):
  trained = runs.load_run(source)
  trained.save_weights(tmp_path / "network.safetensors")
  for path in (source, tmp_path / "network.safetensors"):
    workdir = tmp_path / path.stem
    run = begun(workdir, dataset=f"folder:{pictures}", init_from=str(path))
    random = runs.start(run.config, run.dataset, run.trainer)[0]
    found = runs.load_run(workdir).variables
    expected = {**trained.variables, "params": dict(trained.variables["params"])}
    expected["params"]["classifier"] = random.params["classifier"]
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert not np.array_equal(found["params"]["layer_0"]["filters"], random.params["layer_0"]["filters"])


def test_the_classifier_is_kept_for_as_many_classes(source, tmp_path):
  pictures = source.parent / "pictures"
  place = shutil.copytree(source, tmp_path / "source")
  fields = {"dataset": f"folder:{pictures}", "init_from": str(place)}
  begun(tmp_path / "run", **fields)
  loaded = runs.load_run(tmp_path / "run")
  jax.tree.map(np.testing.assert_array_equal, loaded.variables, runs.load_run(source).variables)
  assert loaded.step == 0
  shutil.rmtree(place)
  begun(tmp_path / "run", **fields)  # it resumes from its own checkpoint
  with pytest.raises(RunError, match=r"^init_from: .* holds a run with '.*', got None"):
    begun(tmp_path / "run", dataset=f"folder:{pictures}")
  shutil.rmtree(tmp_path / "run" / "checkpoints")
  with pytest.raises(RunError, match=r"^init_from: no run in .*source"):
    begun(tmp_path / "run", **fields)


OTHERS = {
  "channels": ({"dataset": "digits"}, r"params/layer_0/filters is float32\[3, 3, 3, 4\], expected"),
  "width": ({"width": 5}, r"layer_0/norm_0/mean is float32\[4\], expected float32\[5\]"),
  "a deeper network": ({"depth": 2}, "layer_1/norm_0/mean is missing, expected"),
  "fewer iterations": ({"unfolding": 0}, "batch_stats/layer_0/norm_1/mean is unknown"),
  "other dilations": ({"dilations": (2,)}, r"dilations is \(1, 2, 3\), expected \(2,\)"),
  "another solver": ({"solver": "fista"}, "solver is 'ista', expected 'fista'"),
  "no run": ({"init_from": "nowhere"}, "no run in nowhere"),
  "no weights": ({"init_from": __file__}, "cannot read .*test_own_data.py"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_run_does_not_start_from_another_network(source, tmp_path, what):
  fields, message = OTHERS[what]
  given = {"dataset": f"folder:{source.parent / 'pictures'}", "init_from": str(source)} | fields
  with pytest.raises(RunError, match=f"^init_from: .*{message}") as error:
    begun(tmp_path / "run", **given)
  assert error.value.argument == "init_from"
  assert not (tmp_path / "run").exists()


def assert_learned(accuracies):
  assert accuracies["trained"] > 0.9
  assert accuracies["fine-tuned"] > 0.9
  assert accuracies["loaded"] == pytest.approx(accuracies["fine-tuned"], abs=1e-6)
  assert accuracies["classes"] == ["across", "down", "slanted"]


ALONE = """
import runpy, sys
sys.modules["experiments"] = None
runpy.run_path(sys.argv.pop(1), {}, "__main__")
"""


@pytest.mark.slow
def test_own_images_with_the_library_alone(tmp_path):
  command = [sys.executable, "-c", ALONE, str(OWN_DATA), str(tmp_path)]
  environment = {**os.environ, "PYTHONPATH": str(harness.ROOT)}
  done = subprocess.run(
    command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
  )
  assert_learned(json.loads(done.stdout))


@pytest.mark.slow
def test_own_images_with_the_commands(tmp_path):
  """200 images in two classes, and a run that starts from one on scikit-learn's digits."""
  write_pictures(tmp_path / "pictures", {"down": 100, "across": 100}, 12)
  for path in (tmp_path / "pictures").rglob("*.png"):
    picture = Image.open(path).convert("L")  # as the digits
    picture.save(path)
  common = ("--depth=2", "--width=8", "--unfolding=1", "--batch_size=32", "--learning_rate=0.1")
  digits = harness.run(*common, "--dataset=digits", "--epochs=1", f"--workdir={tmp_path / 'digits'}")
  assert digits.returncode == 0, digits.stderr
  own = (*common, f"--dataset=folder:{tmp_path / 'pictures'}", "--epochs=5")
  for name, flags in {"plain": (), "tuned": (f"--init_from={tmp_path / 'digits'}",)}.items():
    summary = harness.summary(harness.run(*own, *flags, f"--workdir={tmp_path / name}"))
    assert (summary["status"], summary["steps"]) == ("ok", 25)
    assert summary["test_accuracy"] > 0.9
  harness.assert_refused(
    harness.run("--dataset=folder:nowhere"), "--dataset: no such directory: nowhere"
  )
