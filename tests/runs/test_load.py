"""A trained network is used from its workdir or its file of weights alone."""

import dataclasses
import json
import shutil
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from cscjax import runs
from cscjax.data import DataError, load_dataset
from cscjax.runs import Config, RunError, _execute, _loaded_run
from tests.faults import harness

TINY = Config(
  dataset="digits",
  model="msd_csc",
  depth=2,
  width=12,
  unfolding=1,
  batch_size=64,
  learning_rate=0.2,
  max_steps=88,
)


def missing(*_, **__):
  raise DataError("no digits here")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp("trained") / "run"
  with pytest.MonkeyPatch.context() as patch:
    jax.config.update("jax_disable_most_optimizations", True)  # as for each test, see conftest.py
    # The compilation cache is a setting of the whole process.
    patch.setattr(_execute, "use_compilation_cache", lambda config: None)
    runs.execute(runs.make_run(dataclasses.replace(TINY, workdir=str(path))), progress=False)
  return path


@pytest.fixture
def trained(workdir, monkeypatch):
  """The run, in a place without its data set."""
  monkeypatch.setattr(_loaded_run, "load_dataset", missing)
  return runs.load_run(workdir)


@pytest.fixture(scope="module")
def digits():
  return load_dataset("digits")


def test_predict_reproduces_the_accuracy_of_the_run(trained, digits, workdir):
  summary = json.loads((workdir / "summary.json").read_text())
  prediction = trained.predict(digits.test.images)
  assert summary["test_accuracy"] > 0.6  # so that a wrong order or normalization is noticed
  accuracy = np.mean(prediction.labels == digits.test.labels)
  assert accuracy == pytest.approx(summary["test_accuracy"], abs=1e-6)
  assert (trained.step, trained.config.width) == (88, 12)


def test_predict_returns_the_softmax_of_the_logits(trained, digits):
  images = digits.test.images[:300]  # two batches
  normalized = (images.astype(np.float32) / 255 - digits.mean) / digits.std
  logits = np.asarray(jax.jit(trained.model.apply)(trained.variables, jnp.asarray(normalized)))
  expected = np.exp(logits - logits.max(axis=1, keepdims=True))
  expected /= expected.sum(axis=1, keepdims=True)
  prediction = trained.predict(images)
  np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)
  np.testing.assert_array_equal(prediction.labels, logits.argmax(axis=1))
  assert prediction.labels.dtype == np.int32


@pytest.mark.parametrize("count", [0, 1, 3])
def test_predict_takes_any_number_of_images_and_floats(trained, digits, count):
  images = digits.test.images[:3]
  whole, part = trained.predict(images), trained.predict(images[:count] / 255)
  np.testing.assert_allclose(part.probabilities, whole.probabilities[:count], atol=1e-5)
  assert part.probabilities.shape == (count, 10)
  np.testing.assert_array_equal(part.labels, whole.labels[:count])


BAD_IMAGES = {
  "one image": (np.zeros((8, 8, 1), np.uint8), r"an array of shape \[N, 8, 8, 1\], got \(8, 8, 1\)"),
  "another size": (np.zeros((2, 9, 8, 1), np.uint8), r"\[N, 8, 8, 1\], got \(2, 9, 8, 1\)"),
  "integers": (np.zeros((2, 8, 8, 1), np.int32), "uint8 or floating-point type, got 'int32'"),
  "0..255": (np.full((2, 8, 8, 1), 90.0), "on the scale 0 to 1, got 'a mean of 90'"),
  "NaN": (np.full((2, 8, 8, 1), np.nan), "finite values"),
  "complex": (np.zeros((2, 8, 8, 1), complex), "an array of real numbers"),
}


@pytest.mark.parametrize("what", BAD_IMAGES)
def test_other_images_are_refused(trained, what):
  images, message = BAD_IMAGES[what]
  for method in (trained.predict, trained.codes, trained.certify):
    with pytest.raises(ValueError, match=f"^images: expected .*{message}"):
      method(images)


def test_no_images_have_no_codes(trained):
  none = np.zeros((0, 8, 8, 1), np.uint8)
  for method in (trained.codes, trained.certify, trained.certify_labels):
    with pytest.raises(ValueError, match=r"^images: expected at least one image, got \(0, 8"):
      method(none)


