"""The 1,797 handwritten 8 x 8 digits that come with scikit-learn."""

import numpy as np

from cscjax.data._dataset import Split
from cscjax.extras import needs


def digits() -> tuple[Split, Split]:
  """Returns (train, test): uint8 images [1437, 8, 8, 1] and [360, 8, 8, 1], 10 classes.

  The original 17 grey levels are spread over 0..255. The split is stratified and always the same.

  Raises:
    MissingExtraError: scikit-learn is not installed.
  """
  with needs("digits", "the digits need scikit-learn"):  # which takes a second to import
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

  pixels, classes = load_digits(return_X_y=True)
  images = np.rint(np.reshape(pixels, (-1, 8, 8, 1)) * (255 / 16)).astype(np.uint8)
  labels = np.asarray(classes, np.int32)
  train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
  return Split(images[train], labels[train]), Split(images[test], labels[test])
