"""The suite `dense`: every variant of the dense connection agrees with its equations in NumPy."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import dense_connection, training
from experiments.benchmarks.dense_connection import BIAS, STEP, VARIANTS, Case

DEPTH, DILATIONS = 5, (1, 1, 2)  # one layer at the first resolution, then two, then two


def conv(x, f, dilation):
  h, w = x.shape[1:3]
  x = np.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)))
  taps = [(i, j, i * dilation, j * dilation) for i, j in np.ndindex(3, 3)]
  return sum(x[:, top : top + h, left : left + w] @ f[i, j] for i, j, top, left in taps)


def reference(filters, images, unfolding):
  """Returns the mean square of the code after `DEPTH` layers."""
  x = images
  for i, f in enumerate(filters):
    if i in (1, 3):
      x = np.max([x[:, top::2, left::2] for top, left in np.ndindex(2, 2)], axis=0)
    analysis = partial(conv, f=f, dilation=DILATIONS[i % 3])
    synthesis = partial(conv, f=f[::-1, ::-1].swapaxes(2, 3), dilation=DILATIONS[i % 3])
    a, z = x, np.maximum(analysis(x) + BIAS, 0)
    for _ in range(unfolding):
      r = a + synthesis(z) - x
      z = np.maximum(z - STEP * analysis(r) + BIAS, 0)
      a = a - STEP * r
      a[..., 3:] = np.maximum(a[..., 3:], 0)
    x = np.concatenate([a, z], axis=-1)
  return np.mean(np.square(x))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("variant", "unfolding"),
  [(variant, k) for variant in VARIANTS for k in (0, 2) if variant != "scatter" or k == 0],
)
def test_every_variant_is_the_reference(variant, unfolding, x64, monkeypatch):
  monkeypatch.setattr(dense_connection, "DILATIONS", DILATIONS)
  inputs = dense_connection.random_inputs(DEPTH, batch=2, width=2, size=8)
  rng = np.random.default_rng(1)
  direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), inputs)

  def at(t):
    return reference(*jax.tree.map(lambda leaf, d: leaf + t * d, inputs, direction), unfolding)

  loss = partial(dense_connection.loss, variant=variant, unfolding=unfolding)
  value, gradient = jax.value_and_grad(loss, argnums=(0, 1))(*jax.tree.map(jnp.asarray, inputs))
  np.testing.assert_allclose(value, at(0), rtol=1e-12)
  slope = sum(jax.tree.leaves(jax.tree.map(np.vdot, gradient, direction)))
  np.testing.assert_allclose(slope, (at(1e-6) - at(-1e-6)) / 2e-6, rtol=1e-7)


def test_scatter_refuses_unfoldings():
  filters, images = dense_connection.random_inputs(3, batch=1, width=2, size=8)
  with pytest.raises(ValueError, match="unfolding: expected 0, got 1"):
    dense_connection.loss(filters, images, variant="scatter", unfolding=1)


def test_rows(monkeypatch):
  monkeypatch.setattr(training, "BLOCK_SECONDS", 0.0)
  tiny = {f"{variant}_d3_u0": Case(variant, 3, 0) for variant in ("concatenate", "split")}
  monkeypatch.setattr(dense_connection, "CASES", tiny)
  found = list(dense_connection.rows(tuple(tiny), batch=1, width=2, size=8))
  assert [row["case"] for row in found] == list(tiny)
  fixed = {"suite": "dense", "depth": 3, "unfolding": 0, "batch": 1, "precision": "float32"}
  measured = ("forward_seconds", "seconds", "compile_seconds", "peak_bytes")
  for row in found:
    assert row.items() >= fixed.items()
    assert row["variant"] == tiny[row["case"]].variant
    assert min(row[key] for key in measured) > 0
    assert set(row) == {*fixed, *measured, "case", "variant", "device"}
    assert dense_connection.line(row).startswith(row["case"])
    json.dumps(row)