@pytest.mark.parametrize("platforms", ["cpu", (), ("cpu", "abacus")])
def test_unknown_platforms_are_refused(trained, platforms):
  with pytest.raises(ValueError, match=r"^platforms: expected .*cpu, cuda, rocm, tpu, got"):
    trained.export(platforms)


def test_bytes_are_refused_where_the_data_are_floats(trained):
  recorded = dataclasses.replace(trained.recorded, dtype="float32")
  signals = dataclasses.replace(trained, recorded=recorded)
  with pytest.raises(ValueError, match=r"^images: .* of floating-point type, got 'uint8'"):
    signals.predict(np.zeros((1, 8, 8, 1), np.uint8))
  assert signals.predict(np.full((1, 8, 8, 1), 90.0)).labels.shape == (1,)


def test_the_data_set_is_described(trained, digits):
  info = trained.info
  assert (info.example_shape, info.dtype, info.num_classes) == ((8, 8, 1), "uint8", 10)
  assert info.class_names == tuple("0123456789")
  np.testing.assert_array_equal([info.mean, info.std], [digits.mean, digits.std])


def test_codes_and_certificate_are_those_of_the_normalized_images(trained, digits):
  images = digits.test.images[:1]
  normalized = jnp.asarray((images.astype(np.float32) / 255 - digits.mean) / digits.std)
  network = jax.jit(partial(trained.model.apply, return_codes=True))
  _, codes = network(trained.variables, normalized)
  layers = trained.codes(images)
  np.testing.assert_allclose(layers[0].signal, normalized, atol=1e-6)
  for layer, code in zip(layers, codes, strict=True):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), layer.code, code)
  certificate = trained.certify(images, noise=0.5)
  assert (certificate.noise, len(certificate.rows)) == (0.5, 2)
  residual = layers[0].dictionary.synthesis(layers[0].code) - normalized
  assert certificate.rows[0].misfit >= float(jnp.abs(residual).max()) > 0


ELSEWHERE = """
import sys
sys.modules["cscjax"] = None
import jax.export, numpy as np
exported = jax.export.deserialize(open("network.bin", "rb").read())
images = np.load("images.npy")
np.save("found.npy", np.concatenate([exported.call(images[:1]), exported.call(images[1:])]))
"""


def test_the_exported_network_gives_the_same_numbers_without_cscjax(trained, digits, tmp_path):
  images = digits.test.images[:8]
  exported = trained.export()
  assert exported.platforms == ("cpu", "cuda")
  (tmp_path / "network.bin").write_bytes(exported.serialize())
  np.save(tmp_path / "images.npy", images)
  subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=tmp_path, check=True)
  found = np.load(tmp_path / "found.npy")
  np.testing.assert_allclose(found, trained.predict(images).probabilities, atol=1e-5)


@pytest.fixture
def old(workdir, tmp_path):
  """A copy of the run as cscjax 0.1.0 wrote it, without a description of the data set."""
  copy = shutil.copytree(workdir, tmp_path / "old")
  contents = json.loads((copy / "config.json").read_text())
  del contents["data"], contents["checksum"]
  (copy / "config.json").write_text(json.dumps(contents))
  return copy


def test_the_statistics_of_an_old_run_are_computed(old, trained, digits, monkeypatch):
  monkeypatch.setattr(_loaded_run, "load_dataset", load_dataset)
  again, images = runs.load_run(old), digits.test.images[:3]
  assert again.recorded is None
  for found, expected in zip(again.predict(images), trained.predict(images), strict=True):
    np.testing.assert_array_equal(found, expected)


def test_an_old_run_without_its_data_says_what_is_missing(old, trained, digits):
  again = runs.load_run(old)
  with pytest.raises(DataError, match=r"did not record the mean and std .*: no digits here$"):
    again.predict(digits.test.images)


def test_a_wrong_description_of_the_data_set_is_an_error(old):
  contents = json.loads((old / "config.json").read_text())
  data = {"example_shape": [8, 8, 1], "dtype": "uint8", "num_classes": 10, "class_names": None}
  for change in ({"mean": [0.5]}, {"mean": [0.5], "std": [1.0, 1.0]}, {"mean": "a", "std": [1.0]}):
    (old / "config.json").write_text(json.dumps(contents | {"data": data | change}))
    with pytest.raises(RunError, match=r"^workdir: .*config\.json: data: expected "):
      runs.load_run(old)


