import numpy as np
import pytest

from cscjax.data import DataError, Split, dataset_shape, load_dataset
from cscjax.data._dataset import check_split, from_splits
from cscjax.data._info import CLASS_NAMES


def make(count, shape=(4, 5, 3), seed=0, dtype=np.uint8):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (count, *shape)).astype(dtype)
  images.reshape(count, -1)[:, 0] = np.arange(count) % 256  # identifies the examples
  return Split(images, rng.integers(0, 3, count).astype(np.int32))


@pytest.mark.parametrize("count", [7, 512, 1300])
def test_statistics_of_images_match_float64(count):
  train = make(count)
  data = from_splits("d", 3, train, make(5, seed=1))
  scaled = train.images.astype(np.float64) / 255
  np.testing.assert_allclose(data.mean, scaled.mean((0, 1, 2)), rtol=1e-7)
  np.testing.assert_allclose(data.std, scaled.std((0, 1, 2)), rtol=1e-6)
  assert data.mean.dtype == data.std.dtype == np.float32
  assert data.example_shape == (4, 5, 3)
  assert data.validation is None


def test_statistics_leave_out_the_validation_split():
  whole = make(100)
  data = from_splits("d", 3, whole, make(5), validation_fraction=0.3)
  scaled = data.train.images.astype(np.float64) / 255
  np.testing.assert_allclose(data.mean, scaled.mean((0, 1, 2)), rtol=1e-7)
  assert not np.allclose(data.mean, whole.images.mean((0, 1, 2)) / 255, rtol=1e-6)


def test_statistics_of_signals_are_unscaled():
  train = make(50, shape=(9, 2), dtype=np.float32)
  data = from_splits("d", 3, train, train)
  np.testing.assert_allclose(data.mean, train.images.astype(np.float64).mean((0, 1)), rtol=1e-7)
  np.testing.assert_allclose(data.std, train.images.astype(np.float64).std((0, 1)), rtol=1e-6)


def test_train_examples_is_a_fixed_subset_without_the_validation_split():
  train, test = make(200), make(20, seed=1)
  whole = from_splits("d", 3, train, test, 0.1)
  parts = [from_splits("d", 3, train, test, 0.1, count) for count in (30, 30, 90)]
  ids = [set(part.train.images[:, 0, 0, 0].tolist()) for part in parts]
  assert [len(part) for part in ids] == [30, 30, 90]
  assert ids[0] == ids[1] < ids[2] < set(whole.train.images[:, 0, 0, 0].tolist())
  assert max(ids[0]) > 100  # not simply the first ones
  labels = dict(zip(train.images[:, 0, 0, 0], train.labels, strict=True))
  assert [labels[i] for i in parts[0].train.images[:, 0, 0, 0]] == parts[0].train.labels.tolist()
  for part in parts:
    np.testing.assert_array_equal(part.validation.images, whole.validation.images)
    np.testing.assert_array_equal(part.test.images, test.images)
  scaled = parts[0].train.images.astype(np.float64) / 255
  np.testing.assert_allclose(parts[0].mean, scaled.mean((0, 1, 2)), rtol=1e-7)


@pytest.mark.parametrize("count", [0, -5, 181, 2.5])
def test_bad_train_examples(count):
  with pytest.raises(ValueError, match=r"^train_examples: expected "):
    from_splits("d", 3, make(200), make(20), 0.1, count)


@pytest.mark.parametrize("value", [0, 1, 173, 255])
def test_a_constant_channel_has_std_one(value):
  train = make(600)
  train.images[..., 1] = value
  data = from_splits("d", 3, train, train)
  assert data.std[1] == 1
  assert 0.2 < data.std[0] < 0.4


