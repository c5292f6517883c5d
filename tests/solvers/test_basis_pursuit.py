"""Tests of basis pursuit denoising against the path of LARS, and of its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from sklearn.linear_model import lars_path

import cscjax
from tests.solvers.problems import augmented, convolutional, dense, flat

TIGHT = {"tolerance": 1e-9, "max_iterations": 50000}
PROBLEMS = {
  "dense": lambda: dense(0, n=20, m=40),
  "strided": lambda: convolutional(padding="SAME", stride=2),
  "augmented": lambda: augmented(padding="SAME"),
}


def reference(d, x, noise, weights=1.0, positive=False):
  """Returns the code and the penalty at which the residual on the path of LARS has the norm `noise`."""
  alphas, _, path = lars_path(d / weights, x, method="lasso", positive=positive)
  order = np.argsort(alphas)

  def code(alpha):
    return np.array([np.interp(alpha, alphas[order], values[order]) for values in path]) / weights

  def excess(alpha):
    return np.linalg.norm(x - d @ code(alpha)) - noise

  alpha = scipy.optimize.brentq(excess, 0, alphas.max(), xtol=1e-14)
  return code(alpha), alpha * len(x)


@pytest.mark.parametrize(
  ("name", "positive"),
  [
    ("dense", False),
    pytest.param("dense", True, marks=pytest.mark.slow),
    pytest.param("strided", False, marks=pytest.mark.slow),
    pytest.param("augmented", True, marks=pytest.mark.slow),
  ],
)
def test_against_the_path_of_lars(x64, name, positive):
  """Each signal of a batch has its own noise; the last one is solved by the zero code."""
  problem = PROBLEMS[name]()
  x = np.stack([problem.x, -3 * problem.x, problem.x])
  size = np.linalg.norm(problem.x)
  noise = size * np.array([0.85, 2.46, 1.01])
  result = cscjax.basis_pursuit(problem.dictionary, x, noise, nonnegative=positive, **TIGHT)
  assert np.all(result.converged)
  for i in range(2):
    code = flat(jax.tree.map(lambda part, i=i: part[i], result.code))
    expected, beta = reference(problem.d, x[i].ravel(), noise[i], positive=positive)
    np.testing.assert_allclose(code, expected, atol=1e-6)
    np.testing.assert_allclose(result.beta[i].item(), beta, rtol=1e-6)
    assert np.count_nonzero(code) > 1
  np.testing.assert_allclose(result.residual_norm, [*noise[:2], size], rtol=1e-8)
  assert not np.any(flat(jax.tree.map(lambda part: part[2], result.code)))


@pytest.mark.slow
def test_weights_and_mask(x64):
  problem = dense(1, n=20, m=40)
  rng = np.random.default_rng(0)
  weights, mask = rng.uniform(0.5, 2, 40), rng.choice([0.0, 0.25, 1.0], 20)
  x = np.where(mask > 0, problem.x, np.nan)
  noise = 0.6 * np.linalg.norm(np.sqrt(mask) * problem.x)
  result = cscjax.basis_pursuit(problem.dictionary, x, noise, weights=weights, mask=mask, **TIGHT)
  root = np.sqrt(mask)
  expected, _ = reference(root[:, None] * problem.d, root * problem.x, noise, weights)
  np.testing.assert_allclose(result.code, expected, atol=1e-6)


@pytest.mark.slow
def test_joint_sparsity_is_the_lasso_of_its_penalty(x64):
  problem = convolutional(padding="SAME")
  noise = 0.7 * np.linalg.norm(problem.x)
  result = cscjax.basis_pursuit(problem.dictionary, problem.x, noise, joint_axes=-1, **TIGHT)
  same = cscjax.fista(problem.dictionary, problem.x, result.beta, joint_axes=-1, restart=True, **TIGHT)
  assert bool(result.converged)
  np.testing.assert_allclose(result.residual_norm, noise, rtol=1e-8)
  np.testing.assert_allclose(result.code, same.code, atol=1e-6)


@pytest.mark.slow
def test_noise_that_no_code_reaches(x64):
  """Five atoms in 20 dimensions leave a residual; the result is the least-squares fit."""
  problem = dense(2, n=20, m=5)
  fit = problem.d @ np.linalg.lstsq(problem.d, problem.x)[0]
  smallest = np.linalg.norm(problem.x - fit)
  result = cscjax.basis_pursuit(problem.dictionary, problem.x, 0.9 * smallest)
  assert not bool(result.converged)
  np.testing.assert_allclose(result.residual_norm, smallest, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
  problem = dense(2)
  atoms, x = (jnp.asarray(array, dtype) for array in (problem.d, problem.x))
  result = cscjax.basis_pursuit(cscjax.MatrixDictionary(atoms), x, 0.5)
  exact = [np.asarray(array, np.float32) for array in (atoms, x)]
  expected = cscjax.basis_pursuit(cscjax.MatrixDictionary(exact[0]), exact[1], 0.5)
  assert bool(result.converged)
  assert {array.dtype for array in (result.code, result.beta, result.residual_norm)} == {atoms.dtype}
  for found, wanted in zip(result[:3], expected[:3], strict=True):
    np.testing.assert_allclose(np.asarray(found, np.float32), wanted, rtol=0.01, atol=1e-3)


@pytest.mark.slow
def test_a_signal_with_nan_does_not_hold_up_others():
  """The search ends with that of the other signal, instead of trying all 40 penalties."""
  problem = dense(2)
  x = np.stack([problem.x, problem.x])
  alone = cscjax.basis_pursuit(problem.dictionary, x, 0.5)
  x[0, 3] = np.nan
  result = cscjax.basis_pursuit(problem.dictionary, x, 0.5)
  assert result.converged.tolist() == [False, True]
  assert int(result.iterations) == int(alone.iterations)
  np.testing.assert_array_equal(result.code[1], alone.code[1])
  assert np.all(np.isnan(result.code[0]))


@pytest.mark.slow
def test_derivatives_against_finite_differences(x64):
  problem = dense(3, n=20, m=40)
  weights = np.random.default_rng(0).normal(size=40)

  @jax.jit
  def loss(dictionary, x, noise):
    result = cscjax.basis_pursuit(dictionary, x, noise, **TIGHT)
    return result.code @ weights + jnp.sum(result.beta) + 2 * result.residual_norm

  point = (problem.dictionary, jnp.asarray(problem.x), jnp.asarray(0.5 * np.linalg.norm(problem.x)))
  direction = jax.tree.map(lambda a: np.random.default_rng(1).normal(size=a.shape), point)
  gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*point)
  for i, step in enumerate(direction):
    ends = [
      loss(*point[:i], jax.tree.map(lambda a, d, h=h: a + h * d, point[i], step), *point[i + 1 :])
      for h in (1e-5, -1e-5)
    ]
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient[i], step)))
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-3)
    assert abs(slope) > 1e-2
  zero = jax.grad(loss, argnums=1)(point[0], point[1], jnp.asarray(100.0))
  np.testing.assert_array_equal(np.isfinite(zero), True)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-20, 1e15])
def test_the_code_scales_with_the_signal(scale):
  problem = dense(4)
  dictionary = cscjax.MatrixDictionary(jnp.asarray(problem.d, jnp.float32))
  x = np.float32(problem.x)
  expected = cscjax.basis_pursuit(dictionary, x, 1.0)
  result = cscjax.basis_pursuit(dictionary, x * np.float32(scale), scale)
  assert bool(result.converged)
  np.testing.assert_allclose(result.code / np.float32(scale), expected.code, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("noise", 0.0),
    ("noise", -1.0),
    ("noise", np.ones(3)),
    ("weights", 0.0),
    ("weights", np.ones(5)),
    ("tolerance", 0.0),
    ("max_iterations", 0),
    ("joint_axes", -2),
    ("nonnegative", 1),
  ],
)
def test_bad_input_names_the_argument(name, value):
  problem = dense(0)
  arguments = {"noise": 1.0, name: value}
  with pytest.raises(ValueError, match=rf"^{name}: "):
    cscjax.basis_pursuit(problem.dictionary, problem.x, **arguments)
