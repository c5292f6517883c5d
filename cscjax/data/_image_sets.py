"""The natural-image data sets: what they must look like, wherever they were read from."""

import hashlib

import numpy as np

from cscjax.data._dataset import DataError, Split, check_split

IMAGE_SHAPE = (32, 32, 3)
# Name, as in TFDS, to number of classes.
IMAGE_SETS = {"cifar10": 10, "cifar100": 100, "svhn_cropped": 10}


def check_image_split(what: str, split: Split, name: str) -> None:
  """Raises DataError, beginning with `what`, unless `split` can be one of data set `name`."""
  if split.images.dtype != np.uint8 or split.images.shape[1:] != IMAGE_SHAPE:
    raise DataError(
      f"{what}: expected uint8 images [N, 32, 32, 3], got {split.images.dtype} {split.images.shape}"
    )
  check_split(what, split, IMAGE_SETS[name])


def in_canonical_order(split: Split) -> Split:
  """Returns `split` ordered by a hash of each example.

  TFDS, the original archives and image sheets hold the same examples in different orders. In this
  order a seed gives the same batches, and a validation fraction the same examples, on every machine.
  """
  rows = split.images.reshape(len(split), -1)
  digests = [
    hashlib.sha256(row.tobytes() + label.tobytes()).digest()
    for row, label in zip(rows, split.labels, strict=True)
  ]
  order = sorted(range(len(split)), key=digests.__getitem__)
  return Split(split.images[order], split.labels[order])


def one_line(error: BaseException) -> str:
  """The text of `error` on one line of readable length."""
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= 200 else text[:199] + "…"