def test_validation_is_a_fixed_subset_of_train():
  train, test = make(200), make(20, seed=1)
  one = from_splits("d", 3, train, test, 0.1)
  two = from_splits("d", 3, train, test, 0.1)
  assert (len(one.train), len(one.validation), len(one.test)) == (180, 20, 20)
  np.testing.assert_array_equal(one.validation.images, two.validation.images)
  ids = {i: label for i, label in zip(train.images[:, 0, 0, 0], train.labels, strict=True)}
  left = one.train.images[:, 0, 0, 0].tolist()
  taken = one.validation.images[:, 0, 0, 0].tolist()
  assert sorted(left + taken) == list(range(200))
  assert taken != list(range(20))
  assert [ids[i] for i in taken] == one.validation.labels.tolist()
  assert [ids[i] for i in left] == one.train.labels.tolist()
  np.testing.assert_array_equal(one.test.images, test.images)


@pytest.mark.parametrize("fraction", [0.0001, 0.9999, 1.0, -0.1, float("nan"), "0.1"])
def test_bad_validation_fraction(fraction):
  with pytest.raises(ValueError, match="validation_fraction"):
    from_splits("d", 3, make(50), make(5), fraction)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_rejected(label):
  split = make(50)
  split.labels[2] = label
  with pytest.raises(DataError, match=r"d train.*labels in 0\.\.2, got"):
    check_split("d train", split, 3)


@pytest.mark.parametrize(
  "bad",
  [
    Split(np.zeros((3, 4, 4, 1), np.float64), np.zeros(3, np.int32)),
    Split(np.zeros((3, 4), np.float32), np.zeros(3, np.int32)),
    Split(np.zeros((3, 4, 4, 1), np.uint8), np.zeros(2, np.int32)),
    Split(np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, np.int64)),
    Split(np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, np.int32)),
  ],
  ids=["float64", "no channels", "fewer labels", "int64 labels", "empty"],
)
def test_a_split_of_wrong_shape_or_type_is_rejected(bad):
  with pytest.raises(DataError, match="d test: expected"):
    check_split("d test", bad, 3)


def test_digits():
  from sklearn.datasets import load_digits

  data = load_dataset("digits")
  assert (data.num_classes, data.example_shape) == (10, (8, 8, 1))
  assert (len(data.train), len(data.test)) == (1437, 360)
  images = np.concatenate([data.train.images, data.test.images])
  labels = np.concatenate([data.train.labels, data.test.labels])
  assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
  # The 17 grey levels can be recovered, and every digit occurs once, with its label.
  raw = load_digits()
  back = np.rint(images[..., 0] / 255 * 16).astype(int).reshape(len(images), -1)
  found, expected = (
    sorted(map(tuple, np.column_stack(pair).astype(int)))
    for pair in ((back, labels), (raw.data, raw.target))
  )
  assert found == expected
  assert (images.min(), images.max()) == (0, 255)
  fraction = np.bincount(data.test.labels) / np.bincount(labels)
  assert np.all(np.abs(fraction - 0.2) < 0.01)


def test_every_class_has_one_name_in_the_order_of_the_labels():
  for name, names in CLASS_NAMES.items():
    assert len(set(names)) == len(names) == dataset_shape(name)[1], name
  assert list(CLASS_NAMES["cifar100"]) == sorted(CLASS_NAMES["cifar100"])
  assert load_dataset("digits").info.class_names[7] == "7"
  assert load_dataset("gaussian_centers").info.class_names is None


def test_digits_do_not_depend_on_global_seeds():
  np.random.seed(1)  # noqa: NPY002
  one = load_dataset("digits", validation_fraction=0.1)
  np.random.seed(2)  # noqa: NPY002
  two = load_dataset("digits", validation_fraction=0.1)
  np.testing.assert_array_equal(one.test.images, two.test.images)
  np.testing.assert_array_equal(one.validation.images, two.validation.images)


def test_unknown_name_lists_the_choices():
  with pytest.raises(ValueError, match="digits, gaussian_centers, cifar10, cifar100, svhn_cropped"):
    load_dataset("mnist")
