"""The multi-layer basis pursuit as a dense quadratic program, solved by an interior-point method."""

import numpy as np


def quadratic_program(q, c, g, h, tolerance=1e-11):
  """Returns argmin 1/2 z^T Q z + c^T z subject to G z <= h (Mehrotra's predictor-corrector method)."""
  z, s, y = np.zeros(len(c)), np.ones(len(h)), np.ones(len(h))
  scale = 1 + np.abs(c).max() + np.abs(h).max()
  for _ in range(100):
    dual, primal, mu = q @ z + c + g.T @ y, g @ z + s - h, s @ y / len(h)
    if max(np.abs(dual).max(), np.abs(primal).max(), mu) < tolerance * scale:
      return z
    matrix = q + g.T @ ((y / s)[:, None] * g)
    complement = s * y
    _, ds, dy = _direction(matrix, g, dual, primal, s, y, complement)
    step = _longest(s, y, ds, dy)
    sigma = ((s + step * ds) @ (y + step * dy) / len(h) / mu) ** 3
    complement = s * y + ds * dy - sigma * mu
    dz, ds, dy = _direction(matrix, g, dual, primal, s, y, complement)
    step = 0.99 * _longest(s, y, ds, dy)
    z, s, y = z + step * dz, s + step * ds, y + step * dy
  raise AssertionError("The interior-point method has not converged.")


def _direction(matrix, g, dual, primal, s, y, complement):
  """Returns the Newton direction of the variables, slacks and multipliers."""
  dz = np.linalg.solve(matrix, -dual - g.T @ ((y * primal - complement) / s))
  ds = -primal - g @ dz
  return dz, ds, (-complement - y * ds) / s


def _longest(s, y, ds, dy):
  """Returns the longest step, at most 1, for which slacks and multipliers stay nonnegative."""
  ratios = [-v[dv < 0] / dv[dv < 0] for v, dv in ((s, ds), (y, dy))]
  return min(1.0, np.concatenate([*ratios, [np.inf]]).min())


def multilayer_bp(ds, x, betas, nonnegative=False, mask=1.0):
  """Returns the deepest code and the objective of the multi-layer basis pursuit.

  Each |A_i g| is bounded by a variable t_i of the program; `betas` are scalars or one per coefficient.
  """
  maps = [np.eye(ds[-1].shape[1])]
  for d in reversed(ds):
    maps.insert(0, d @ maps[0])
  size, (fit, *layers) = len(maps[-1]), maps
  weights = np.concatenate([np.broadcast_to(b, len(a)) for a, b in zip(layers, betas, strict=True)])
  stacked = np.concatenate(layers)
  total = len(stacked)
  q = np.zeros((size + total,) * 2)
  q[:size, :size] = fit.T @ (mask * fit.T).T if np.ndim(mask) else mask * fit.T @ fit
  c = np.concatenate([-fit.T @ (mask * x), weights])
  rows = [np.hstack([sign * stacked, -np.eye(total)]) for sign in (1, -1)]
  if nonnegative:
    rows.append(np.hstack([-stacked, np.zeros((total, total))]))
  g = np.concatenate(rows)
  code = quadratic_program(q, c, g, np.zeros(len(g)))[:size]
  objective = 0.5 * np.sum(mask * (x - fit @ code) ** 2) + weights @ np.abs(stacked @ code)
  return code, objective
