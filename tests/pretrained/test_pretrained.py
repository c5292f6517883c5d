"""Pretrained dictionaries and networks: those that are shipped, and files of one's own."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from sklearn.datasets import load_sample_image

import cscjax
from cscjax import pretrained, runs
from cscjax.pretrained import load_pretrained, pretrained_names, save_pretrained

DICTIONARIES = ("colour-8x8", "grey-8x8", "grey-multiscale")
CARD = dict.fromkeys(pretrained.CARD_FIELDS, "a text with β")


@pytest.mark.parametrize("name", DICTIONARIES)
def test_a_shipped_dictionary_codes_another_photograph_better_than_cosines(name):
  D = load_pretrained(name).dictionary
  assert D.filters.dtype == jnp.float32
  np.testing.assert_allclose(jnp.sum(D.filters**2, axis=(0, 1, 2)), 1, atol=1e-5)
  photograph = load_sample_image("flower.jpg")[200:232, 250:282].astype(np.float32) / 255
  if D.filters.shape[2] == 1:
    photograph = photograph.mean(-1, keepdims=True)
  image = photograph - np.asarray(cscjax.tikhonov_lowpass(photograph, 5.0))
  t = np.arange(8)
  cosines = np.cos(np.pi * (2 * t[:, None] + 1) * t / 16)
  cosines /= np.linalg.norm(cosines, axis=0)
  grey = np.einsum("iu,jv->ijuv", cosines, cosines).reshape(8, 8, 1, 64)
  channels = D.filters.shape[2]
  DCT = cscjax.ConvDictionary(np.repeat(grey, channels, 2).astype(np.float32) / channels**0.5)
  learned, fixed = (
    cscjax.fista(d, image, 0.05, iterations=30, step="adaptive").objective[-1] for d in (D, DCT)
  )
  assert learned < 0.95 * fixed


def test_the_shipped_network_has_the_accuracy_of_its_card():
  shipped = load_pretrained("digits")
  test = shipped.network.load_dataset().test
  prediction = shipped.network.predict(test.images)
  [accuracy] = re.findall(r"test accuracy (0\.\d+)", shipped.card["result"])
  assert np.mean(prediction.labels == test.labels) == pytest.approx(float(accuracy), abs=1e-4)
  assert len(test.images) == 360


def test_the_shipped_network_loads_if_float64_is_enabled(x64):
  assert len(load_pretrained("digits").network.variables["params"]) > 0


def test_all_files_are_complete_and_small():
  files = list(pathlib.Path(pretrained.__file__).with_name("files").iterdir())
  assert {path.name.partition(".")[0] for path in files} == set(pretrained_names())
  assert pretrained_names() == sorted([*DICTIONARIES, "digits"])
  assert sum(path.stat().st_size for path in files) < 300_000
  for name in pretrained_names():
    card = load_pretrained(name).card
    assert list(card) == list(pretrained.CARD_FIELDS)
    assert str(load_pretrained(name)).startswith(f"{name}\ndescription: {card['description'][:20]}")
    assert not re.search(r"/(home|root|tmp|usr|work)/", json.dumps(card))


@pytest.fixture
def saved(tmp_path):
  """A folder with a dictionary of unusual geometry."""
  filters = jax.random.normal(jax.random.key(0), (3, 5, 2, 4))
  D = cscjax.ConvDictionary(filters, stride=(1, 2), dilation=2, padding=((1, 2), (0, 3)))
  save_pretrained(D, "a.b", tmp_path / "new", CARD)
  return D, tmp_path / "new"


def test_a_dictionary_is_saved_with_its_geometry(saved):
  D, folder = saved
  loaded = load_pretrained("a.b", folder=folder)
  np.testing.assert_array_equal(loaded.dictionary.filters, D.filters)
  assert loaded.dictionary.geometry == D.geometry
  assert (loaded.name, loaded.card) == ("a.b", CARD)
  assert pretrained_names(folder) == ["a.b"]


def test_a_failed_write_keeps_the_former_files(saved, monkeypatch):
  D, folder = saved
  before = {path.name: path.read_bytes() for path in folder.iterdir()}

  def full(*_, **__):
    raise OSError("no space left")

  monkeypatch.setattr(pathlib.Path, "write_text", full)
  with pytest.raises(OSError, match="no space left"):
    save_pretrained(D.replace(filters=2 * D.filters), "a.b", folder, CARD)
  assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_network_is_saved(tmp_path):
  network = load_pretrained("digits").network
  save_pretrained(network, "again", tmp_path, CARD)
  again = load_pretrained("again", folder=str(tmp_path)).network
  assert isinstance(again, runs.LoadedRun)
  assert (again.config, again.step) == (network.config, network.step)
  jax.tree.map(np.testing.assert_array_equal, again.variables, network.variables)


def test_a_dictionary_is_no_network():
  with pytest.raises(ValueError, match=r"^grey-8x8 is a dictionary; use \.dictionary$"):
    _ = load_pretrained("grey-8x8").network
  with pytest.raises(ValueError, match=r"^digits is a network; use \.network$"):
    _ = load_pretrained("digits").dictionary


def test_an_unknown_name_lists_the_names(saved, tmp_path):
  names = ", ".join(pretrained_names())
  with pytest.raises(ValueError, match=f"^name: expected one of {names}, got 'grey'$"):
    load_pretrained("grey")
  with pytest.raises(ValueError, match=r"^name: expected one of a\.b, got '\.\./new/a\.b'$"):
    load_pretrained("../new/a.b", folder=saved[1])
  with pytest.raises(ValueError, match=r"^folder: expected a directory with files of save_pretrained"):
    load_pretrained("grey-8x8", folder=tmp_path / "none")


def flip_a_bit(folder):
  content = bytearray((folder / "a.b.safetensors").read_bytes())
  content[-1] ^= 1
  (folder / "a.b.safetensors").write_bytes(content)


def swap_the_tensor(folder):
  """Writes a whole file with other weights."""
  other = {"filters": np.ones((3, 5, 2, 4), np.float32)}
  safetensors.numpy.save_file(other, folder / "a.b.safetensors")


def change(key, value):
  def damage(folder):
    path = folder / "a.b.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

  return damage


DAMAGES = {
  "a bit": (flip_a_bit, "its checksum is not the one of its card"),
  "other weights": (swap_the_tensor, "its checksum is not the one of its card"),
  "no JSON": (lambda folder: (folder / "a.b.json").write_text("{"), "Expecting"),
  "a list": (lambda folder: (folder / "a.b.json").write_text("[]"), "list indices"),
  "no card": (change("card", {}), "card: expected a text for each of description, "),
  "no kind": (change("kind", "picture"), "kind: expected one of dictionary, network, got 'picture'"),
  "a stride of 0": (change("geometry", {"stride": 0}), "stride: expected"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_files_are_refused(saved, what):
  damage, message = DAMAGES[what]
  damage(saved[1])
  with pytest.raises(ValueError, match=rf"^name: .*a\.b\.safetensors cannot be used: {message}"):
    load_pretrained("a.b", folder=saved[1])


def test_bad_arguments_write_nothing(tmp_path):
  D = cscjax.ConvDictionary(jnp.ones((3, 1, 2)))
  bad = {
    "name": (D, "../a", CARD),
    "card": (D, "a", {"data": "photographs"}),
    "value": (D.filters, "a", CARD),
  }
  for argument, (value, name, card) in bad.items():
    with pytest.raises(ValueError, match=f"^{argument}: expected "):
      save_pretrained(value, name, tmp_path / "out", card)
  assert not (tmp_path / "out").exists()
