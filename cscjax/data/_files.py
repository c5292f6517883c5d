"""Data sets that users provide as an .npz file or as a folder of images."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cscjax.checks import one_line, warn
from cscjax.data._arrays import GivenSplit, Parts, to_parts
from cscjax.data._cache import expand_home
from cscjax.data._dataset import DataError
from cscjax.extras import needs

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""The endings of the files in a folder that are images, in lower case."""
_SPLITS = ("train", "test", "val")
_GREY = ("1", "L", "LA")  # Pillow's modes
_DEEP = ("I", "F")  # the first letters of Pillow's modes with more than 8 bits per channel
_KEYS = (
  "class_names",
  *(f"{split}_{kind}" for split in _SPLITS for kind in ("images", "labels")),
)


def read_files(name: str) -> Parts:
  """Reads a data set of the form "npz:FILE" or "folder:DIR", see `load_dataset`.

  Raises:
    DataError: If a file is missing, unreadable or does not fit the others. The message names it.
    MissingExtraError: If Pillow, which reads images, is not installed.
  """
  kind, _, given = name.partition(":")
  path = expand_home("dataset", given)
  try:
    return READERS[kind](path)
  except (OSError, ValueError) as error:
    raise DataError(f"dataset: {error}") from error


def _read_npz(path: pathlib.Path) -> Parts:
  """Reads the arrays of an .npz file."""
  if not path.is_file():
    raise ValueError(f"no such file: {path}")
  try:
    with open(path, "rb") as opened:
      file: Any = np.load(opened, allow_pickle=False)
      found = {key: file[key] for key in file.files if key in _KEYS}
  except Exception as error:  # the readers raise many types
    raise ValueError(f"{path}: not a readable .npz file ({one_line(error)})") from error
  given = {}
  for split in _SPLITS:
    keys = f"{split}_images", f"{split}_labels"
    missing = [key for key in keys if key not in found]
    if missing and (split == "train" or len(missing) == 1):
      names = one_line(", ".join(file.files) or "no arrays")
      raise ValueError(f"{path}: expected the array {missing[0]}, got {names}")
    if not missing:
      given[split] = GivenSplit(f"{split}_", *(found[key] for key in keys))
  return _to_parts(path, given, found.get("class_names"))


def _read_folder(folder: pathlib.Path) -> Parts:
  """Reads a folder that contains a folder of images for each class, or folders of splits."""
  if not folder.is_dir():
    raise ValueError(f"no such directory: {folder}")
  splits = {split: folder / split for split in _SPLITS if (folder / split).is_dir()}
  if "train" not in splits or len(splits) == 1:
    splits = {"train": folder}  # a class may be called "train"
  elif others := [path.name for path in _visible(folder) if path.is_dir() and path.name not in splits]:
    warn(f"dataset: {folder}: expected the folders train, val and test, ignored {', '.join(others)}")
  names = [path.name for path in _visible(splits["train"]) if path.is_dir()]
  if len(names) < 2:
    found = names[0] if names else "none"
    raise ValueError(f"{splits['train']}: expected folders of at least two classes, got {found}")
  examples = {split: _examples(path, names) for split, path in splits.items()}
  first = examples["train"][0][0]
  like = _pixels(first)
  given = {}
  for split, pairs in examples.items():
    images = np.empty((len(pairs), *like.shape), np.uint8)
    for i, (path, _) in enumerate(pairs):
      pixels = _pixels(path, as_rgb=like.shape[-1] == 3)
      if pixels.shape != like.shape:
        raise ValueError(f"{path}: expected {_form(like)}, as {first}, got {_form(pixels)}")
      images[i] = pixels
    given[split] = GivenSplit(f"{split} ", images, [label for _, label in pairs])
  return _to_parts(folder, given, names)


def _to_parts(path: pathlib.Path, given: Mapping[str, GivenSplit], class_names: Any) -> Parts:
  """Returns the parts of the splits; without a test set, "val" is the test set, as in ImageNet."""
  test, validation = given.get("test"), given.get("val")
  if test is None:
    test, validation = validation, None
  try:
    return to_parts(given["train"], test, validation, class_names)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


READERS: dict[str, Callable[[pathlib.Path], Parts]] = {"npz": _read_npz, "folder": _read_folder}
"""The function that reads each kind of files."""


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns what a folder contains, sorted by name, without the hidden files of macOS and Jupyter."""
  found = [path for path in folder.iterdir() if not path.name.startswith(".")]
  return sorted(found, key=lambda path: path.name)


def _examples(folder: pathlib.Path, names: list[str]) -> list[tuple[pathlib.Path, int]]:
  """Returns the paths of the images in the folders of the classes, each with its label."""
  examples, known = [], one_line(", ".join(names))
  for place in filter(pathlib.Path.is_dir, _visible(folder)):
    if place.name not in names:
      raise ValueError(f"{place}: expected a folder of one of the classes {known}")
    found = _visible(place)
    if inner := [path for path in found if path.is_dir()]:  # perhaps a folder of a split
      raise ValueError(f"{inner[0]}: expected an image of the class {place.name}, got a folder")
    paths = [path for path in found if path.suffix.lower() in ENDINGS]
    if not paths:
      raise ValueError(f"{place}: expected images ({', '.join(ENDINGS)}), got none")
    examples += [(path, names.index(place.name)) for path in paths]
  if not examples:
    raise ValueError(f"{folder}: expected folders of the classes {known}, got none")
  return examples


def _pixels(path: pathlib.Path, as_rgb: bool = False) -> np.ndarray:
  """Returns an image as uint8 [H, W, 3], or as [H, W, 1] if it is grey and not `as_rgb`."""
  with needs("images", f"reading {path} needs Pillow"):
    from PIL import Image
  try:
    if not path.is_file():  # opening a pipe would wait for its writer
      raise ValueError("no such file")
    with Image.open(path) as image:
      if image.mode.startswith(_DEEP):
        raise ValueError(f"more than 8 bits per channel, mode {image.mode}")
      if image.mode in _GREY and not as_rgb:
        return np.asarray(image.convert("L"))[..., None]
      return np.asarray(image.convert("RGB"))
  except Exception as error:  # the decoders raise many types
    raise ValueError(f"{path}: not a readable image ({one_line(error)})") from error


def _form(pixels: np.ndarray) -> str:
  """Returns the size and the kind of an image in words."""
  height, width, channels = pixels.shape
  return f"{width} x {height} pixels {'in colour' if channels == 3 else 'in grey'}"