def test_weights_are_saved_with_all_that_is_needed(trained, digits, tmp_path):
  path, images = tmp_path / "network.safetensors", digits.test.images[:3]
  trained.save_weights(path)
  assert str(trained.config.workdir).encode() not in path.read_bytes()
  loaded = runs.load_weights(path)
  assert loaded.config == dataclasses.replace(trained.config, workdir=None)
  assert (loaded.step, loaded.info.class_names) == (trained.step, trained.info.class_names)
  jax.tree.map(np.testing.assert_array_equal, loaded.variables, trained.variables)
  for found, expected in zip(loaded.predict(images), trained.predict(images), strict=True):
    np.testing.assert_array_equal(found, expected)
  tensors = safetensors.numpy.load_file(path)
  kernel = trained.variables["params"]["classifier"]["kernel"]
  np.testing.assert_array_equal(tensors["params/classifier/kernel"], kernel)


def test_a_run_in_float32_loads_if_float64_is_enabled(workdir, trained, digits, x64):
  again = runs.load_run(workdir)
  jax.tree.map(np.testing.assert_array_equal, again.variables, trained.variables)
  assert {leaf.dtype for leaf in jax.tree.leaves(again.variables)} == {np.dtype(np.float32)}
  labels = again.predict(digits.test.images[:20]).labels
  np.testing.assert_array_equal(labels, trained.predict(digits.test.images[:20]).labels)


def test_weights_in_float64_come_back(trained, tmp_path):
  with jax.enable_x64(True):  # as a run in float64, whose running statistics are float32
    variables = jax.jit(trained.model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1), jnp.float32))
    variables = jax.device_get(variables)
  dataclasses.replace(trained, variables=variables).save_weights(tmp_path / "a.safetensors")
  loaded = runs.load_weights(tmp_path / "a.safetensors")
  jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
  assert loaded.variables["params"]["layer_0"]["filters"].dtype == np.float64


def rewrite(path, change):
  """Writes a file of weights again after a change of its tensors and its description."""
  with safetensors.safe_open(path, framework="numpy") as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}
    described = json.loads(file.metadata()["cscjax"])
  change(tensors, described)
  safetensors.numpy.save_file(tensors, path, {"cscjax": json.dumps(described)})


BAD_FILES = {
  "missing": ("cannot read", lambda path: path.unlink()),
  "cut": ("cannot read", lambda path: path.write_bytes(path.read_bytes()[:-1])),
  "of another program": (
    "does not describe its network",
    lambda path: safetensors.numpy.save_file({"a": np.zeros(1)}, path),
  ),
  "without data": ("'data'", lambda path: rewrite(path, lambda _, d: d.pop("data"))),
  "of another version": (
    "is of version 9 of the network msd_csc, which has version 1 now",
    lambda path: rewrite(path, lambda _, d: d.update(architecture=9)),
  ),
  "with other tensors": (
    "does not contain the variables",
    lambda path: rewrite(path, lambda tensors, _: tensors.popitem()),
  ),
  "with other fields": (
    "does not contain the variables",
    lambda path: rewrite(path, lambda _, d: d["flags"].update(width=7)),
  ),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_an_unusable_file_of_weights_is_an_error(trained, tmp_path, what):
  message, damage = BAD_FILES[what]
  path = tmp_path / "network.safetensors"
  trained.save_weights(path)
  damage(path)
  with pytest.raises(RunError, match=f"^path: .*{message}") as error:
    runs.load_weights(path)
  assert error.value.argument == "path"


@pytest.mark.slow
def test_three_lines_from_quickstart_to_a_prediction(digits, tmp_path):
  workdir = tmp_path / "run"
  done = harness.run("--flagfile=experiments/quickstart.flags", f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  trained = runs.load_run(workdir)
  labels = trained.predict(digits.test.images).labels
  accuracy = json.loads(done.stdout.splitlines()[-1])["test_accuracy"]
  assert accuracy > 0.98
  assert np.mean(labels == digits.test.labels) == pytest.approx(accuracy, abs=1e-6)
