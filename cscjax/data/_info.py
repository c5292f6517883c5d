"""What a trained network needs to know about its data set, without the data."""

import dataclasses

import numpy as np

_DIGITS = tuple("0123456789")
CLASS_NAMES: dict[str, tuple[str, ...]] = {
  "digits": _DIGITS,
  "svhn_cropped": _DIGITS,
  "cifar10": tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
  "cifar100": tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
  ),
}
"""The names of the classes of the data sets whose classes have names, in the order of the labels."""


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetInfo:
  """What a trained network needs to know about its data set: shape, type, classes and normalization.

  Attributes:
    example_shape: The shape of one example, (H, W, C) or (L, C).
    dtype: The type of the examples, "uint8" or "float32".
    num_classes: The number of classes.
    mean: The mean of each channel of the training set, float32 [C]; of uint8 images on the scale 0 to 1.
    std: The standard deviation of each channel, float32 [C], on the same scale.
    class_names: The names of the classes in the order of the labels, or None if they have no names.
    fingerprint: The SHA-256 of all examples and labels, or None if it is not known.

  Example:
    >>> from cscjax.data import load_dataset
    >>> info = load_dataset("digits").info
    >>> info.example_shape, info.dtype, info.num_classes, info.class_names[3]
    ((8, 8, 1), 'uint8', 10, '3')
  """

  example_shape: tuple[int, ...]
  dtype: str
  num_classes: int
  mean: np.ndarray
  std: np.ndarray
  class_names: tuple[str, ...] | None = None
  fingerprint: str | None = None
