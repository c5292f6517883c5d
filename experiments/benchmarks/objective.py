"""The objective in float64 with NumPy, which evaluates the codes of all libraries alike."""

import numpy as np


class Objective:
  """The objective f(G) = 1/2 ||x - D G||^2 + beta ||G||_1, summed over the batch, by FFT in float64."""

  def __init__(self, x: np.ndarray, filters: np.ndarray, beta: float):
    """Prepares the Fourier transform of the filters.

    Args:
      x: Signals [N, H, W, C].
      filters: Filters [kh, kw, C, m]; the origin of an atom is its first tap.
      beta: Penalty.
    """
    self.x, self.beta = x.astype(np.float64), beta
    self.spectrum = np.fft.rfft2(filters.astype(np.float64), x.shape[1:3], axes=(0, 1))

  def __call__(self, code: np.ndarray) -> float:
    """Returns the objective of a code [N, H, W, m]."""
    return sum(self.of_one(x, c) for x, c in zip(self.x, code, strict=True))

  def of_one(self, x: np.ndarray, code: np.ndarray) -> float:
    """Returns the objective of one image [H, W, C] and its code [H, W, m]."""
    code = code.astype(np.float64)
    spectrum = np.einsum("hwm,hwcm->hwc", np.fft.rfft2(code, axes=(0, 1)), self.spectrum, optimize=True)
    reconstruction = np.fft.irfft2(spectrum, x.shape[:2], axes=(0, 1))
    return float(0.5 * np.sum(np.square(x - reconstruction)) + self.beta * np.sum(np.abs(code)))

  def lipschitz(self) -> float:
    """Returns the largest eigenvalue of D^T D."""
    return float(np.linalg.norm(self.spectrum, ord=2, axis=(2, 3)).max() ** 2)
