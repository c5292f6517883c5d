"""The problems of the suite `solvers`: min_G 1/2 ||x - D G||^2 + beta ||G||_1 with circular boundaries.

The signals are photographs with values in 0..1, without their low-pass part. `china128x16` only needs
scikit-learn. The other problems use dictionaries and a photograph of SPORCO and photographs of
scikit-image.
"""

import importlib.resources
import importlib.util
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cscjax.extras import needs
from cscjax.ops import tikhonov_lowpass
from experiments import cli


class Problem(NamedTuple):
  """A problem in float32, the same for every library.

  Attributes:
    x: Signals [N, H, W, C].
    filters: Atoms of norm 1, shape [kh, kw, C, m].
    beta: Penalty.
  """

  x: np.ndarray
  filters: np.ndarray
  beta: float


def make(case: str) -> Problem:
  """Returns the problem with the given name.

  Raises:
    UsageError: If there is no such problem, or if a package that it needs is missing.
  """
  if case not in CASES:
    raise cli.UsageError(f"--cases: unknown {case}; there are {', '.join(CASES)}")
  if case not in available():
    raise cli.UsageError(f"--cases: {case} needs SPORCO and scikit-image (pip install 'cscjax[bench]')")
  return CASES[case]()


def available() -> tuple[str, ...]:
  """Returns the names of the problems whose packages are installed."""
  peers = all(importlib.util.find_spec(name) for name in ("sporco", "skimage"))
  return tuple(CASES) if peers else BASE_CASES


def _china() -> Problem:
  with needs("bench", "a photograph needs scikit-learn"):
    from sklearn.datasets import load_sample_image
  image = load_sample_image("china.jpg")[100:228, 200:328].mean(axis=-1, keepdims=True) / 255
  return _problem(image[None], _cosines(8, 4), 0.02)


def _camera() -> Problem:
  return _problem(_halved(_scikit_image("camera"))[None], _sporco_filters("G:8x8x32"), 0.02)


def _astronaut() -> Problem:
  return _problem(_halved(_scikit_image("astronaut"))[None], _sporco_filters("RGB:8x8x3x64"), 0.01)


def _barbara() -> Problem:
  return _problem(_gray_barbara()[None], _sporco_filters("G:8x8x96"), 0.01)


def _batch() -> Problem:
  quarters = [_patches(image)[:8] for image in (_gray_barbara(), _scikit_image("camera"))]
  return _problem(np.concatenate(quarters), _sporco_filters("G:8x8x32"), 0.02)


BASE_CASES = ("china128x16",)
CASES = {
  "china128x16": _china,
  "g256x32": _camera,
  "c256x64": _astronaut,
  "g512x96": _barbara,
  "b16x128x32": _batch,
}


def _problem(x: np.ndarray, filters: np.ndarray, beta: float) -> Problem:
  """Normalizes the filters and removes the low-pass part of the signals."""
  x = np.asarray(x, np.float32)
  filters = filters / np.sqrt(np.sum(np.square(filters), axis=(0, 1, 2)))
  high = x - np.asarray(tikhonov_lowpass(jnp.asarray(x), 5.0, 16))
  return Problem(high.astype(np.float32), filters.astype(np.float32), beta)


def _cosines(size: int, count: int) -> np.ndarray:
  """Returns count^2 filters: products of the first `count` vectors of the discrete cosine transform."""
  position, frequency = np.arange(size)[:, None] + 0.5, np.arange(count)
  basis = np.cos(np.pi / size * position * frequency)
  return np.einsum("hi,wj->hwij", basis, basis).reshape(size, size, 1, -1)


def _scikit_image(name: str) -> np.ndarray:
  from skimage import data  # pyright: ignore[reportMissingImports]

  return np.atleast_3d(getattr(data, name)()) / 255


def _sporco_filters(name: str) -> np.ndarray:
  from sporco.util import convdicts  # pyright: ignore[reportMissingImports]

  filters = convdicts()[name]
  return filters[:, :, None] if filters.ndim == 3 else filters


def _gray_barbara() -> np.ndarray:
  from PIL import Image

  with (importlib.resources.files("sporco") / "data" / "barbara.png").open("rb") as file:
    image = np.asarray(Image.open(file).convert("L"), np.float64) / 255
  return image[10:522, 100:612, None]  # the crop of SPORCO's examples


def _halved(image: np.ndarray) -> np.ndarray:
  """Halves the size of an image by taking means of 2x2 pixels."""
  h, w, c = image.shape
  return image.reshape(h // 2, 2, w // 2, 2, c).mean(axis=(1, 3))


def _patches(image: np.ndarray, size: int = 128) -> np.ndarray:
  """Cuts an image [H, W, C] into patches [N, size, size, C], row by row."""
  h, w, c = image.shape
  tiles = image.reshape(h // size, size, w // size, size, c)
  return tiles.swapaxes(1, 2).reshape(-1, size, size, c)
