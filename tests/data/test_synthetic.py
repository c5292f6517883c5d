import numpy as np
import pytest

from cscjax.data import gaussian_centers, load_dataset


def class_means(split, num_classes):
  return np.stack([split.images[split.labels == k, :, 0].mean(0) for k in range(num_classes)])


def test_the_default_is_the_simulation_of_the_paper():
  data = load_dataset("gaussian_centers")
  assert (data.num_classes, data.example_shape) == (100, (100, 1))
  assert data.train.images.dtype == np.float32
  assert np.bincount(data.train.labels).tolist() == [100] * 100
  assert np.bincount(data.test.labels).tolist() == [20] * 100
  # The variances of centres and noise add. The sampling error of 10,000 centre values is about 1.4 %.
  assert abs(data.std[0] - np.sqrt(2)) < 0.03
  assert abs(data.mean[0]) < 0.05


def test_train_and_test_share_normal_centers_with_the_stated_noise():
  noise = 0.5
  data = gaussian_centers(20, 300, 2000, 2000, noise=noise, seed=3)
  train, test = class_means(data.train, 20), class_means(data.test, 20)
  # The difference of two means of 100 points has a standard deviation of noise * sqrt(2 / 100).
  assert abs((train - test).std() / (noise * np.sqrt(0.02)) - 1) < 0.05
  assert abs(train.std() - 1) < 0.05
  residual = data.train.images[..., 0] - train[data.train.labels]
  assert abs(residual.std() / (noise * np.sqrt(0.99)) - 1) < 0.01
  # All points differ, and they are not sorted by class.
  both = np.concatenate([data.train.images, data.test.images])
  assert len(np.unique(both, axis=0)) == 4000
  assert np.any(np.diff(data.train.labels) < 0)


def test_without_noise_points_are_centers():
  data = gaussian_centers(3, 4, 6, 3, noise=0)
  assert len(np.unique(np.concatenate([data.train.images, data.test.images]), axis=0)) == 3


def test_the_seed_determines_the_data():
  one, two = gaussian_centers(4, 5, 8, 4, seed=1), gaussian_centers(4, 5, 8, 4, seed=1)
  np.testing.assert_array_equal(one.train.images, two.train.images)
  other = gaussian_centers(4, 5, 8, 4, seed=2)
  assert not np.array_equal(one.train.images, other.train.images)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("num_classes", 0),
    ("dimension", 1.5),
    ("num_train", 101),
    ("num_test", 0),
    ("noise", -1.0),
    ("noise", float("inf")),
    ("seed", -1),
  ],
)
def test_bad_argument_is_named(name, value):
  with pytest.raises(ValueError, match=f"^{name}: "):
    gaussian_centers(**{"num_classes": 4, "num_train": 8, "num_test": 4, name: value})
