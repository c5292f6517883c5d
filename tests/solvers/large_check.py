"""Runs `fista` on a large signal in a process of its own, whose peak memory is that of this run.

Arguments: spatial shape, number of channels, spatial shape of the filters, number of atoms, as in
`2048,2048 1 8,8 16`. Prints a JSON object: the largest deviation of the code in the middle of the signal
from an independent reference, and the peak memory above that before the call, in bytes.
"""

import json
import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np
from scipy import signal

import cscjax

ITERATIONS, STEP, BETA = 3, 0.05, 0.5


def reference(x, filters):
  """Computes the iterations with SciPy in float64. x: [*spatial, C], filters: [*taps, C, m]."""
  taps = filters.shape[:-2]
  lows = [(k - 1) // 2 for k in taps]

  def cut(full, starts):
    return full[tuple(slice(s, s + n) for s, n in zip(starts, x.shape[:-1], strict=True))]

  def analysis(x):
    starts = [k - 1 - low for k, low in zip(taps, lows, strict=True)]
    return np.stack(
      [
        sum(cut(signal.correlate(x[..., c], w[..., c]), starts) for c in range(x.shape[-1]))
        for w in np.moveaxis(filters, -1, 0)
      ],
      axis=-1,
    )

  def synthesis(code):
    return np.stack(
      [
        sum(cut(signal.convolve(code[..., j], w[..., j]), lows) for j in range(code.shape[-1]))
        for w in np.moveaxis(filters, -2, 0)
      ],
      axis=-1,
    )

  code = before = np.zeros((*x.shape[:-1], filters.shape[-1]))
  t, weight = 1.0, 0.0
  for _ in range(ITERATIONS):
    point = code + weight * (code - before)
    moved = point - STEP * analysis(synthesis(point) - x)
    before, code = code, np.sign(moved) * np.maximum(np.abs(moved) - STEP * BETA, 0)
    new = (1 + np.sqrt(1 + 4 * t * t)) / 2
    t, weight = new, (t - 1) / new
  return code


def peak():
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(shape, channels, taps, atoms):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((*shape, channels), dtype=np.float32)
  filters = rng.standard_normal((*taps, channels, atoms), dtype=np.float32)
  filters /= np.linalg.norm(filters.reshape(-1, atoms), axis=0)
  dictionary, x = cscjax.ConvDictionary(jnp.asarray(filters)), jax.block_until_ready(jnp.asarray(x))
  before = peak()
  result = cscjax.fista(dictionary, x, BETA, iterations=ITERATIONS, step=STEP)
  code = jax.block_until_ready(result.code)
  used = peak() - before
  # An iteration reaches 2 (taps - 1) samples, so that the code in the middle of a window is exact.
  reach = [2 * ITERATIONS * (k - 1) for k in taps]
  starts = [n // 3 for n in shape]
  window = tuple(slice(s, s + 2 * r + 8) for s, r in zip(starts, reach, strict=True))
  middle = tuple(slice(r, r + 8) for r in reach)
  expected = reference(np.asarray(x[window], np.float64), filters.astype(np.float64))[middle]
  deviation = float(np.max(np.abs(np.asarray(code[window])[middle] - expected)))
  size = float(np.max(np.abs(expected)))
  print(json.dumps({"deviation": deviation, "size": size, "bytes": used}))


if __name__ == "__main__":
  numbers = [[int(n) for n in argument.split(",")] for argument in sys.argv[1:]]
  main(numbers[0], numbers[1][0], numbers[2], numbers[3][0])
