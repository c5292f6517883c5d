"""Data sets that users provide: arrays, .npz files and folders of images."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from cscjax.data import DATASETS, DataError, check_name, dataset_shape, load_dataset, make_dataset

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (20, 6, 7), dtype=np.uint8)
RGB = GENERATOR.integers(0, 256, (20, 6, 7, 3), dtype=np.uint8)
LABELS = np.arange(20) % 3  # int64


def test_labels_of_any_type_and_grey_images():
  data = make_dataset(GREY, LABELS.tolist(), test=(GREY[:4], LABELS[:4, None].astype(np.uint8)))
  assert (data.example_shape, data.num_classes, data.class_names) == ((6, 7, 1), 3, None)
  for split, count in ((data.train, 20), (data.test, 4)):
    np.testing.assert_array_equal(split.images[..., 0], GREY[:count])
    np.testing.assert_array_equal(split.labels, LABELS[:count])
    assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)


def test_floating_point_images_and_signals_become_float32():
  signals = GENERATOR.normal(size=(20, 30, 2))
  for images in (RGB / 255, signals):
    data = make_dataset(images, LABELS, test=(images, LABELS))
    assert data.train.images.dtype == np.float32
    axes = tuple(range(images.ndim - 1))
    np.testing.assert_allclose(data.mean, images.mean(axes), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(data.std, images.std(axes), rtol=1e-4)


def test_a_fifth_of_each_class_is_held_out_without_a_test_set():
  labels = np.repeat([0, 1, 2, 3], [50, 15, 2, 1])
  images = np.broadcast_to(np.arange(len(labels), dtype=np.uint8)[:, None, None], (len(labels), 2, 2))
  one, two = make_dataset(images, labels), make_dataset(images, labels, validation_fraction=0.25)
  assert np.bincount(one.test.labels).tolist() == [10, 3, 1]  # never the only example of a class
  ids = [split.images[:, 0, 0, 0].tolist() for split in (one.train, one.test)]
  assert sorted(ids[0] + ids[1]) == list(range(len(labels)))
  assert ids[1][:10] not in (list(range(10)), list(range(40, 50)))  # chosen at random
  for split in (one.train, one.test):
    np.testing.assert_array_equal(labels[split.images[:, 0, 0, 0]], split.labels)
  np.testing.assert_array_equal(one.test.images, two.test.images)
  assert (len(two.validation), len(two.train)) == (14, 40)


def test_a_validation_set_can_be_given():
  data = make_dataset(RGB, LABELS, test=(RGB[:5], LABELS[:5]), validation=(RGB[5:9], LABELS[5:9]))
  assert (len(data.train), len(data.test), len(data.validation)) == (20, 5, 4)
  np.testing.assert_array_equal(data.validation.images, RGB[5:9])


def test_class_names_allow_a_class_without_examples():
  data = make_dataset(RGB, 2 * LABELS, class_names=list("abcde"))
  assert (data.num_classes, data.class_names) == (5, tuple("abcde"))
  assert data.info.class_names[4] == "e"


def test_the_fingerprint_is_that_of_all_splits():
  given = {"test": (RGB[:5], LABELS[:5]), "validation": (RGB[5:9], LABELS[5:9])}
  first = make_dataset(RGB, LABELS, **given).info.fingerprint
  assert first == make_dataset(RGB.copy(), LABELS, **given, name="other").info.fingerprint
  changed = RGB.copy()
  changed[7, 3, 2, 1] ^= 1
  others = [
    make_dataset(changed, LABELS, **given),
    make_dataset(RGB, (LABELS + 1) % 3, **given),
    make_dataset(RGB, LABELS, **(given | {"test": (changed[5:9], LABELS[5:9])})),
    make_dataset(RGB, LABELS, **(given | {"validation": (RGB[5:9], LABELS[6:10])})),
  ]
  assert len({first, *(data.info.fingerprint for data in others)}) == 5


BAD = {
  "images of int64": ("images: expected uint8 .* got 'int64 ", (RGB.astype(int), LABELS)),
  "one image": ("images: expected uint8 .* got 'uint8 ", (RGB[0, 0], LABELS)),
  "no images": ("images: expected at least one image", (RGB[:0], LABELS[:0])),
  "images of other sizes": ("images: expected images of equal size", ([RGB[0], RGB[1, 1:]], [0, 1])),
  "NaN": ("images: expected finite values", (np.full((20, 4, 4, 1), np.nan), LABELS)),
  "beyond float32": ("images: expected finite values", (np.full((20, 4, 4, 1), 1e300), LABELS)),
  "labels as floats": ("labels: expected integers", (RGB, LABELS / 1)),
  "one label too few": ("labels: expected integers", (RGB, LABELS[1:])),
  "one-hot labels": ("labels: expected integers", (RGB, np.eye(3, dtype=int)[LABELS])),
  "negative labels": ("labels: expected classes 0, 1, 2, .*got '-1", (RGB, LABELS - 1)),
  "labels beyond int32": ("labels: expected classes 0, 1, 2, ", (RGB, LABELS + 2**31)),
  "one class": ("labels: expected at least two classes, got 'only class 0'", (RGB, 0 * LABELS)),
  "labels from 1": ("labels: expected an example of each class in 0..3", (RGB, LABELS + 1)),
  "each class once": ("test: expected a test set", (RGB[:3], LABELS[:3])),
}


@pytest.mark.parametrize("what", BAD)
def test_invalid_arrays_are_named(what):
  message, arrays = BAD[what]
  with pytest.raises(ValueError, match=f"^{message}"):
    make_dataset(*arrays)


AXES = {
  "channels first": (
    np.zeros((20, 3, 8, 9), np.uint8),
    r"got \(20, 3, 8, 9\), which looks like \[N, C, H",
  ),
  "signals with channels first": (np.zeros((20, 1, 50)), r"which looks like \[N, C, L\]"),
  "grey images as floats": (np.zeros((20, 8, 8)), "which looks like grey images"),
}


@pytest.mark.parametrize("what", AXES)
def test_axes_that_are_probably_not_meant_give_a_warning(what):
  images, message = AXES[what]
  with pytest.warns(UserWarning, match=f"^images: expected .*{message}"):
    make_dataset(images, LABELS)


BAD_OPTIONS = {
  "a name too few": ("labels: expected classes in 0..1", {"class_names": ["a", "b"]}),
  "a name twice": ("class_names: expected", {"class_names": ["a", "b", "a"]}),
  "a string of names": ("class_names: expected", {"class_names": "abc"}),
  "an array of no axis": ("class_names: expected", {"class_names": np.array("abc")}),
  "numbers as names": ("class_names: expected", {"class_names": [0, 1, 2]}),
  "test images of another size": ("test images: expected", {"test": (RGB[:3, 1:], LABELS[:3])}),
  "test images of another type": ("test images: expected", {"test": (RGB[:3] / 255, LABELS[:3])}),
  "test labels of another class": ("test labels: expected", {"test": (RGB[:3], [0, 3, 1])}),
  "test images without labels": (r"test: expected a pair \(images, labels\), got", {"test": RGB[:3]}),
  "validation of NaN": ("validation images: ", {"validation": (RGB[:3] * np.nan, LABELS[:3])}),
  "two validation sets": (
    "validation_fraction: expected 0",
    {"validation": (RGB[:3], LABELS[:3]), "validation_fraction": 0.5},
  ),
  "too many examples": ("train_examples: expected", {"train_examples": 20}),
}


@pytest.mark.parametrize("what", BAD_OPTIONS)
def test_invalid_options_are_named(what):
  message, options = BAD_OPTIONS[what]
  with pytest.raises(ValueError, match=f"^{message}"):
    make_dataset(RGB, LABELS, **options)


def test_names_of_data_sets():
  for name in (*DATASETS, "npz:~/a.npz", "folder:a:b"):
    assert check_name("dataset", name) == name
  for name in ("npz", "npz:", "folder:", "csv:a", "", None):
    with pytest.raises(ValueError, match=r"^dataset: expected one of digits, .*, npz:FILE, folder:DIR"):
      check_name("dataset", name)


def save(path, **arrays):
  np.savez(path, **arrays)
  return f"npz:{path}"


def test_an_npz_file_may_have_all_splits_and_names(tmp_path, monkeypatch):
  arrays = {"train_images": GREY, "train_labels": LABELS[:, None], "other": np.zeros(3)}
  arrays |= {
    "test_images": GREY[:6],
    "test_labels": LABELS[:6],
    "class_names": np.array(["a", "b", "c"]),
  }
  save(tmp_path / "all.npz", val_images=GREY[6:9], val_labels=LABELS[6:9], **arrays)
  monkeypatch.setenv("HOME", str(tmp_path))
  data = load_dataset("npz:~/all.npz", train_examples=15)
  assert (data.name, data.class_names) == ("npz:~/all.npz", ("a", "b", "c"))
  assert (len(data.train), len(data.test), len(data.validation)) == (15, 6, 3)
  np.testing.assert_array_equal(data.validation.images[..., 0], GREY[6:9])
  assert dataset_shape("npz:~/all.npz") == ((6, 7, 1), 3)


def test_the_only_other_set_is_the_test_set(tmp_path):
  name = save(
    tmp_path / "two.npz",
    train_images=RGB,
    train_labels=LABELS,
    val_images=RGB[6:],
    val_labels=LABELS[6:],
  )
  data = load_dataset(name)
  assert data.validation is None
  np.testing.assert_array_equal(data.test.images, RGB[6:])


BAD_NPZ = {
  "missing": ("no such file: .*bad.npz", lambda path: None),
  "a folder": ("no such file: .*bad.npz", lambda path: path.mkdir()),
  "empty": ("bad.npz: not a readable .npz", lambda path: path.touch()),
  "text": ("bad.npz: not a readable .npz", lambda path: path.write_text("images")),
  "cut": (
    "bad.npz: not a readable .npz",
    lambda path: (save(path, train_images=RGB), os.truncate(path, 300)),
  ),
  "one array": (
    "bad.npz: not a readable .npz",
    lambda path: (np.save(path.with_suffix(".npy"), RGB), path.with_suffix(".npy").rename(path)),
  ),
  "objects": (
    "bad.npz: not a readable .npz .*allow_pickle",
    lambda path: save(path, train_images=np.array([None]), train_labels=LABELS),
  ),
  "of Keras": (
    "bad.npz: expected the array train_images, got x_train, y_train",
    lambda path: save(path, x_train=RGB, y_train=LABELS),
  ),
  "no labels": (
    "bad.npz: expected the array train_labels, got train_images",
    lambda path: save(path, train_images=RGB),
  ),
  "no test labels": (
    "bad.npz: expected the array test_labels, got",
    lambda path: save(path, train_images=RGB, train_labels=LABELS, test_images=RGB),
  ),
  "wrong type": (
    "bad.npz: train_images: expected uint8",
    lambda path: save(path, train_images=RGB.astype(int), train_labels=LABELS),
  ),
  "a label out of range": (
    "bad.npz: test_labels: expected classes in 0..2",
    lambda path: save(
      path, train_images=RGB, train_labels=LABELS, test_images=RGB, test_labels=LABELS + 1
    ),
  ),
}


@pytest.mark.parametrize("what", BAD_NPZ)
def test_an_invalid_npz_file_is_named(tmp_path, what):
  message, make = BAD_NPZ[what]
  make(tmp_path / "bad.npz")
  with pytest.raises(DataError, match=rf"^dataset: .*{message}") as error:
    load_dataset(f"npz:{tmp_path / 'bad.npz'}")
  assert "\n" not in str(error.value)


def write(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


def folder(path, images=RGB, labels=LABELS, names=("cat", "Dog", "ant")):
  """Writes images as PNG files into a folder for each class."""
  for i, (image, label) in enumerate(zip(images, labels, strict=True)):
    write(path / names[label] / f"{i:03}.PNG", image)
  return f"folder:{path}"


def test_the_classes_of_a_folder_are_sorted_as_by_torchvision(tmp_path):
  folder(tmp_path / "train")
  folder(tmp_path / "test", RGB[:7], LABELS[:7])
  for hidden in ("train/.cache/a.png", "train/cat/._000.png", "train/cat/notes.txt", "train/notes.png"):
    (tmp_path / hidden).parent.mkdir(exist_ok=True)
    (tmp_path / hidden).write_text("no image")
  data = load_dataset(f"folder:{tmp_path}")
  assert data.class_names == ("Dog", "ant", "cat")  # upper case first
  order = np.argsort(np.array([2, 0, 1])[LABELS], kind="stable")
  np.testing.assert_array_equal(data.train.images, RGB[order])
  np.testing.assert_array_equal(data.train.labels, np.array([2, 0, 1])[LABELS][order])
  assert (len(data.test), data.validation) == (7, None)
  assert dataset_shape(f"folder:{tmp_path}") == ((6, 7, 3), 3)


def test_a_folder_may_be_grey_and_without_a_test_set(tmp_path):
  data = load_dataset(folder(tmp_path, GREY), validation_fraction=0.25)
  assert data.example_shape == (6, 7, 1)
  assert [len(split) for split in (data.train, data.validation, data.test)] == [13, 4, 3]
  found = {
    image.tobytes() for split in (data.train, data.validation, data.test) for image in split.images
  }
  assert found == {image.tobytes() for image in GREY}


@pytest.mark.parametrize(
  ("names", "expected"), [(("train", "val"), (6, None)), (("train", "test", "val"), (6, 6))]
)
def test_val_is_the_validation_set_if_there_is_a_test_set(tmp_path, names, expected):
  for name in names:
    count = 20 if name == "train" else 6
    folder(tmp_path / name, RGB[:count], LABELS[:count])
  data = load_dataset(f"folder:{tmp_path}")
  assert (len(data.test), data.validation and len(data.validation)) == expected


def test_a_folder_beside_those_of_the_sets_gives_a_warning(tmp_path):
  for name in ("train", "test", "valid"):
    folder(tmp_path / name)
  with pytest.warns(UserWarning, match=r"^dataset: .*: expected the folders train, .* ignored valid$"):
    assert load_dataset(f"folder:{tmp_path}").validation is None


def test_grey_images_among_others_become_rgb(tmp_path):
  name = folder(tmp_path, RGB)
  write(tmp_path / "ant" / "last.png", GREY[0])
  Image.fromarray(RGB[0]).convert("P").save(tmp_path / "ant" / "palette.png")
  data = load_dataset(name)
  whole = np.concatenate([data.train.images, data.test.images])
  assert any(np.array_equal(image, np.repeat(GREY[0, ..., None], 3, axis=-1)) for image in whole)
  assert len(whole) == 22


def cut(path):
  content = io.BytesIO()
  Image.fromarray(RGB[0]).save(content, "png")
  path.write_bytes(content.getvalue()[:60])


BAD_FOLDERS = {
  "no folder": ("no such directory: .*/pets/none", "none", lambda path: None),
  "no classes": ("pets: expected folders of at least two classes, got ant", "", lambda path: None),
  "one class": (
    "pets/one: expected folders of at least two classes, got cat",
    "one",
    lambda path: write(path / "one/cat/a.png", RGB[0]),
  ),
  "an empty class": ("pets/cat: expected images .* got none", "", lambda path: (path / "cat").mkdir()),
  "another size": (
    "pets/cat/a.png: expected 7 x 6 pixels in colour, as .*/ant/0.png, got 6 x 7 pixels",
    "",
    lambda path: write(path / "cat/a.png", RGB[0].swapaxes(0, 1)),
  ),
  "no image": (
    "pets/cat/a.png: not a readable image",
    "",
    lambda path: ((path / "cat").mkdir(), (path / "cat/a.png").write_text("no image")),
  ),
  "a cut image": (
    "pets/cat/a.png: not a readable image",
    "",
    lambda path: ((path / "cat").mkdir(), cut(path / "cat/a.png")),
  ),
  "a pipe": (
    "pets/cat/a.png: not a readable image",
    "",
    lambda path: ((path / "cat").mkdir(), os.mkfifo(path / "cat/a.png")),
  ),
  "a broken link": (
    "pets/cat/a.png: not a readable image",
    "",
    lambda path: ((path / "cat").mkdir(), (path / "cat/a.png").symlink_to("gone")),
  ),
  "16 bits": (
    "pets/cat/a.png: not a readable image .*more than 8 bits",
    "",
    lambda path: write(path / "cat/a.png", GREY[0].astype(np.uint16)),
  ),
  "a folder in a class": (
    "pets/cat/a: expected an image of the class cat, got a folder",
    "",
    lambda path: (path / "cat/a").mkdir(parents=True),
  ),
  "a colour image after a grey one": (
    "grey/cat/0.png: expected 7 x 6 pixels in grey, .* got 7 x 6 pixels in colour",
    "grey",
    lambda path: (write(path / "grey/ant/0.png", GREY[0]), write(path / "grey/cat/0.png", RGB[0])),
  ),
  "an unknown class in the test set": (
    "split/test/dog: expected a folder of one of the classes ant, cat",
    "split",
    lambda path: [
      write(path / "split" / name, RGB[0])
      for name in ("train/ant/a.png", "train/cat/a.png", "test/dog/a.png")
    ],
  ),
  "an empty test set": (
    "split/test: expected folders of the classes ant, cat, got none",
    "split",
    lambda path: [
      (path / "split/test").mkdir(parents=True),
      *(write(path / "split/train" / name, RGB[0]) for name in ("ant/a.png", "cat/a.png")),
    ],
  ),
  "each class once": (
    "pets: test: expected a test set",
    "",
    lambda path: write(path / "cat/a.png", RGB[0]),
  ),
}


@pytest.mark.parametrize("what", BAD_FOLDERS)
def test_an_invalid_folder_is_named(tmp_path, what):
  message, place, make = BAD_FOLDERS[what]
  pets = tmp_path / "pets"
  write(pets / "ant" / "0.png", RGB[0])
  make(pets)
  with pytest.raises(DataError, match=f"^dataset: .*{message}") as error:
    load_dataset(f"folder:{pets / place}")
  assert "\n" not in str(error.value)
