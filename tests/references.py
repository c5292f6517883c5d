"""Dense reference implementations in float64 NumPy, written from the definitions without the package.

Signals and codes are vectors, flattened in C order. D is a matrix [signal size, code size].
"""

import itertools
import math

import numpy as np


def per_axis(value, rank):
  return (value,) * rank if isinstance(value, int) else tuple(value)


def leading_pad(size, kernel, stride, dilation, padding, axis):
  """Returns the padding before the signal and the number of outputs along one axis."""
  span = (kernel - 1) * dilation + 1
  if padding == "CIRCULAR":
    return (span - 1) // 2, math.ceil(size / stride)
  if padding == "SAME":
    outputs = math.ceil(size / stride)
    return max((outputs - 1) * stride + span - size, 0) // 2, outputs
  low, high = (0, 0) if padding == "VALID" else padding[axis]
  return low, (size + low + high - span) // stride + 1


def conv_matrix(filters, spatial, *, stride=1, dilation=1, padding="SAME"):
  """Returns the matrix of a convolutional dictionary with filters [kernel..., C, m].

  Each column is an atom. Column (position, k) holds filter k, with its tap t at position * stride
  + t * dilation - low. Taps outside of the signal are dropped, or wrap around for "CIRCULAR".
  """
  filters = np.asarray(filters, np.float64)
  rank = filters.ndim - 2
  *kernel, channels, m = filters.shape
  strides, dilations = per_axis(stride, rank), per_axis(dilation, rank)
  axes = [leading_pad(spatial[i], kernel[i], strides[i], dilations[i], padding, i) for i in range(rank)]
  outputs = [count for _, count in axes]
  matrix = np.zeros((*spatial, channels, *outputs, m))
  for position in itertools.product(*map(range, outputs)):
    for tap in itertools.product(*map(range, kernel)):
      place = [
        p * s + t * d - low
        for p, s, t, d, (low, _) in zip(position, strides, tap, dilations, axes, strict=True)
      ]
      if padding == "CIRCULAR":
        place = [i % n for i, n in zip(place, spatial, strict=True)]
      if all(0 <= i < n for i, n in zip(place, spatial, strict=True)):
        matrix[(*place, slice(None), *position)] += filters[tap]
  return matrix.reshape(math.prod(spatial) * channels, -1)


def code_spatial(filters, spatial, *, stride=1, dilation=1, padding="SAME"):
  rank = filters.ndim - 2
  strides, dilations = per_axis(stride, rank), per_axis(dilation, rank)
  return tuple(
    leading_pad(spatial[i], filters.shape[i], strides[i], dilations[i], padding, i)[1]
    for i in range(rank)
  )


def soft(z, threshold, nonnegative=False):
  if nonnegative:
    return np.where(z > threshold, z - threshold, 0.0)
  return np.where(z > threshold, z - threshold, np.where(z < -threshold, z + threshold, 0.0))


def lasso_objective(d, x, code, beta):
  """Returns 1/2 ||x - D code||^2 + sum beta |code|; beta is a scalar or one value per coefficient."""
  residual = x - d @ code
  return 0.5 * residual @ residual + np.sum(beta * np.abs(code))


def lipschitz(d):
  return np.linalg.svd(d, compute_uv=False)[0] ** 2


def pursue(d, x, beta, iterations, *, step=None, nonnegative=False, init=None, accelerate=False):
  """Runs ISTA, or FISTA as in Beck & Teboulle 2009 (4.1-4.3).

  Returns:
    The code, and the objective before the first iteration and after each one.
  """
  step = 1 / lipschitz(d) if step is None else step
  code = np.zeros(d.shape[1]) if init is None else np.asarray(init, np.float64)
  y, t = code, 1.0
  trace = [lasso_objective(d, x, code, beta)]
  for _ in range(iterations):
    old = code
    code = soft(y - step * d.T @ (d @ y - x), beta * step, nonnegative)
    t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
    y = code + (t - 1) / t_next * (code - old) if accelerate else code
    t = t_next
    trace.append(lasso_objective(d, x, code, beta))
  return code, np.array(trace)


def coherence(d):
  """Returns the largest normalized inner product of two different columns, computed pair by pair."""
  norms = np.sqrt(np.sum(d * d, axis=0))
  largest = 0.0
  for i, j in itertools.combinations(range(d.shape[1]), 2):
    if norms[i] > 0 and norms[j] > 0:
      largest = max(largest, abs(d[:, i] @ d[:, j]) / (norms[i] * norms[j]))
  return largest
