"""The problems of the suite `solvers`.

china128x16     photographs with values in 0..1, without their low-pass part: sparse codes for circular
g256x32         boundaries. `china128x16` only needs scikit-learn. The others use dictionaries and a
c256x64         photograph of SPORCO and photographs of scikit-image; `b16x128x32` is a batch of 16.
g512x96
b16x128x32
s10x1000x10     nonnegative codes of 10 simulated signals with 5 channels and 1000 samples for 10 atoms
                of 50 samples, the size of the example in alphacsc's README
lasso1000x5000  the Lasso with a matrix of correlated columns
learn_images    learning of 32 atoms of 8x8 from 16 patches of 64x64 of the photographs
learn_signals   learning of the atoms of signals such as those of s10x1000x10
"""

import importlib.resources
import importlib.util

import jax.numpy as jnp
import numpy as np

from cscjax.extras import needs
from cscjax.ops import tikhonov_lowpass
from experiments import cli
from experiments.benchmarks.objective import Coding, DenseLasso, Learning, Problem

LENGTH, CHANNELS, TAPS, ATOMS = 1000, 5, 50, 10  # sizes of the simulated signals


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


def _china() -> Coding:
  with needs("bench", "a photograph needs scikit-learn"):
    from sklearn.datasets import load_sample_image
  image = load_sample_image("china.jpg")[100:228, 200:328].mean(axis=-1, keepdims=True) / 255
  return _problem(image[None], _cosines(8, 4), 0.02)


def _camera() -> Coding:
  return _problem(_halved(_scikit_image("camera"))[None], _sporco_filters("G:8x8x32"), 0.02)


def _astronaut() -> Coding:
  return _problem(_halved(_scikit_image("astronaut"))[None], _sporco_filters("RGB:8x8x3x64"), 0.01)


def _barbara() -> Coding:
  return _problem(_gray_barbara()[None], _sporco_filters("G:8x8x96"), 0.01)


def _batch() -> Coding:
  quarters = [_patches(image)[:8] for image in (_gray_barbara(), _scikit_image("camera"))]
  return _problem(np.concatenate(quarters), _sporco_filters("G:8x8x32"), 0.02)


def _signals() -> Coding:
  signals, atoms = _simulated(10)
  return Coding(signals, atoms, 0.7, "VALID", nonnegative=True)


def _lasso() -> DenseLasso:
  """Returns a problem with normal columns of correlation 0.6^|i - j| and 50 true coefficients."""
  rng = np.random.default_rng(0)
  rows, columns, rho = 1000, 5000, 0.6
  matrix = rng.normal(size=(rows, columns))
  for j in range(1, columns):
    matrix[:, j] = rho * matrix[:, j - 1] + np.sqrt(1 - rho**2) * matrix[:, j]
  matrix /= np.linalg.norm(matrix, axis=0)
  truth = np.zeros(columns)
  truth[rng.choice(columns, 50, replace=False)] = rng.normal(size=50)
  x = matrix @ truth
  noise = rng.normal(size=rows)
  x += noise * np.linalg.norm(x) / (3 * np.linalg.norm(noise))
  beta = 0.1 * np.max(np.abs(matrix.T @ x))
  return DenseLasso(x[None].astype(np.float32), matrix.astype(np.float32), float(np.float32(beta)))


def _learn_images() -> Learning:
  high = _high_pass(np.stack([_gray_barbara(), _scikit_image("camera")]))
  patches = np.stack([_patches(image, 64) for image in high])[:, ::3]  # every third, row by row
  train, held = patches[:, :8].reshape(-1, 64, 64, 1), patches[:, 8:9].reshape(-1, 64, 64, 1)
  start = np.random.default_rng(1).normal(size=(8, 8, 1, 32))
  return Learning(train, held, _unit(start), 0.1, "CIRCULAR", nonnegative=False)


def _learn_signals() -> Learning:
  signals, _ = _simulated(12)
  train, held = signals[2:], signals[:2]
  start = _random_patches(train, (TAPS,), ATOMS)
  return Learning(train, held, start, 0.7, "VALID", nonnegative=True)


BASE_CASES = ("china128x16", "s10x1000x10", "lasso1000x5000", "learn_signals")
CASES = {
  "china128x16": _china,
  "g256x32": _camera,
  "c256x64": _astronaut,
  "g512x96": _barbara,
  "b16x128x32": _batch,
  "s10x1000x10": _signals,
  "lasso1000x5000": _lasso,
  "learn_images": _learn_images,
  "learn_signals": _learn_signals,
}


def _problem(x: np.ndarray, filters: np.ndarray, beta: float) -> Coding:
  """Normalizes the filters and removes the low-pass part of the signals."""
  return Coding(_high_pass(x), _unit(filters), beta)


def _high_pass(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float32)
  return (x - np.asarray(tikhonov_lowpass(jnp.asarray(x), 5.0, 16))).astype(np.float32)


def _simulated(count: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns signals [count, L, C] and their atoms [taps, C, m].

  An atom is a waveform times weights of the channels. The signals are sparse nonnegative combinations of
  the atoms, plus white noise.
  """
  rng = np.random.default_rng(0)
  window, smoothing = np.hanning(TAPS), np.hanning(9)
  waves = [np.convolve(rng.normal(size=TAPS), smoothing, "same") * window for _ in range(ATOMS)]
  atoms = np.stack(waves, axis=1)[:, None] * rng.normal(size=(CHANNELS, ATOMS))  # [taps, C, m]
  atoms = _unit(atoms)
  signals = 0.1 * rng.normal(size=(count, LENGTH, CHANNELS))
  for signal in signals:
    for atom in np.moveaxis(atoms, -1, 0):
      for start in rng.choice(LENGTH - TAPS + 1, 10, replace=False):
        signal[start : start + TAPS] += rng.exponential() * atom
  return signals.astype(np.float32), atoms


def _random_patches(x: np.ndarray, size: tuple[int, ...], count: int) -> np.ndarray:
  """Returns patches of the signals at random places, scaled to norm 1, from which learning starts."""
  rng = np.random.default_rng(1)
  atoms = []
  for _ in range(count):
    signal = x[rng.integers(len(x))]
    starts = [rng.integers(n - k + 1) for n, k in zip(signal.shape, size, strict=False)]
    atoms.append(signal[tuple(slice(i, i + k) for i, k in zip(starts, size, strict=True))])
  return _unit(np.stack(atoms, axis=-1))


def _unit(filters: np.ndarray) -> np.ndarray:
  """Scales atoms to norm 1, in float32."""
  norms = np.sqrt(np.sum(np.square(filters), axis=tuple(range(filters.ndim - 1))))
  return (filters / norms).astype(np.float32)


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
