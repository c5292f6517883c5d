"""The layers of the networks with dense matrices, in float64 NumPy, written from the paper's formulas.

A dictionary is a matrix D [signal size, code size]. Signals and codes are vectors, flattened in C order.
In a joined code (a, z) the channels of a and z are adjacent at each position.
"""

import math

import numpy as np


def relu(v):
  return np.where(v > 0, v, 0.0)


def batch_norm(mean, var, scale, bias):
  """Returns a batch norm with running statistics for flat vectors whose last axis is the channels."""

  def apply(v):
    z = v.reshape(-1, len(mean))
    return ((z - mean) / np.sqrt(var + 1e-5) * scale + bias).ravel()

  return apply


def concatenate(kept, new, positions):
  return np.hstack([kept.reshape(positions, -1), new.reshape(positions, -1)]).ravel()


def split(joined, positions, channels):
  """Returns the first `channels` channels and the other channels."""
  by_position = joined.reshape(positions, -1)
  return by_position[:, :channels].ravel(), by_position[:, channels:].ravel()


def block(d1, d2, x, skip, norms, c, keep):
  """Returns the code of a Res-CSC block (eq. 3 and 5); c = 0 and `keep` select one of the four rules."""
  code = relu(norms[0](d1.T @ x))
  analysed = norms[1](d2.T @ code + c * d2.T @ (d2 @ skip))
  return relu(analysed + skip if keep else analysed)


def momentum_weights(count):
  """Returns FISTA's extrapolation weight of each iteration after the first one."""
  t, weights = 1.0, []
  for _ in range(count):
    t_next = (1 + math.sqrt(1 + 4 * t**2)) / 2
    weights.append((t - 1) / t_next)
    t = t_next
  return weights


def pursue(d, analysis, x, thresholds, step, accelerate=False):
  """Codes with one layer: thresholds[0](B^T x), then thresholds[k](y - step B^T (D y - x)).

  B is `analysis`, and y the code, extrapolated if `accelerate` is True.
  """
  code = thresholds[0](analysis.T @ x)
  old = code
  for shrink, weight in zip(thresholds[1:], momentum_weights(len(thresholds) - 1), strict=True):
    y = code + weight * (code - old) if accelerate else code
    old, code = code, shrink(y - step * analysis.T @ (d @ y - x))
  return code


def pursue_together(ds, analyses, x, thresholds, steps, accelerate=False):
  """Codes with all layers by ML-ISTA or ML-FISTA (Sulam et al. 2020); thresholds[layer][iteration]."""
  layers = range(len(ds))
  codes, signal = [], x
  for i in layers:
    signal = thresholds[i][0](analyses[i].T @ signal)
    codes.append(signal)
  old = codes[-1]
  unfolding = len(thresholds[0]) - 1
  for k, weight in enumerate(momentum_weights(unfolding), start=1):
    top = codes[-1] + weight * (codes[-1] - old) if accelerate else codes[-1]
    old = codes[-1]
    guesses = [top]
    for i in reversed(layers[1:]):
      guesses.insert(0, ds[i] @ guesses[0])
    below = x
    for i in layers:
      gradient = analyses[i].T @ (ds[i] @ guesses[i] - below)
      below = thresholds[i][k](guesses[i] - steps[i] * gradient)
      codes[i] = below
  return codes


def msd_thresholds(new, positions, channels, signed):
  """Returns the thresholds of codes (a, z), flattened one after the other, from those of z."""
  size = positions * channels

  def make(k):
    def apply(v):
      kept = v[:size].reshape(positions, channels).copy()
      if k > 0:
        kept[:, signed:] = relu(kept[:, signed:])
      return np.concatenate([kept.ravel(), new[k](v[size:])])

    return apply

  return [make(k) for k in range(len(new))]


def interleaved(f, positions, channels, width):
  """Returns [I, F^T] as a matrix for joined codes, in which the channels of a and z are adjacent."""
  columns = np.empty((f.shape[0], positions, channels + width))
  columns[:, :, :channels] = np.eye(f.shape[0]).reshape(f.shape[0], positions, channels)
  columns[:, :, channels:] = f.reshape(f.shape[0], positions, width)
  return columns.reshape(f.shape[0], -1)
