"""The networks' layers over dense matrices, in float64 NumPy, written from the paper's formulas.

A dictionary is its matrix D [signal size, code size]; signals and codes are vectors, flattened in C
order. The channels of a joined code lie beside each other at each position.
"""

import math

import numpy as np


def relu(v):
  return np.where(v > 0, v, 0.0)


def batch_norm(mean, var, scale, bias):
  """Of a flat vector whose last axis is the channels, with running statistics."""

  def apply(v):
    z = v.reshape(-1, len(mean))
    return ((z - mean) / np.sqrt(var + 1e-5) * scale + bias).ravel()

  return apply


def concatenate(kept, new, positions):
  return np.hstack([kept.reshape(positions, -1), new.reshape(positions, -1)]).ravel()


def split(joined, positions, channels):
  """The first `channels` channels and the others."""
  by_position = joined.reshape(positions, -1)
  return by_position[:, :channels].ravel(), by_position[:, channels:].ravel()


def block(d1, d2, x, skip, norms, c, keep):
  """A block of the Res-CSC family (eq. 3 and 5); c = 0 and keep give the four of them."""
  code = relu(norms[0](d1.T @ x))
  analysed = norms[1](d2.T @ code + c * d2.T @ (d2 @ skip))
  return relu(analysed + skip if keep else analysed)


def momentum_weights(count):
  """FISTA's weight before each unfolding."""
  t, weights = 1.0, []
  for _ in range(count):
    t_next = (1 + math.sqrt(1 + 4 * t**2)) / 2
    weights.append((t - 1) / t_next)
    t = t_next
  return weights


def pursue(d, analysis, x, thresholds, step, accelerate=False):
  """One layer: thresholds[0](B^T x), then thresholds[k](y - step B^T (D y - x)) for B = analysis."""
  code = thresholds[0](analysis.T @ x)
  old = code
  for shrink, weight in zip(thresholds[1:], momentum_weights(len(thresholds) - 1), strict=True):
    y = code + weight * (code - old) if accelerate else code
    old, code = code, shrink(y - step * analysis.T @ (d @ y - x))
  return code


def pursue_together(ds, analyses, x, thresholds, steps, accelerate=False):
  """ML-ISTA and ML-FISTA (Sulam et al. 2020): all layers, thresholds[layer][iteration]."""
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
  """Of the codes (a, z), flattened one after the other, for the layers' own z -> relu(N_k(z))."""
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
  """[I, F^T] as a matrix over joined codes, whose channels lie beside each other."""
  columns = np.empty((f.shape[0], positions, channels + width))
  columns[:, :, :channels] = np.eye(f.shape[0]).reshape(f.shape[0], positions, channels)
  columns[:, :, channels:] = f.reshape(f.shape[0], positions, width)
  return columns.reshape(f.shape[0], -1)
