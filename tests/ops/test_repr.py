"""Results print as a few lines without arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax

CONV = cscjax.ConvDictionary(jnp.ones((3, 3, 1, 2)) / 3)
MATRIX = cscjax.MatrixDictionary(jnp.eye(4))
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)

RESULTS = {
  "SolverResult": (
    lambda: cscjax.fista(CONV, IMAGES[0], 0.1, tolerance=1e-2),
    ["code=float32[8, 8, 2]", "converged=True", "objective=float32["],
  ),
  "MultilayerResult": (
    lambda: cscjax.ml_ista([CONV], IMAGES, [0.1], iterations=7),
    ["codes=[float32[2, 8, 8, 2]]", "iterations=7", "diverged=0 of 2"],
  ),
  "OMPResult": (
    lambda: cscjax.omp(MATRIX, jnp.array([[3.0, 4, 0, 0], [0, 0, 0, 1]]), sparsity=1, tolerance=0.1),
    ["residual_norm=float32[2, 2] from 3 to 1.5", "converged=1 of 2"],
  ),
  "PolishedCode": (
    lambda: cscjax.polished(MATRIX, jnp.ones(4), jnp.ones(4) / 2, 0.5),
    ["code=float32[4]", "violation=0", "slack="],
  ),
  "LearningResult": (
    lambda: cscjax.learn_dictionary(IMAGES, 0.1, kernel=[(3, 2)], steps=4),
    ["dictionary=ConvDictionary(float32[3, 3, 1, 2])", "objective=float32[4] from ", "LearningState("],
  ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_prints_a_few_lines(name):
  make, parts = RESULTS[name]
  text = repr(make())
  assert text.startswith(f"{name}(\n")
  for part in parts:
    assert part in text
  assert len(text) < 500
  assert len(text.splitlines()) <= 10
  assert "Array(" not in text


def test_the_values_of_a_trace_are_its_first_and_last():
  result = cscjax.fista(CONV, IMAGES, 0.1, iterations=3)
  first, last = (float(np.mean(result.objective[i])) for i in (0, -1))
  assert f"objective=float32[4, 2] from {first:.4g} to {last:.4g}," in repr(result)


def test_values_that_are_not_known_are_left_out():
  def solve(x):
    return cscjax.fista(CONV, x, 0.1, iterations=3)

  seen = []
  jax.jit(lambda x: seen.append(repr(solve(x))))(IMAGES[0])
  seen.append(repr(jax.eval_shape(solve, IMAGES[0])))
  for text in seen:
    assert "code=float32[8, 8, 2],\n  objective=float32[4],\n  iterations=int32[]" in text
  deleted = solve(IMAGES[0])
  deleted.objective.delete()
  assert "objective=float32[4]," in repr(deleted)
